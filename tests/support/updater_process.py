"""One process of a device's updater that may lose power: forked, run, ended by os._exit."""

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from shared.wire.target import Target
from tests.support.updater_bench import Bench

POWER_CUT = 137


@dataclass(frozen=True)
class Seen:
    """What one process saw of itself."""

    points: list[str]  # Every act it passed
    settled_at_start: int  # Version that the journal named
    serving_at_start: int
    serving: int
    state: str
    settled: int
    failure: str | None
    receipt_version: int  # 0: none
    receipt_outcome: str
    gaps_count: int  # Steps after which nothing served although something had


def live(state: str, store: str, target: bytes, cut_at: int, seen_path: str) -> None:
    """Live one process: start, follow the Target until at rest; die at the `cut_at`-th act."""
    logging.disable(logging.CRITICAL)
    points: list[str] = []

    def cut(name: str) -> None:
        points.append(name)
        if len(points) == cut_at:
            os._exit(POWER_CUT)

    bench = Bench(Path(state), Path(store), cut=cut)
    settled_at_start = _settled(bench)
    bench.start()
    serving_at_start = bench.serving
    if target:
        bench.updater.set_target(msgspec.json.decode(target, type=Target))
    gaps_count = _settle(bench, serving_at_start)
    receipt = bench.receipt
    seen = Seen(
        points=points,
        settled_at_start=settled_at_start,
        serving_at_start=serving_at_start,
        serving=bench.serving,
        state=bench.model.state,
        settled=_settled(bench),
        failure=bench.model.failure.code if bench.model.failure else None,
        receipt_version=receipt.version if receipt else 0,
        receipt_outcome=receipt.outcome if receipt else "",
        gaps_count=gaps_count,
    )
    Path(seen_path).write_text(json.dumps(asdict(seen)))
    os._exit(0)


def _settle(bench: Bench, serving_at_start: int) -> int:
    gaps_count, before = 0, None
    for _ in range(60):
        bench.step(items=10)
        gaps_count += bool(serving_at_start and not bench.serving)
        now = bench.model
        if now == before and now.state in ("idle", "refused"):
            break
        before = now
    return gaps_count


def _settled(bench: Bench) -> int:
    journal = bench.journals.read("tones")
    return journal.settled.version if journal and journal.settled else 0
