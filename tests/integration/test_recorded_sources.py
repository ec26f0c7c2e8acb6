"""FolderSource, VideoSource and CsvSource on real files."""

import threading
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.sources.item import Frame, Window, own_time_s
from edge_agent.sources.opening import open_source
from edge_agent.sources.source import Source
from shared.errors import ContractError
from shared.pipeline.sources import (
    CsvSettings,
    FolderSettings,
    Pace,
    ResampleSettings,
    SourceSettings,
    VideoSettings,
    WindowSettings,
)
from tests.support.manual_clock import ManualClock
from tests.support.pictures import brightness, write_pictures, write_video

NEVER = threading.Event()


def opened(settings: SourceSettings, clock: ManualClock | None = None) -> Source:
    source = open_source(settings, clock or ManualClock())
    source.open()
    return source


def open_and_read(source: Source) -> None:
    source.open()
    source.read(NEVER)


def frames_of(source: Source, count: int = 1000) -> list[Frame]:
    found = []
    while len(found) < count and (item := source.read(NEVER)) is not None:
        assert isinstance(item, Frame)
        found.append(item)
    source.close()
    return found


def windows_of(source: Source, count: int = 1000) -> list[Window]:
    found = []
    while len(found) < count and (item := source.read(NEVER)) is not None:
        assert isinstance(item, Window)
        found.append(item)
    source.close()
    return found


def test_a_folder_is_shown_in_order_at_its_pace(tmp_path: Path) -> None:
    clock = ManualClock()
    folder = write_pictures(tmp_path / "p", [10, 20, 30])
    (folder / "notes.txt").write_text("not a picture")
    found = frames_of(opened(FolderSettings(path=str(folder), fps=4.0), clock))
    assert [brightness(frame.pixels) for frame in found] == [10, 20, 30]
    assert [frame.sequence for frame in found] == [0, 1, 2]
    assert [frame.captured_s - found[0].captured_s for frame in found] == [0.0, 0.25, 0.5]
    assert found[0].captured_ms == 1_700_000_000_000
    assert found[2].captured_ms == 1_700_000_000_500


def test_a_looped_folder_goes_on_counting(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p", [10, 20])
    found = frames_of(opened(FolderSettings(path=str(folder), loop=True)), 5)
    assert [brightness(frame.pixels) for frame in found] == [10, 20, 10, 20, 10]
    assert [frame.sequence for frame in found] == [0, 1, 2, 3, 4]


def test_a_folder_that_is_opened_again_halfway_goes_on_counting(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p", [10, 20, 30])
    source = opened(FolderSettings(path=str(folder), fps=2.0), ManualClock())
    before = frames_of(source, 2)
    source.open()
    found = [*before, *frames_of(source)]
    assert [brightness(frame.pixels) for frame in found] == [10, 20, 10, 20, 30]
    assert [frame.sequence for frame in found] == [0, 1, 2, 3, 4]
    assert [own_time_s(frame) for frame in found] == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_a_broken_picture_leaves_a_gap_in_the_numbers(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p", [10, 20, 30])
    (folder / "001.png").write_bytes(b"\x89PNG broken")
    found = frames_of(opened(FolderSettings(path=str(folder))))
    assert [(f.sequence, brightness(f.pixels)) for f in found] == [(0, 10), (2, 30)]


def test_a_video_plays_at_its_own_pace(tmp_path: Path) -> None:
    clock, start_s = ManualClock(), 1000.0
    path = write_video(tmp_path / "v.avi", [0, 100, 200], fps=10.0)
    found = frames_of(opened(VideoSettings(path=str(path)), clock))
    assert [brightness(f.pixels) for f in found] == pytest.approx([0, 100, 200], abs=3)
    assert [f.captured_s - start_s for f in found] == pytest.approx([0.0, 0.1, 0.2])


def test_a_video_as_fast_as_frames_are_taken_never_waits(tmp_path: Path) -> None:
    clock = ManualClock()
    path = write_video(tmp_path / "v.avi", [0, 100, 200])
    assert len(frames_of(opened(VideoSettings(path=str(path), pace=Pace.AS_FAST), clock))) == 3
    assert clock.monotonic_s() == 1000.0


@pytest.mark.parametrize("pace", Pace)
def test_a_limit_of_frames_a_second_is_of_the_videos_own_time(tmp_path: Path, pace: Pace) -> None:
    clock = ManualClock()
    path = write_video(tmp_path / "v.avi", [0, 20, 40, 60, 80, 100, 120, 140], fps=10.0)
    source = open_source(VideoSettings(path=str(path), pace=pace), clock, fps_max=5.0)
    source.open()
    found = frames_of(source)
    assert [brightness(f.pixels) for f in found] == pytest.approx([0, 40, 80, 120], abs=3)
    assert [f.sequence for f in found] == [0, 2, 4, 6]
    seconds = 0.2 if pace is Pace.REALTIME else 0.0
    assert [f.captured_s - found[0].captured_s for f in found] == pytest.approx(
        [0.0, seconds, 2 * seconds, 3 * seconds]
    )


def test_a_looped_video_goes_on_counting(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", [0, 200])
    found = frames_of(opened(VideoSettings(path=str(path), loop=True)), 5)
    assert [frame.sequence for frame in found] == [0, 1, 2, 3, 4]
    assert [brightness(f.pixels) for f in found] == pytest.approx([0, 200, 0, 200, 0], abs=3)


def test_a_frame_is_its_own_though_the_next_was_read(tmp_path: Path) -> None:
    source = opened(VideoSettings(path=str(write_video(tmp_path / "v.avi", [0, 200]))))
    first, _ = source.read(NEVER), source.read(NEVER)
    source.close()
    assert isinstance(first, Frame)
    assert brightness(first.pixels) < 5


def make_empty_folder(tmp_path: Path) -> SourceSettings:
    return FolderSettings(path=str(tmp_path))


def make_broken_pictures(tmp_path: Path) -> SourceSettings:
    (tmp_path / "a.png").write_bytes(b"no")
    return FolderSettings(path=str(tmp_path), loop=True)


def make_broken_video(tmp_path: Path) -> SourceSettings:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    return VideoSettings(path=str(tmp_path / "a.mp4"), loop=True)


def make_csv(tmp_path: Path, text: str | bytes, **options: object) -> CsvSettings:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return CsvSettings(
        **{"path": str(path), "columns": ("x",), "window": WindowSettings(samples=2), **options}  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (lambda p: FolderSettings(path=str(p / "no")), "source.missing", "No such file"),
        (make_empty_folder, "source.empty", ".png"),
        (make_broken_pictures, "source.undecodable", "None of the 1 images"),
        (lambda p: VideoSettings(path=str(p / "no.mp4")), "source.missing", "no video"),
        (make_broken_video, "source.undecodable", "No frame"),
        (lambda p: make_csv(p, "", columns=("x",)), "source.column", "columns are: none"),
        (
            lambda p: make_csv(p, "time,speed,load\n1,2,3\n"), "source.column",
            "no column 'x'. Its columns are: time, speed, load.",
        ),
        (lambda p: make_csv(p, "x\n1\n"), "source.empty", "2 good rows together"),
        (lambda p: make_csv(p, "x\n1\n\n\n", loop=True), "source.empty", "shorter window"),
        (lambda p: make_csv(p, b"x\n\xff\xfe\n1\n"), "source.undecodable", "UTF-8"),
        (
            lambda p: CsvSettings(
                path=str(p / "no.csv"), columns=("x",), window=WindowSettings(samples=1)
            ),
            "source.missing", "Check the path",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, make: object, code: str, says: str) -> None:
    source = open_source(make(tmp_path), ManualClock())  # type: ignore[operator]
    with closing(source), pytest.raises(ContractError, match=says) as caught:
        open_and_read(source)
    assert caught.value.code == code


def test_a_recording_has_a_time_of_its_own_however_fast_it_is_played(tmp_path: Path) -> None:
    clock = ManualClock()
    path = write_video(tmp_path / "v.avi", [0, 20, 40, 60], fps=10.0)
    video = VideoSettings(path=str(path), pace=Pace.AS_FAST, loop=True)
    source = open_source(video, clock, fps_max=5.0)
    source.open()
    found = frames_of(source, 4)
    assert [f.captured_s for f in found] == [1000.0] * 4  # No time passed
    assert [own_time_s(f) for f in found] == pytest.approx([0.0, 0.2, 0.4, 0.6])  # Over the seam

    folder = write_pictures(tmp_path / "p", [10, 20, 30])
    pictures = frames_of(opened(FolderSettings(path=str(folder), fps=0.0), clock))
    assert [own_time_s(f) for f in pictures] == [1000.0] * 3  # Nobody says how far they lie apart

    text = "at,x\n2024-01-01 00:00:00,1\n2024-01-01 00:00:10,2\n2024-01-01T00:00:40Z,3\n"
    rows = make_csv(tmp_path, text, time_column="at", speed=1000.0)
    assert [own_time_s(w) for w in windows_of(opened(rows, clock))] == pytest.approx([10.0, 40.0])
    rows = make_csv(tmp_path, "x\n1\n2\n3\n", rate_hz=0.0)
    now_s = clock.monotonic_s()
    assert [own_time_s(w) for w in windows_of(opened(rows, clock))] == [now_s] * 2


def test_a_csv_file_becomes_windows_of_the_named_columns(tmp_path: Path) -> None:
    text = "\ufefftime,x,y\n0,1,10\n1,2,20\n2,3,30\n3,4,40\n"
    settings = make_csv(
        tmp_path, text, columns=("y", "x"), window=WindowSettings(samples=2, step=2)
    )
    found = windows_of(opened(settings))
    assert [w.samples.tolist() for w in found] == [
        [[10.0, 1.0], [20.0, 2.0]], [[30.0, 3.0], [40.0, 4.0]],
    ]  # fmt: skip
    assert [w.sequence for w in found] == [0, 1]


def test_a_csv_file_at_a_rate(tmp_path: Path) -> None:
    clock = ManualClock()
    settings = make_csv(tmp_path, "x\n1\n2\n3\n", rate_hz=5.0)
    found = windows_of(opened(settings, clock))
    assert [w.captured_s - 1000.0 for w in found] == pytest.approx([0.2, 0.4])


def test_a_csv_file_with_the_pauses_of_its_own_timestamps(tmp_path: Path) -> None:
    clock = ManualClock()
    text = "at,x\n2024-01-01 00:00:00,1\n2024-01-01 00:00:10,2\n2024-01-01T00:00:40Z,3\n"
    settings = make_csv(tmp_path, text, time_column="at", speed=10.0)
    found = windows_of(opened(settings, clock))
    assert [w.captured_s - 1000.0 for w in found] == pytest.approx([1.0, 4.0])


@pytest.mark.parametrize("times", ["1,2,50,51", "1,2,1,2", "1,2,oops,3,4"])
def test_no_window_spans_a_gap_a_step_back_or_a_broken_time(tmp_path: Path, times: str) -> None:
    cells = times.split(",")
    text = "at,x\n" + "".join(f"{at},{index}\n" for index, at in enumerate(cells))
    window = WindowSettings(samples=2, gap_s_max=5.0)
    found = windows_of(opened(make_csv(tmp_path, text, time_column="at", window=window)))
    last = float(len(cells) - 1)
    assert [w.samples[:, 0].tolist() for w in found] == [[0.0, 1.0], [last - 1, last]]


def test_irregular_rows_are_brought_to_a_rate(tmp_path: Path) -> None:
    text = "at,x\n0,0\n0.5,1\n3,6\n4,8\n100,50\n101.5,53\n102,54\n103,0\n"
    settings = make_csv(
        tmp_path, text, time_column="at", resample=ResampleSettings(rate_hz=1.0, gap_s_max=10.0)
    )
    found = windows_of(opened(settings))
    assert [w.samples[:, 0].tolist() for w in found] == [
        [0, 2], [2, 4], [4, 6], [50, 52], [52, 54],
    ]  # fmt: skip


def test_missing_cells_are_held_and_short_rows_are_missing(tmp_path: Path) -> None:
    settings = make_csv(tmp_path, "t,x\n0,1\n1,\n2,nan\n3\n4,5\n", window=WindowSettings(samples=5))
    (found,) = windows_of(opened(settings))
    assert found.samples[:, 0].tolist() == [1.0, 1.0, 1.0, 1.0, 5.0]


@pytest.mark.parametrize("resample", [None, ResampleSettings(rate_hz=1.0)])
def test_a_number_beyond_what_models_take_is_missing_without_a_word(
    tmp_path: Path, resample: ResampleSettings | None
) -> None:
    text = "t,x\n0,1\n1,1e308\n2,3\n3,4\n"
    source = opened(make_csv(tmp_path, text, time_column="t", resample=resample))
    found = [window.samples.ravel().tolist() for window in windows_of(source)]
    assert found[:2] == [[1.0, 1.0], [1.0, 3.0]]


def test_a_looped_csv_file_has_no_window_over_the_seam(tmp_path: Path) -> None:
    found = windows_of(opened(make_csv(tmp_path, "x\n1\n2\n3\n", loop=True)), 5)
    assert [w.samples[:, 0].tolist() for w in found] == [
        [1.0, 2.0], [2.0, 3.0], [1.0, 2.0], [2.0, 3.0], [1.0, 2.0],
    ]  # fmt: skip
    assert [w.sequence for w in found] == [0, 1, 2, 3, 4]


def test_stop_ends_a_wait_between_rows(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with closing(opened(make_csv(tmp_path, "x\n1\n2\n", rate_hz=1.0))) as source:
        assert source.read(stop) is None
