"""Decision and MissedItem: what came of one item. Values only."""

from dataclasses import dataclass

from shared.wire.records import Outcome


@dataclass(frozen=True, slots=True)
class Decision:
    """What the device concluded from one item."""

    pipeline: str
    model: str
    version: int
    item: int  # Sequence number at the source, from 0
    captured_ms: int  # Wall clock, milliseconds since 1970
    outcome: Outcome
    confidence: float  # 0..1: how sure; see each task's module for how it is told
    latency_ms: float  # From captured to decided
    inference_ms: float  # Preprocess, run, postprocess
    swap_pause_ms: float = 0.0  # Of the first item after a swap: what it waited because of it
    sensor: str = ""  # Of a source of many sensors: which one
    is_held: bool = False  # Nothing moved: what was concluded last, told again


@dataclass(frozen=True, slots=True)
class MissedItem:
    """An item on which inference failed."""

    pipeline: str
    model: str
    version: int
    item: int
    code: str  # The error's code


ItemResult = Decision | MissedItem
