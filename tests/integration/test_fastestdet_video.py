"""A real detector on a real video: what was counted by hand is found, and in little memory.

SOURCE.md of the video counts by hand which frames hold a car. The camera looks down steeply, which
COCO's pictures hardly do: FastestDet puts its boxes on the cars exactly, and calls most of them
"cell phone". What is tested is therefore that something is found where and when a car is.
"""

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.command_line.try_model import run_try
from edge_agent.command_line.try_summary import summary_as_json, summary_as_text
from edge_agent.inference.item_runner import ItemRunner
from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.sources.opening import open_source
from shared.clock import SystemClock
from shared.model.spec import parse_spec
from shared.pipeline.decisions import DecisionSettings
from shared.pipeline.sources import Pace, VideoSettings
from shared.wire.records import Box, Detected
from tests.benchmarks.bench_infer_rss import RSS_MB_MAX, SPEC, make_int8, measure
from tests.support.requirements import require_data

pytestmark = pytest.mark.slow

CAR_INTERVALS = ((55, 110), (182, 239), (316, 347))  # By hand, within 3 frames
FRAMES_COUNT = 377
AREA_MIN = 0.02  # Of the frame; the smallest whole car has 0.05


def boxes_by_frame(model: Path) -> list[tuple[Box, ...]]:
    video = require_data("data/video/car-detection.mp4")
    clock = SystemClock()
    session = load_onnx_session(model, parse_spec(SPEC.read_bytes()))
    runner = ItemRunner(session, DecisionSettings(), clock)
    source = open_source(VideoSettings(path=str(video), pace=Pace.AS_FAST), clock)
    source.open()
    found: list[tuple[Box, ...]] = []
    while (item := source.read(threading.Event())) is not None:
        outcome = runner.run(item).conclusion.outcome
        assert isinstance(outcome, Detected)
        found.append(tuple(box for box in outcome.boxes if area(box) >= AREA_MIN))
    source.close()
    return found


def area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)


def centre(box: Box) -> float:
    return (box.left + box.right) / 2


def check_cars_are_found(found: list[tuple[Box, ...]], *, share_min: float) -> None:
    assert len(found) == FRAMES_COUNT
    occupied = {frame for start, end in CAR_INTERVALS for frame in range(start, end)}
    for start, end in CAR_INTERVALS:
        hits = sum(bool(found[frame]) for frame in range(start, end))
        assert hits / (end - start) >= share_min, f"{hits} of {end - start} frames"
    near = {frame + by for frame in occupied for by in range(-3, 4)}
    assert [frame for frame in range(FRAMES_COUNT) if found[frame] and frame not in near] == []


def test_cars_are_found_when_they_are_there_and_only_then() -> None:
    found = boxes_by_frame(require_data("models/FastestDet.onnx"))
    check_cars_are_found(found, share_min=0.65)
    # In the middle of the second interval a silver car is on the left and a red one beside it.
    middle = range(205, 216)
    assert sum(any(centre(box) < 0.4 for box in found[frame]) for frame in middle) >= 9
    assert sum(any(centre(box) > 0.4 for box in found[frame]) for frame in middle) >= 9
    assert all(0.15 < centre(box) < 0.65 for frame in middle for box in found[frame])


def test_a_box_lies_on_the_car() -> None:
    """Frame 80: a white car on dark asphalt; the box is where the picture is bright."""
    found = boxes_by_frame(require_data("models/FastestDet.onnx"))[80]
    capture = cv2.VideoCapture(str(require_data("data/video/car-detection.mp4")))
    for _ in range(81):
        _, pixels = capture.read()
    bright = (pixels.max(axis=2) > 150).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(bright)
    left, top, width, height, _ = max(stats[1:], key=lambda row: row[cv2.CC_STAT_AREA])
    (box,) = found
    rows, columns = pixels.shape[:2]
    assert box.left * columns == pytest.approx(left, abs=25)
    assert box.right * columns == pytest.approx(left + width, abs=25)
    assert box.top * rows == pytest.approx(top, abs=40)  # Dark glass at both ends
    assert box.bottom * rows == pytest.approx(top + height, abs=40)


def test_an_agent_that_only_infers_stays_small_and_int8_finds_the_cars(
    tmp_path: Path,
) -> None:
    int8 = make_int8(tmp_path)
    check_cars_are_found(boxes_by_frame(int8), share_min=0.6)
    measured = measure(int8, require_data("data/video/car-detection.mp4"))
    assert measured["items"] == FRAMES_COUNT
    assert measured["items_failed"] == 0
    assert measured["forbidden_loaded"] == []
    assert float(str(measured["rss_mb_max"])) <= RSS_MB_MAX


def test_a_stranger_tries_it_and_gets_a_picture_with_boxes(tmp_path: Path) -> None:
    picture = tmp_path / "best.png"
    video = require_data("data/video/car-detection.mp4")
    summary = run_try(
        require_data("models/FastestDet.onnx"), SPEC, str(video), items_max=120, snapshot=picture
    )
    assert (summary.items, summary.items_failed) == (120, 0)
    assert 20 <= summary.items_with_boxes <= 60
    assert summary.confidence_mean >= 0.35  # The spec's confidence_min: of items with boxes only
    drawn = cv2.imread(str(picture))
    assert drawn is not None
    assert drawn.shape == (432, 768, 3)
    saturation = cv2.cvtColor(drawn, cv2.COLOR_BGR2HSV)[:, :, 1]
    assert (saturation > 150).sum() > 500  # The boxes; asphalt and car are gray
    assert "120 items of the video" in summary_as_text(summary)
    assert json.loads(summary_as_json(summary))["items"] == 120


def test_the_face_detector_puts_its_box_on_the_head(tmp_path: Path) -> None:
    """No face is seen in these videos; a worker's head, from behind, is taken for one 3 times."""
    video = require_data("data/video/worker-zone-detection.gif")
    spec = SPEC.with_name("rfb320.toml")
    model = require_data("models/version-RFB-320.onnx")
    summary = run_try(model, spec, str(video), items_max=0, snapshot=tmp_path / "head.png")
    assert (summary.items, summary.items_failed) == (71, 0)
    assert summary.labels == {"face": 3}
    clock = SystemClock()
    runner = ItemRunner(
        load_onnx_session(model, parse_spec(spec.read_bytes())), DecisionSettings(), clock
    )
    source = open_source(VideoSettings(path=str(video), pace=Pace.AS_FAST), clock)
    source.open()
    frames = [source.read(threading.Event()) for _ in range(17)]
    source.close()
    assert frames[16] is not None
    outcome = runner.run(frames[16]).conclusion.outcome
    assert isinstance(outcome, Detected)
    (box,) = outcome.boxes
    assert (box.left, box.top) == pytest.approx((0.368, 0.399), abs=0.02)
    assert (box.right, box.bottom) == pytest.approx((0.420, 0.493), abs=0.02)
