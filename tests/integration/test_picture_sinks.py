"""SnapshotSink and ClipSink: real files of real frames."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.sinks.opencv_clips import ClipSink
from edge_agent.sinks.opencv_drawing import (
    MASK_BGR,
    PLACE_BGR,
    RED_BGR,
    draw_outcome,
    encode_jpeg,
)
from edge_agent.sinks.opencv_snapshots import QUEUE_MAX, SnapshotSink
from edge_agent.sinks.overlay import Overlay, overlay_of
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sinks import ClipSinkSettings, SnapshotSinkSettings
from shared.settings import parse_toml
from shared.wire.records import Estimated, Outcome, Segmented
from tests.support.drawn_videos import frames, probe
from tests.support.manual_clock import ManualClock
from tests.support.sink_results import boxes, classified, decided, frame, scored, tracked
from tests.support.waiting import wait_until

ZONE = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))
PLACES = Overlay(lines=(("gate", ((0.0, 0.5), (1.0, 0.5))),), zones=(("yard", ZONE),))


# Drawing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    [
        boxes("car"),
        tracked("car", in_zone=1),
        classified("cat"),
        scored(0.4),
        Estimated((1.0, 2.0, 3.0, 4.0, 5.0)),
        Segmented({"road": 0.7, "sky": 0.3}),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_every_outcome_is_drawn_on_a_copy(outcome: Outcome) -> None:
    pixels = frame().pixels
    before = pixels.copy()
    picture = draw_outcome(pixels, outcome)
    assert (pixels == before).all()
    assert (picture != draw_outcome(pixels, None)).any()


def test_lines_and_zones_are_drawn_where_they_are() -> None:
    picture = draw_outcome(frame(height=400, width=400).pixels, tracked(), overlay=PLACES)
    assert tuple(picture[200, 380]) == PLACE_BGR  # The line
    assert abs(picture[300, 40].astype(int) - PLACE_BGR).max() < 16  # The zone's left side
    assert tuple(picture[300, 200]) == (90, 90, 90)


def test_an_alarm_is_red() -> None:
    pixels = frame(height=400, width=400).pixels
    assert (draw_outcome(pixels, scored(2.0)) == RED_BGR).all(axis=2).any()
    assert not (draw_outcome(pixels, scored(0.2)) == RED_BGR).all(axis=2).any()


def test_masks_are_painted_over_with_and_without_an_outcome() -> None:
    overlay = Overlay(masks=(((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),))
    for outcome in (None, boxes()):
        picture = draw_outcome(frame(height=400, width=400).pixels, outcome, overlay=overlay)
        assert (picture[:, :200] == MASK_BGR).all()
        assert (picture[:, 202:] == 90).all()


@pytest.mark.parametrize(("side_max", "shape"), [(0, (480, 640, 3)), (320, (240, 320, 3))])
def test_large_frames_are_made_smaller(side_max: int, shape: tuple[int, ...]) -> None:
    assert draw_outcome(frame(height=480, width=640).pixels, None, side_max=side_max).shape == shape


@pytest.mark.parametrize(("width", "height"), [(1, 1), (8192, 17), (1, 2160), (66_000, 2)])
def test_a_frame_of_any_shape_becomes_a_picture(width: int, height: int) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    picture = draw_outcome(pixels, boxes("scratch"), overlay=PLACES)
    assert encode_jpeg(picture, quality=80)


def test_the_overlay_is_what_the_settings_say() -> None:
    text = """
        name = "gate"
        model = "cars"
        source = {kind = "camera"}
        frames = {masks = [[[0.0, 0.0], [0.1, 0.0], [0.1, 0.1]]]}
        [decisions]
        tracking = {}
        lines = [{name = "gate", points = [[0.0, 0.5], [1.0, 0.5]]}]
        zones = [{name = "yard", points = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]}]
    """
    overlay = overlay_of(parse_toml(text.encode(), PipelineSettings, name="test"))
    assert (overlay.lines, overlay.zones) == (PLACES.lines, PLACES.zones)
    assert len(overlay.masks) == 1


# Snapshots --------------------------------------------------------------------------------------


def snapshots(path: Path, clock: ManualClock, **options: object) -> SnapshotSink:
    limits = {"path": str(path), "free_bytes_min": 1 << 20, **options}
    settings = SnapshotSinkSettings(**limits)  # type: ignore[arg-type]
    return SnapshotSink(settings, pipeline="gate", clock=clock)


def test_a_snapshot_is_a_jpeg_with_the_boxes_drawn(tmp_path: Path) -> None:
    clock = ManualClock()
    sink = snapshots(tmp_path, clock, interval_s=5.0)
    sink.start()
    taken = frame()
    sink(decided(boxes("car")), taken)
    taken.pixels[:] = 0  # The source uses its buffer again
    clock.advance(1.0)
    sink(decided(boxes("bus")), frame())  # Too soon
    clock.advance(5.0)
    sink(decided(boxes("cat", confidence=0.2)), frame())  # Not sure enough
    sink(decided(boxes("dog"), captured_ms=1_700_000_010_000), frame())
    wait_until(lambda: len(list(tmp_path.glob("gate/*.jpg"))) == 2)
    sink.close()
    files = sorted((tmp_path / "gate").iterdir())
    assert [file.name for file in files] == [
        "20231114T221320.000Z_gate_car.jpg",
        "20231114T221330.000Z_gate_dog.jpg",
    ]
    picture = cv2.imread(str(files[0]))
    assert picture is not None
    assert picture.shape == (480, 640, 3)
    assert abs(int(picture[475, 635].mean()) - 90) < 4  # The frame as it was
    assert picture.std() > 5  # And something on it
    assert files[0].stat().st_mode & 0o007 == 0
    assert sink.lost_count == 0


def test_a_disk_that_is_low_costs_pictures_and_nothing_else(tmp_path: Path) -> None:
    clock = ManualClock()
    free = shutil.disk_usage(tmp_path).free
    sink = snapshots(tmp_path, clock, interval_s=0.0, free_bytes_min=free * 2)
    sink.start()
    sink(decided(boxes("car")), frame())
    wait_until(lambda: sink.lost_count == 1)
    assert "left free" in sink.standing
    sink.close()
    assert list((tmp_path / "gate").iterdir()) == []


def test_a_disk_that_is_too_slow_costs_pictures(tmp_path: Path) -> None:
    sink = snapshots(tmp_path, ManualClock(), interval_s=0.0)
    for i in range(QUEUE_MAX + 3):  # Nobody writes yet
        sink(decided(boxes("car"), i), frame())
    assert sink.lost_count == 3
    sink.close()
    assert sink.lost_count == 3 + QUEUE_MAX


# Clips ------------------------------------------------------------------------------------------

STEP_S = 0.2  # The clip's own rate: 5 frames a second


class Camera:
    """Gives a ClipSink frames; each is brighter than the one before."""

    def __init__(self, sink: ClipSink, clock: ManualClock) -> None:
        self._sink, self._clock, self._count = sink, clock, 0

    def show(self, count: int, *labels: str) -> None:
        for _ in range(count):
            wait_until(lambda: len(self._sink._waiting) < 4)
            self._clock.advance(STEP_S)
            item = frame(self._count, gray=40 + self._count)
            self._count += 1
            at_ms = int(self._clock.now_s() * 1000)
            self._sink(decided(boxes(*labels), captured_ms=at_ms), item)


def clips(path: Path, clock: ManualClock, **options: object) -> ClipSink:
    limits = {
        "path": str(path),
        "before_s": 1.0,
        "after_s": 1.0,
        "free_bytes_min": 1 << 20,
        "annotated": False,
        **options,
    }
    return ClipSink(ClipSinkSettings(**limits), pipeline="gate", clock=clock)  # type: ignore[arg-type]


def written(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


@pytest.mark.slow
def test_a_clip_has_what_was_before_and_after(tmp_path: Path) -> None:
    clock = ManualClock()
    sink = clips(tmp_path, clock)
    sink.start()
    camera = Camera(sink, clock)
    camera.show(20)
    camera.show(1, "car")
    camera.show(3)
    camera.show(1, "bus")  # It goes on
    camera.show(10)
    sink.close()
    (file,) = written(tmp_path)
    codec, count, fps = probe(file)
    assert codec == "vp8"  # What browsers play
    assert file.suffix == ".webm"
    assert fps == 5.0
    # 1 s before the car, 0.8 s until the bus, and 1 s after it.
    assert abs(count - 14) <= 1
    assert "gate_car" in file.name
    grays = [float(np.median(picture)) for picture in frames(file)]
    assert abs(grays[0] - (40 + 15)) < 3  # The first that was held back
    assert grays == sorted(grays)
    assert sink.lost_count == 0


@pytest.mark.slow
def test_a_clip_ends_at_its_longest_and_another_begins(tmp_path: Path) -> None:
    clock = ManualClock()
    sink = clips(tmp_path, clock, clip_s_max=2.0)
    sink.start()
    Camera(sink, clock).show(25, "car")
    sink.close()
    files = written(tmp_path)
    assert len(files) == 3
    assert [probe(file)[1] for file in files[:2]] == [10, 10]


@pytest.mark.slow
def test_a_source_that_stalls_ends_the_clip(tmp_path: Path) -> None:
    clock = ManualClock()
    sink = clips(tmp_path, clock)
    sink.start()
    Camera(sink, clock).show(1, "car")
    wait_until(lambda: sink._clip is not None)
    clock.advance(2.0)
    wait_until(lambda: [file.suffix for file in written(tmp_path)] == [".webm"])
    wait_until(lambda: not written(tmp_path)[0].name.startswith("."))
    assert abs(probe(written(tmp_path)[0])[1] - 5) <= 1  # 1 s of the last frame
    sink.close()


@pytest.mark.slow
def test_frames_held_back_stay_under_their_bytes(tmp_path: Path) -> None:
    clock = ManualClock()
    sink = clips(tmp_path, clock, before_s=30.0, memory_bytes_max=1 << 20)
    sink.start()
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)
    for i in range(40):
        wait_until(lambda: len(sink._waiting) < 4)
        clock.advance(STEP_S)
        item = frame(i)
        item.pixels[:] = noise
        sink(decided(boxes()), item)
    wait_until(lambda: not sink._waiting)
    sink.close()
    assert 1 << 19 < sink._held_bytes <= 1 << 20
    assert sink._held_bytes == sum(len(held.jpeg) for held in sink._held)
    assert written(tmp_path) == []


@pytest.mark.slow
def test_a_disk_that_is_low_costs_the_clip(tmp_path: Path) -> None:
    clock = ManualClock()
    sink = clips(tmp_path, clock, free_bytes_min=shutil.disk_usage(tmp_path).free * 2)
    sink.start()
    Camera(sink, clock).show(3, "car")
    wait_until(lambda: sink.lost_count > 0)
    sink.close()
    assert "left free" in sink.standing
    assert written(tmp_path) == []
