"""TrySummary: what came of trying a model on a source, counted item by item, and told.

What must not live here: where items come from, where the words are printed.
"""

import resource
import statistics
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.inference.item_runner import ItemRun, ItemRunner
from edge_agent.sinks.due import labels_of
from edge_agent.sources.item import Frame, Item
from shared.errors import RefusedError
from shared.wire.records import Detected, Outcome

LABELS_SHOWN_MAX = 20
LATENCIES_MAX = 100_000
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class TrySummary:
    """What came of a try."""

    model: str
    runtime: str
    source: str
    items: int
    items_failed: int
    first_failure: str
    seconds: float
    fps: float  # Items a second, capture included
    inference_ms_p50: float
    inference_ms_p95: float
    rss_mb_max: float  # Of this process, from its start
    confidence_mean: float  # Of the items in which something was found
    labels: dict[str, int]  # Items of a class; boxes of a class; "anomalous" and "normal"
    items_with_boxes: int
    snapshot: str  # Where it was written; empty if it was not


def summary_as_json(summary: TrySummary) -> bytes:
    """Return a summary as one line of JSON."""
    return msgspec.json.encode(asdict(summary))


def summary_as_text(summary: TrySummary) -> str:
    """Return a summary for a person, several lines."""
    found = ", ".join(f"{label} {count}" for label, count in summary.labels.items()) or "nothing"
    lines = [
        f"{summary.items} items of {summary.source} in {summary.seconds:.1f} s: "
        f"{summary.fps:.1f} a second",
        f"inference: median {summary.inference_ms_p50:.2f} ms, "
        f"95 % within {summary.inference_ms_p95:.2f} ms ({summary.runtime})",
        f"memory: {summary.rss_mb_max:.0f} MB at most",
        f"found: {found}"
        + (f"; mean confidence {summary.confidence_mean:.2f}" if summary.labels else ""),
    ]
    if summary.items_failed:
        lines.append(f"failed: {summary.items_failed} items; the first: {summary.first_failure}")
    if summary.snapshot:
        lines.append(f"snapshot: {summary.snapshot}")
    return "\n".join(lines)


class Tally:
    """Counts what comes; keeps the frame of which the model is surest."""

    def __init__(self, runner: ItemRunner) -> None:
        self._runner = runner
        self._latencies_ms: list[float] = []
        self._confidences = 0.0
        self._labels: Counter[str] = Counter()
        self._confident = 0  # Items that have a confidence
        self._items = self._items_failed = self._items_with_boxes = 0
        self._first_failure = ""
        self._best_rank = (-1.0, -1.0)
        self.best: tuple[NDArray[np.uint8], Outcome] | None = None

    def add(self, item: Item) -> ItemRun | None:
        """Run the model on one item; None: it failed, which is counted."""
        self._items += 1
        try:
            run = self._runner.run(item)
        except RefusedError as error:
            self._items_failed += 1
            self._first_failure = self._first_failure or str(error)
            return None
        outcome = run.conclusion.outcome
        if len(self._latencies_ms) < LATENCIES_MAX:
            self._latencies_ms.append(run.inference_ms)
        is_empty = isinstance(outcome, Detected) and not outcome.boxes
        self._labels.update(labels_of(outcome))
        self._items_with_boxes += isinstance(outcome, Detected) and not is_empty
        if not is_empty:
            self._confidences += run.conclusion.confidence
            self._confident += 1
        rank = _rank(outcome, run.conclusion.confidence)
        if isinstance(item, Frame) and rank > self._best_rank:
            self._best_rank = rank
            self.best = (item.pixels, outcome)
        return run

    def summary(
        self, *, model: str, runtime: str, source: str, seconds: float, snapshot: str
    ) -> TrySummary:
        """Return what was counted."""
        return TrySummary(
            model=model,
            runtime=runtime,
            source=source,
            items=self._items,
            items_failed=self._items_failed,
            first_failure=self._first_failure,
            seconds=seconds,
            fps=self._items / seconds if seconds > 0 else 0.0,
            inference_ms_p50=statistics.median(self._latencies_ms or [0.0]),
            inference_ms_p95=float(np.percentile(self._latencies_ms or [0.0], 95)),
            rss_mb_max=memory_mb_max(),
            confidence_mean=self._confidences / max(self._confident, 1),
            labels=dict(self._labels.most_common(LABELS_SHOWN_MAX)),
            items_with_boxes=self._items_with_boxes,
            snapshot=snapshot,
        )


def _rank(outcome: Outcome, confidence: float) -> tuple[float, float]:
    """Return what makes a frame worth showing: sure boxes, many of them, then confidence."""
    if isinstance(outcome, Detected):
        return (sum(box.confidence for box in outcome.boxes), confidence)
    return (confidence, 0.0)


def memory_mb_max() -> float:
    """Return the most memory this process ever had, in MB of 10^6 bytes.

    Not ru_maxrss where /proc has it: that one starts with what the process had that started us.
    """
    try:
        kib = int(STATUS.read_text().split("VmHWM:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib * 1024 / 1e6
