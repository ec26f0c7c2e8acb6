"""Real detectors on real frames: what the gate says of one beside the release before it."""

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_hub.candidates.candidate import Answer, GateRefusedError, Measure, Verdict
from cloud_hub.candidates.evaluation_boxes import arrays_of
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.gate_quality import QualitySettings
from cloud_hub.candidates.onnx_forms import open_form
from cloud_hub.candidates.service import CandidateService, Rivals
from cloud_hub.sql_database import Database, sqlite_url
from shared.clock import SystemClock
from shared.ids import LineageId
from shared.model.opencv_resize import FrameResizer
from shared.model.spec import Decoder, ImageInput, ModelSpec, OutputSpec, Task
from tests.support.noisy_onnx import add_noise
from tests.support.requirements import require_data

pytestmark = pytest.mark.slow  # Examines in a process of its own.

SIDE = 352
CARS = ModelSpec(
    model="cars",
    task=Task.DETECTION,
    input=ImageInput(width=SIDE, height=SIDE, scale=(255.0,)),
    output=OutputSpec(
        decoder=Decoder.FASTESTDET, classes=tuple(f"c{i}" for i in range(80)), confidence_min=0.25
    ),
)
FRAMES = (*range(56, 100), *range(182, 232), *range(320, 346))  # Cars drive by in them
COUNT = len(FRAMES)
# So few pictures cannot tell less; two slices of half of them less still.
# Nothing is said of time: the machine may be busy.
QUALITY = QualitySettings(
    margin=0.1, slice_margin=0.2, slice_items_min=10, latency_ratio_max=1000.0
)
SETTINGS = GateSettings(quality=QUALITY, timing_rounds=5)


@dataclass(frozen=True)
class Street:
    """A detector, frames of a video, and what the detector itself finds on them as the truth."""

    model: bytes
    frames: NDArray[np.uint8]
    boxes: dict[str, NDArray[np.generic]]

    def npz(self, *, slices: bool = True, count: int = COUNT) -> bytes:
        """Return the evaluation set of the first frames."""
        starts = self.boxes["box_starts"][: count + 1]
        arrays = {
            "items": self.frames[:count],
            "boxes": self.boxes["boxes"][: int(starts[-1])],
            "box_starts": starts,
        }
        if slices:
            arrays["slices"] = np.array(["early"] * (count // 2) + ["late"] * (count - count // 2))
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()


@pytest.fixture(scope="module")
def street() -> Street:
    model = require_data("models/FastestDet.onnx").read_bytes()
    frames = read_frames(require_data("data/video/car-detection.mp4"))
    found = open_form(model, CARS).answer_all(frames)
    assert sum(len(boxes) for boxes in found.reported) > COUNT / 2
    return Street(model, frames, arrays_of(found.reported))


def read_frames(video: Path) -> NDArray[np.uint8]:
    assert isinstance(CARS.input, ImageInput)
    capture, resizer = cv2.VideoCapture(str(video)), FrameResizer(CARS.input)
    frames: list[NDArray[np.uint8]] = []
    for index in range(max(FRAMES) + 1):
        is_decoded, pixels = capture.read()
        assert is_decoded, "the video is long enough"
        if index in FRAMES:
            frames.append(resizer.resize(pixels.astype(np.uint8, copy=False))[0].copy())
    capture.release()
    return np.stack(frames)


@pytest.fixture
def candidates(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[CandidateService]:
    shutil.copyfile(migrated_sqlite_file, tmp_path / "hub.db")
    database = Database(sqlite_url(tmp_path))
    yield CandidateService(database, SystemClock(), SETTINGS)
    database.close()


def judged(candidates: CandidateService, street: Street, model: bytes, npz: bytes) -> Verdict:
    """Return the Verdict on a model that would replace the street's."""
    rivals = Rivals(
        evaluation_digest="0" * 64,
        evaluation_bytes=npz,
        release="cars:1",
        old_spec=CARS,
        old_bytes=street.model,
    )
    try:
        passed = candidates.judge(
            model_bytes=model,
            spec=CARS,
            golden_bytes=None,
            lineage_id=LineageId("line-cars"),
            rivals=rivals,
        )
    except GateRefusedError as error:
        return error.candidate.verdict
    return passed.candidate.verdict


def test_a_detector_is_as_good_as_itself_and_its_int8_form_is_judged_by_its_boxes(
    candidates: CandidateService, street: Street
) -> None:
    verdict = judged(candidates, street, street.model, street.npz())
    print(verdict.variants, verdict.slices, verdict.reasons, sep="\n")
    rows = {row.name: row for row in verdict.variants}
    whole = rows["fp32"]
    assert whole.boxes is not None
    assert (whole.accuracy, whole.agreement, whole.boxes.f1) == (None, 1.0, 1.0)
    assert whole.boxes.mean_average_precision == 1.0
    int8 = rows["int8"]
    assert int8.boxes is not None
    assert int8.agreement is not None
    assert int8.agreement < 1.0
    assert int8.boxes.f1 == pytest.approx(int8.agreement)  # The truth is what fp32 finds
    assert int8.is_chosen == (int8.agreement >= 0.95 and int8.boxes.mean_average_precision >= 0.99)
    if not int8.is_chosen:
        assert "of the boxes" in int8.text or "of mAP@.5" in int8.text or "gains" in int8.text
    assert {row.name for row in verdict.slices} == {"", "early", "late"}
    assert {row.measure for row in verdict.slices} == {Measure.PICTURE_F1}
    if whole.is_chosen:
        assert verdict.is_passed
        assert {row.answer for row in verdict.slices} == {Answer.NOT_WORSE}
    assert verdict.comparison is not None
    assert verdict.comparison.release == "cars:1"
    assert "gate.not_evaluated" not in [remark.code for remark in verdict.remarks]


def test_a_damaged_detector_is_refused_with_what_it_lost(
    candidates: CandidateService, street: Street
) -> None:
    verdict = judged(candidates, street, add_noise(street.model, share=0.03), street.npz())
    print(verdict.slices, verdict.reasons, sep="\n")
    assert not verdict.is_passed
    codes = [reason.code for reason in verdict.reasons]
    assert "gate.worse" in codes
    assert "gate.slice_worse" in codes
    everything = verdict.slices[0]
    assert everything.answer is Answer.WORSE
    assert everything.boxes_new is not None
    assert everything.boxes_old is not None
    assert everything.boxes_old.picture_f1 == 1.0
    assert everything.boxes_new.picture_f1 < 0.9
    assert everything.bound_high is not None
    assert everything.bound_high < 0.0
    assert "mean F1 of a picture went 1.000 ->" in verdict.reasons[0].text
    assert everything.lost_count > everything.gained_count == 0


def test_a_few_pictures_cannot_tell_and_say_how_many_would(
    candidates: CandidateService, street: Street
) -> None:
    verdict = judged(candidates, street, street.model, street.npz(slices=False, count=12))
    assert [reason.code for reason in verdict.reasons] == ["gate.cannot_tell"]
    assert verdict.slices[0].items_needed is not None
    assert verdict.slices[0].items_needed >= 29
    assert f"about {verdict.slices[0].items_needed} would be needed" in verdict.reasons[0].text
    assert "gate.not_calibrated" in [remark.code for remark in verdict.remarks]
