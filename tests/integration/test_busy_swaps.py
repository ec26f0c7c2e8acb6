"""A device under load: many swaps leave nothing, and a release that harms its process never serves.

The long form of the first, with its limits, is tests/benchmarks/bench_swaps.py.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from shared.wire.target import TrialPolicy
from tests.benchmarks.bench_swaps import measure
from tests.support.busy_device import BusyDevice, worker_pids
from tests.support.onnx_models import write_endless_model, write_greedy_model
from tests.support.tiny_items import SAMPLES
from tests.support.tiny_releases import Kind, publish
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

POLICY = TrialPolicy(items_min=30, latency_ms_floor=1000.0)
RUN_S_MAX = 0.3
PAUSE_MS_MAX = 3000  # Measured: 30 ms; a crowded machine pauses anybody


@pytest.mark.timeout(240)
def test_six_swaps_under_load_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    figures = measure(tmp_path, swaps=6)
    assert figures["is_within"], figures
    assert figures["items"] > 1000


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("write", "code"),
    [(write_endless_model, "worker.stuck"), (write_greedy_model, "worker.memory")],
)
def test_a_release_that_harms_its_process_is_refused_while_the_other_decides(
    tmp_path: Path, write: Callable[..., Path], code: str
) -> None:
    store = tmp_path / "store"
    good = publish(store, version=1, kind=Kind.GOOD, policy=POLICY)
    file = write(tmp_path / "harmful.onnx", samples=SAMPLES)
    harmful = publish(store, version=2, kind=Kind.UNLOADABLE, file=file, policy=POLICY)
    with BusyDevice(tmp_path, store, windows_per_s=100.0, run_s_max=RUN_S_MAX) as device:
        device.bring(good)
        serving = device.bench.active.line.serving
        (worker,) = worker_pids()
        before = device.numbers.items_decided
        device.ask_for(harmful)
        report = device.refused(version=2)
        device.decide(20)

        assert report.failure is not None
        assert (report.failure.code, report.version) == (code, 1)
        assert device.bench.active.line.serving is serving
        assert worker_pids() == {worker}, "the serving process goes on, the other one is gone"
        assert psutil.Process(worker).memory_info().rss < 1 << 30
        quarantined = device.bench.journal.quarantine
        assert [entry.manifest_digest for entry in quarantined] == [harmful.manifest_digest]
        device.ask_for(harmful)  # The same again: it is not even fetched
        device.decide(20)
        assert device.bench.peer.fetches.count(harmful.manifest_digest) == 1
        assert device.numbers.items_decided - before >= 40
        assert (device.numbers.items_failed, device.numbers.items_dropped) == (0, 0)
    decisions = device.decisions()
    assert [decision.item for decision in decisions] == list(range(len(decisions)))
    assert {decision.version for decision in decisions} == {1}
    waits_ms = [after.captured_ms - then.captured_ms for then, after in pairwise(decisions)]
    assert max(waits_ms) < PAUSE_MS_MAX, "it stopped for the other's sake"
    wait_until(lambda: not worker_pids())
