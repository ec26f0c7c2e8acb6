"""Decisions and frames as sinks are given them."""

import numpy as np

from edge_agent.decisions.decision import Decision
from edge_agent.sources.item import Frame
from shared.wire.records import (
    Box,
    Classified,
    Crossing,
    Detected,
    Outcome,
    Scored,
    Track,
    Tracked,
    ZoneStanding,
)


def decided(
    outcome: Outcome,
    item: int = 0,
    *,
    sensor: str = "",
    is_held: bool = False,
    version: int = 1,
    captured_ms: int = 1_700_000_000_000,
) -> Decision:
    return Decision(
        pipeline="gate",
        model="cars",
        version=version,
        item=item,
        captured_ms=captured_ms,
        outcome=outcome,
        confidence=0.9,
        latency_ms=5.0,
        inference_ms=3.0,
        sensor=sensor,
        is_held=is_held,
    )


def boxes(*labels: str, confidence: float = 0.9) -> Detected:
    return Detected(tuple(Box(label, confidence, 0.2, 0.2, 0.6, 0.8) for label in labels))


def classified(label: str, confidence: float = 0.9) -> Classified:
    return Classified(label=label, confidence=confidence)


def scored(score: float) -> Scored:
    return Scored(score=score, threshold=1.0, is_anomalous=score > 1.0)


def tracked(
    *labels: str, in_zone: int = 0, dwell_s: float = 0.0, total: int = 0, crosses: bool = False
) -> Tracked:
    """One line "gate" and one zone "yard"."""
    tracks = tuple(Track(i + 1, b, 0.9, 0.2, 0.2, 0.6, 0.8, 1.5) for i, b in enumerate(labels))
    return Tracked(
        tracks=tracks,
        crossings=(Crossing("gate", "in", 1, "car"),) if crosses else (),
        zones=(ZoneStanding("yard", in_zone, dwell_s),),
        totals={"gate/in": total, "gate/out": 0},
    )


def frame(
    sequence: int = 0, *, height: int = 240, width: int = 320, gray: int = 90, at_s: float = 0.0
) -> Frame:
    pixels = np.full((height, width, 3), gray, np.uint8)
    return Frame(pixels, sequence, captured_ms=1_700_000_000_000, captured_s=at_s)
