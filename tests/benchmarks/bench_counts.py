"""Cars over a line on a real video, counted by tracks, beside the count by hand.

Prints one JSON line. The camera looks down steeply; FastestDet puts its boxes on the cars exactly
and gives them other names of COCO, so labels are not asked for and a track may change its label.
"""

import json
import threading
import time
from pathlib import Path

from edge_agent.decisions.concluder import Concluder
from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.sources.item import Frame, own_time_s
from edge_agent.sources.opening import open_source
from shared.clock import SystemClock
from shared.model.opencv_resize import FrameResizer
from shared.model.preprocess import to_tensor
from shared.model.spec import ImageInput, parse_spec
from shared.pipeline.decisions import (
    Anchor,
    DecisionSettings,
    LineSettings,
    TrackingSettings,
)
from shared.pipeline.sources import Pace, VideoSettings
from shared.wire.records import Tracked
from tests.support.requirements import require_data

SPEC = Path(__file__).parents[2] / "deploy" / "examples" / "fastestdet.toml"
CARS_BY_HAND = 4  # SOURCE.md of the video

SETTINGS = DecisionSettings(
    confidence_min=0.2,
    tracking=TrackingSettings(
        high_min=0.4, low_min=0.2, new_min=0.45, hits_min=3, lost_s_max=1.0, by_label=False
    ),
    lines=(
        LineSettings(
            name="road", points=((0.0, 0.5), (1.0, 0.5)), anchor=Anchor.CENTRE, margin=0.02
        ),
    ),
)


def count(video: Path, settings: DecisionSettings) -> tuple[list[Tracked], float]:
    """Return what was concluded from each frame of `video`, and how long all of it took."""
    clock = SystemClock()
    spec = parse_spec(SPEC.read_bytes())
    assert isinstance(spec.input, ImageInput), "FastestDet takes images"
    session = load_onnx_session(require_data("models/FastestDet.onnx"), spec)
    concluder, resizer = Concluder(spec, settings), FrameResizer(spec.input)
    source = open_source(VideoSettings(path=str(video), pace=Pace.AS_FAST), clock)
    source.open()
    told: list[Tracked] = []
    started_s = time.perf_counter()
    while (item := source.read(threading.Event())) is not None:
        assert isinstance(item, Frame), "a video gives frames"
        pixels, placement = resizer.resize(item.pixels)
        batch = to_tensor(pixels, spec)
        conclusion = concluder.conclude(
            session.run(batch),
            batch=batch,
            placement=placement,
            at_s=own_time_s(item),
        )
        assert isinstance(conclusion.outcome, Tracked), "tracking is on"
        told.append(conclusion.outcome)
    source.close()
    return told, time.perf_counter() - started_s


def main() -> None:
    """Count, and print."""
    cars, took_s = count(require_data("data/video/car-detection.mp4"), SETTINGS)
    bottles, _ = count(require_data("data/video/bottle-detection.mp4"), SETTINGS)
    tracking, (line,) = SETTINGS.tracking, SETTINGS.lines
    assert tracking is not None, "set above"
    totals = cars[-1].totals
    print(
        json.dumps(
            {
                "bench": "counts",
                "model": "FastestDet fp32",
                "confidence_min": SETTINGS.confidence_min,
                "high_min": tracking.high_min,
                "new_min": tracking.new_min,
                "line": line.points,
                "anchor": line.anchor,
                "cars_by_hand": CARS_BY_HAND,
                "cars": sum(totals.values()),
                "totals": totals,
                "crossings": [
                    [frame, crossing.direction, crossing.track]
                    for frame, tracked in enumerate(cars)
                    for crossing in tracked.crossings
                ],
                "tracks": len({track.track for tracked in cars for track in tracked.tracks}),
                "frames_per_s": round(len(cars) / took_s, 1),
                "bottles_at_once_max": max(len(tracked.tracks) for tracked in bottles),
                "bottle_tracks": len(
                    {track.track for tracked in bottles for track in tracked.tracks}
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
