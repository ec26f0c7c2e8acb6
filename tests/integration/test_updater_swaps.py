"""Threads as on a device: the loop decides every item while the updater swaps under it."""

import itertools
import threading
from pathlib import Path

import pytest

from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.inference.loop import InferenceLoop
from edge_agent.sources.mailbox import Keep, Mailbox
from edge_agent.updates.updater import UpdateSettings
from shared.clock import SystemClock
from shared.wire.report import ModelReport
from shared.wire.target import TrialPolicy
from shared.worker import Worker
from tests.support.tiny_items import window
from tests.support.tiny_releases import Kind, publish
from tests.support.updater_bench import Bench
from tests.support.waiting import wait_until

CLOCK = SystemClock()
POLICY = TrialPolicy(items_min=60, latency_ms_floor=1000.0)


@pytest.mark.slow
def test_no_item_is_lost_through_updates_and_undos(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "state", tmp_path, clock=CLOCK, settings=UpdateSettings(poll_s=0.01))
    mailbox, results = Mailbox(Keep.EVERY), list[ItemResult]()
    loop = InferenceLoop("watch", mailbox, bench.active, sinks=[results.append], clock=CLOCK)
    put_count = 0

    def capture(stop: threading.Event) -> None:
        nonlocal put_count
        for sequence in itertools.count():
            if stop.is_set() or not mailbox.put(window(sequence, CLOCK), stop):
                break
            put_count += 1
            CLOCK.wait(stop, 0.0005)
        mailbox.end()

    def reached(version: int, failed: int | None = None) -> ModelReport | None:
        model = bench.model
        has_failed = failed is None or (model.failure and model.failure.version == failed)
        return model if (model.version, model.state) == (version, "idle") and has_failed else None

    inference = threading.Thread(target=loop.run, args=(threading.Event(),))
    capturing, updating = Worker("capture", capture), Worker("updater", bench.updater.run)
    inference.start()
    capturing.start()
    updating.start()
    try:
        kinds = (Kind.GOOD, Kind.BETTER, Kind.DAMAGED, Kind.GOOD, Kind.FAILING, Kind.GOOD)
        stays = 0
        for version, kind in enumerate(kinds, start=1):
            is_bad = kind in (Kind.DAMAGED, Kind.FAILING)
            release = publish(tmp_path, version=version, kind=kind, policy=POLICY)
            bench.target(release, revision=version)
            stays = stays if is_bad else version
            failed = version if is_bad else None
            wait_until(lambda stays=stays, failed=failed: reached(stays, failed))
            wait_until(lambda stays=stays: results and results[-1].version == stays)  # type: ignore[misc]
    finally:
        assert capturing.stop()
        inference.join(10.0)
        assert updating.stop()
    assert [result.item for result in results] == list(range(put_count))
    versions = [key for key, _ in itertools.groupby(result.version for result in results)]
    assert versions == [1, 2, 3, 2, 4, 5, 4, 6]
    assert all(result.version == 5 for result in results if not isinstance(result, Decision))
    assert (capturing.crashes_count, updating.crashes_count) == (0, 0)
