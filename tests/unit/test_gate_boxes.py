"""The gate's rules on detectors and on anomalies as tables: what is measured, compared and said."""

import io
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_hub.api.verdict_bodies import SliceOut, VariantOut
from cloud_hub.api.verdict_words import compared_texts, quality_text, slice_text
from cloud_hub.candidates.candidate import (
    Answer,
    BoxScores,
    Measure,
    RocAreas,
    SliceRow,
    VariantRow,
    Verdict,
)
from cloud_hub.candidates.evaluation_boxes import arrays_of
from cloud_hub.candidates.evaluation_data import (
    EvaluationData,
    check_fit,
    decode_evaluation,
    pick,
    split,
)
from cloud_hub.candidates.evaluation_limits import PICTURE_BOXES_MAX
from cloud_hub.candidates.evaluation_measures import Answers, agreement, count_slices, mark
from cloud_hub.candidates.examination import (
    BoxFacts,
    EvaluationFacts,
    Examination,
    ModelFacts,
    PairedCounts,
    VariantFacts,
)
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.gate_quality import QualitySettings, compare_slices, quality_reasons
from cloud_hub.candidates.gate_verdict import Background, judge
from cloud_hub.candidates.variant_choice import VariantSettings, choose, wants_tuning
from shared.errors import ContractError
from shared.model.postprocess import Boxes
from shared.model.spec import Decoder, ImageInput, ModelSpec, OutputSpec, Task

SPEC = ModelSpec(
    model="squares",
    task=Task.DETECTION,
    input=ImageInput(width=8, height=4),
    output=OutputSpec(decoder=Decoder.BOXES, classes=("red", "green")),
)
ANOMALY = ModelSpec(
    model="squares",
    task=Task.ANOMALY,
    input=SPEC.input,
    output=OutputSpec(decoder=Decoder.SCORE, threshold=0.5),
)
LEFT, RIGHT = (0.0, 0.0, 0.4, 1.0), (0.5, 0.0, 1.0, 1.0)


def boxes(*found: tuple[int, tuple[float, ...]], scores: tuple[float, ...] = ()) -> Boxes:
    corners = np.array([corners for _, corners in found], np.float32).reshape(-1, 4)
    given = scores or (0.9,) * len(found)
    classes = np.array([index for index, _ in found], np.int64)
    return Boxes(corners, np.array(given, np.float32), classes)


RED, BOTH, NOTHING = boxes((0, LEFT)), boxes((0, LEFT), (1, RIGHT)), boxes()
WRONG = boxes((1, LEFT))
TRUE = [RED, BOTH, NOTHING, BOTH]


def saved(**changes: Any) -> bytes:
    items = np.random.default_rng(0).integers(0, 255, (4, 4, 8, 3), np.uint8)
    arrays: dict[str, Any] = {"items": items, **arrays_of(TRUE)} | changes
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
    return buffer.getvalue()


def evaluation(slices: tuple[str, ...] = ()) -> EvaluationData:
    return decode_evaluation(saved(slices=np.array(slices) if slices else None))


def answers(*found: Boxes, candidates: tuple[Boxes, ...] = ()) -> Answers:
    return Answers(reported=found, candidates=candidates or found)


def test_a_set_of_pictures_with_boxes_is_read_as_it_was_written() -> None:
    data = evaluation()
    check_fit(data, SPEC)
    assert data.boxes is not None
    for index, true in enumerate(TRUE):
        found = data.boxes.of(index)
        np.testing.assert_array_equal(found.corners, true.corners)
        np.testing.assert_array_equal(found.classes, true.classes)
    turned = pick(data, (3, 2, 0))
    assert turned.boxes is not None
    assert [len(turned.boxes.of(index)) for index in range(3)] == [2, 0, 1]
    nothing = pick(data, (2,))
    assert nothing.boxes is not None
    assert nothing.boxes.class_max == -1
    check_fit(nothing, SPEC)
    assert len(split(data.items).held_out) == 4


ROWS, STARTS = arrays_of(TRUE)["boxes"], arrays_of(TRUE)["box_starts"]


def changed(column: int, value: float) -> NDArray[np.float32]:
    rows = ROWS.astype(np.float32).copy()
    rows[1, column] = value
    return rows


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"boxes": None}, "`boxes` is missing"),
        ({"box_starts": None}, "`box_starts` is missing"),
        ({"boxes": None, "box_starts": None}, "`labels` are missing"),
        ({"items": None}, "`items` is missing"),
        ({"labels": np.zeros(4, np.int64)}, "`labels` and `boxes` are both there"),
        ({"items": np.zeros((4, 8, 2), np.float32)}, "`boxes` belong to (n, h, w, 3)"),
        ({"boxes": ROWS.astype(np.float64)}, "`boxes` are float64"),
        ({"boxes": ROWS.astype(np.float32)[:, :4]}, "`boxes` are float32 (5, 4)"),
        ({"boxes": changed(1, np.nan)}, "`boxes` hold nan"),
        ({"boxes": changed(0, 0.5)}, "`boxes` must begin with the class"),
        ({"boxes": changed(0, -1.0)}, "`boxes` must begin with the class"),
        ({"boxes": changed(3, 1.5)}, "`boxes` must have corners in shares"),
        ({"boxes": changed(3, 0.0)}, "`boxes` must have left < right"),
        ({"box_starts": STARTS[:-1]}, "`box_starts` must be (5,)"),
        ({"box_starts": STARTS.astype(np.float32)}, "`box_starts` must be (5,) whole"),
        ({"box_starts": np.array([0, 1, 3, 3, 4])}, "`box_starts` must go from 0 to 5"),
        ({"box_starts": np.array([0, 4, 3, 3, 5])}, "`box_starts` must never fall"),
        ({"box_starts": np.array([object()] * 5)}, "allow_pickle"),
        (
            {
                "boxes": np.tile(ROWS.astype(np.float32)[:1], (PICTURE_BOXES_MAX + 1, 1)),
                "box_starts": np.array([0, 0, 0, 0, PICTURE_BOXES_MAX + 1]),
            },
            "`box_starts` give one item 2001 boxes, over 2000",
        ),
    ],
)
def test_what_is_no_set_of_boxes_is_told_by_the_array(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ContractError) as raised:
        decode_evaluation(saved(**changes))
    assert raised.value.code == "evaluation.invalid"
    assert text in raised.value.message.lower()


def test_a_set_fits_detectors_or_others_and_has_classes_that_the_model_knows() -> None:
    labels = saved(boxes=None, box_starts=None, labels=np.array([0, 1, 1, 0]))
    for data, spec, text in (
        (saved(), ANOMALY, "it has boxes"),
        (labels, SPEC, "a detector is measured on boxes"),
        (saved(boxes=changed(0, 2.0)), SPEC, "classes up to 2, the model knows 0 to 1"),
    ):
        with pytest.raises(ContractError, match=text) as raised:
            check_fit(decode_evaluation(data), spec)
        assert raised.value.code == "evaluation.misfit"
    check_fit(decode_evaluation(labels), ANOMALY)


def test_a_picture_is_right_where_all_is_found_once_and_nothing_else() -> None:
    twice = boxes((0, LEFT), (0, LEFT))
    marks = mark(answers(twice, BOTH, NOTHING, RED), evaluation())
    assert marks.is_right.tolist() == [False, True, True, False]
    assert marks.picture_f1 is not None
    assert marks.picture_f1.tolist() == pytest.approx([2 / 3, 1.0, 1.0, 2 / 3])
    wrong = mark(answers(WRONG, NOTHING, RED, BOTH), evaluation())
    assert wrong.picture_f1 is not None
    assert wrong.picture_f1.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_slices_are_counted_by_themselves_new_beside_old() -> None:
    data = evaluation(("day", "day", "night", "night"))
    old = mark(answers(RED, BOTH, NOTHING, BOTH), data)
    # A weak right box more is no box for the device, yet the precision's curve sees it.
    weak = boxes((0, LEFT), (1, RIGHT), scores=(0.9, 0.1))
    new = mark(answers(RED, RED, NOTHING, WRONG, candidates=(RED, weak, NOTHING, WRONG)), data)
    rows = {row.name: row for row in count_slices(new, old, data, classes_count=2)}
    assert list(rows) == ["", "day", "night"]
    everything, night = rows[""], rows["night"]
    assert (everything.right_count, everything.right_old_count) == (2, 4)
    assert (everything.gained_count, everything.lost_count) == (0, 2)
    assert everything.boxes is not None
    assert everything.boxes.old == BoxScores(1.0, 1.0, 1.0)
    assert everything.boxes.new.picture_f1 == pytest.approx((1.0 + 2 / 3 + 1.0 + 0.0) / 4)
    assert everything.boxes.new.f1 == pytest.approx(2 * 2 / (3 + 5))
    # Red: both of the right ones found first, one of three missing. Green: one right of two found.
    assert everything.boxes.new.mean_average_precision == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert everything.boxes.squares_sum == pytest.approx(1 / 9 + 1.0)
    assert everything.boxes.bound_low < -5 / 12 < everything.boxes.bound_high
    assert night.boxes is not None
    assert night.boxes.new.picture_f1 == 0.5
    first = count_slices(new, None, data, classes_count=2)[0]
    assert first.boxes is not None
    assert (first.right_old_count, first.boxes.old) == (None, None)


def test_two_forms_agree_by_the_boxes_that_both_find() -> None:
    first = answers(RED, BOTH, NOTHING, BOTH)
    assert agreement(first, first) == (10, 10)
    assert agreement(answers(RED, RED, NOTHING, NOTHING), first) == (4, 7)
    assert agreement(answers(NOTHING), answers(NOTHING)) == (0, 0)
    classes = Answers(classes=np.array([0, 1, 1]))
    assert agreement(classes, Answers(classes=np.array([0, 1, 0]))) == (2, 3)


def counts(name: str = "", *, items: int = 200, low: float, p_value: float = 1.0) -> PairedCounts:
    return PairedCounts(
        name=name,
        items_count=items,
        right_count=60,
        right_old_count=70,
        gained_count=5,
        lost_count=15,
        boxes=BoxFacts(
            new=BoxScores(0.8, 0.79, 0.7),
            old=BoxScores(0.82, 0.81, 0.75),
            bound_low=low,
            bound_high=0.01,
            worse_p_value=p_value,
            squares_sum=4.0,
        ),
    )


@pytest.mark.parametrize(
    ("low", "p_value", "items", "answer", "refused", "remarked"),
    [
        (-0.019, 1.0, 200, Answer.NOT_WORSE, [], []),
        (-0.019, 0.001, 200, Answer.NOT_WORSE, [], []),  # Worse, but surely within the margin
        (-0.021, 0.3, 200, Answer.CANNOT_TELL, ["gate.cannot_tell"], []),
        (-0.06, 0.04, 200, Answer.WORSE, ["gate.worse"], []),
    ],
)
def test_the_mean_f1_of_a_picture_decides(
    low: float, p_value: float, items: int, answer: Answer, refused: list[str], remarked: list[str]
) -> None:
    (row,) = compare_slices((counts(low=low, p_value=p_value, items=items),), QualitySettings())
    assert (row.answer, row.measure, row.bound_low) == (answer, Measure.PICTURE_F1, low)
    assert (row.boxes_new, row.boxes_old) == (
        BoxScores(0.8, 0.79, 0.7),
        BoxScores(0.82, 0.81, 0.75),
    )
    assert (row.items_needed is not None) == (answer is Answer.CANNOT_TELL)
    reasons, remarks = quality_reasons((row,), QualitySettings())
    assert ([one.code for one in reasons], [one.code for one in remarks]) == (refused, remarked)
    for reason in reasons:
        assert "F1 of a picture went 0.820 -> 0.800 and mAP@.5 0.750 -> 0.700" in reason.text
        assert "accuracy" not in reason.text
    if answer is Answer.CANNOT_TELL:
        assert "200 pictures cannot tell" in reasons[0].text
        assert f"about {row.items_needed} would be needed" in reasons[0].text


def test_slices_of_a_detector_follow_the_same_rules() -> None:
    slices = (
        counts(low=-0.01),
        counts("night", low=-0.3, p_value=0.01),
        counts("dusk", low=-0.3, p_value=0.2, items=20),
        counts("day", low=-0.04),
    )
    rows = compare_slices(slices, QualitySettings())
    answers_by_name = {row.name: row.answer for row in rows}
    assert answers_by_name == {
        "": Answer.NOT_WORSE,
        "night": Answer.WORSE,
        "dusk": Answer.CANNOT_TELL,
        "day": Answer.NOT_WORSE,
    }
    reasons, remarks = quality_reasons(rows, QualitySettings())
    assert [one.code for one in reasons] == ["gate.slice_worse"]
    assert [one.code for one in remarks] == ["gate.slice_cannot_tell"]


def test_a_detector_has_a_floor_of_its_own() -> None:
    rows = compare_slices((counts(low=-0.01),), QualitySettings())
    assert quality_reasons(rows, QualitySettings(accuracy_min=0.9))[0] == []
    (reason,) = quality_reasons(rows, QualitySettings(f1_min=0.85))[0]
    assert (reason.code, reason.measured, reason.limit) == ("gate.f1", "0.800", ">= 0.85")


def form(name: str, *, alike: int = 1000, precision: float = 0.7) -> VariantFacts:
    """A form of a detector that finds so much of 1000 boxes of two forms."""
    scores = BoxScores(0.8, 0.8, precision)
    slices = (PairedCounts(name="", items_count=99, right_count=9, boxes=BoxFacts(new=scores)),)
    return VariantFacts(
        name=name,
        artifact_bytes=1000 if name == "fp32" else 250,
        latency_ms=10.0 if name == "fp32" else 4.0,
        model=ModelFacts(precision=name),
        agreement_count=alike,
        agreement_total=1000,
        slices=slices,
    )


@pytest.mark.parametrize(
    ("int8", "chosen", "why_not"),
    [
        (form("int8"), "int8", ""),
        (form("int8", alike=950, precision=0.6901), "int8", ""),
        (form("int8", alike=667), "fp32", "agrees on 0.667 of the boxes, 0.95 is the least"),
        (form("int8", precision=0.68), "fp32", "loses 0.020 of mAP@.5, 0.01 is the most"),
    ],
)
def test_which_form_of_a_detector_is_published(
    int8: VariantFacts, chosen: str, why_not: str
) -> None:
    facts = EvaluationFacts(items_count=99, variants=(form("fp32"), int8))
    found, rows = choose(facts, VariantSettings())
    assert found.name == chosen
    assert why_not in rows[1].text
    assert (rows[1].accuracy, rows[0].boxes) == (None, BoxScores(0.8, 0.8, 0.7))
    assert wants_tuning(facts, VariantSettings()) is bool(why_not)


def test_flags_are_compared_and_the_area_is_shown() -> None:
    data = EvaluationData(np.zeros((4, 1)), np.array([0, 0, 1, 1]), ("a", "a", "a", "b"))
    new = Answers(classes=np.array([0, 1, 1, 1]), scores=np.array([0.1, 0.6, 0.7, 0.9]))
    old = Answers(classes=np.array([0, 0, 0, 1]), scores=np.array([0.1, 0.3, 0.2, 0.9]))
    everything, a, b = count_slices(mark(new, data), mark(old, data), data, classes_count=0)
    assert everything.roc_areas == RocAreas(new=1.0, old=0.75)
    assert (everything.gained_count, everything.lost_count, everything.right_count) == (1, 1, 3)
    assert a.roc_areas == RocAreas(new=1.0, old=0.5)
    assert b.roc_areas is None  # Nothing normal in it
    (row,) = compare_slices((everything,), QualitySettings())
    assert row.measure is Measure.FLAGS
    (reason,) = quality_reasons((row,), QualitySettings())[0]
    assert "flagged rightly, each model by its own threshold: 0.750 -> 0.750" in reason.text
    assert "ROC area 1.000, 0.750 before" in slice_text(row)
    assert "of 4 items are flagged rightly" in slice_text(row)


def test_the_verdict_says_which_flags_are_compared() -> None:
    areas = RocAreas(new=0.9, old=0.8)
    counts_of_all = PairedCounts(name="", items_count=9, right_count=9, roc_areas=areas)
    one = VariantFacts(name="fp32", slices=(counts_of_all,), model=ModelFacts(precision="fp32"))
    facts = EvaluationFacts(items_count=9, calibration_count=20, variants=(one,))
    verdict = judge(Examination(evaluation=facts), ANOMALY, GateSettings(), Background("0" * 64))
    flags = {remark.code: remark for remark in verdict.verdict.remarks}["gate.flags"]
    assert "a score above 0.5, the spec's threshold" in flags.text
    assert flags.measured == "area 0.800 -> 0.900"
    (row,) = verdict.verdict.variants
    assert (row.roc_area, quality_text(row)) == (0.9, "100.0 % of flags, ROC area 0.900")


def test_without_a_set_a_detectors_verdict_says_that_nothing_was_compared() -> None:
    facts = EvaluationFacts(variants=(VariantFacts(name="fp32"),))
    verdict = judge(Examination(evaluation=facts), SPEC, GateSettings(), Background())
    (remark,) = [one for one in verdict.verdict.remarks if one.code == "gate.not_evaluated"]
    assert "how well it finds boxes was neither measured nor compared" in remark.text


def test_words_name_each_number_for_what_it_is() -> None:
    (row,) = compare_slices((counts(low=-0.01),), QualitySettings())
    text = slice_text(row)
    for part in (
        "On 200 pictures the mean F1 of a picture is 0.800, 0.820 before",
        "mAP@.5 0.700, 0.750 before",
        "F1 0.790 over all boxes, 0.810 before",
        "30.0 % of them have every object found and nothing false: 5 became so, 15 ceased to",
        "Not worse: with 95 % confidence the change is above -1.0 points",
    ):
        assert part in text
    assert "accura" not in text
    assert compared_texts(row) == ("F1 0.800", "F1 0.820")
    first = compare_slices(
        (PairedCounts(name="", items_count=9, right_count=9, boxes=BoxFacts(new=row.boxes_new)),),
        QualitySettings(),
    )[0]
    assert "there is no release to compare with" in slice_text(first)
    assert compared_texts(first) == ("F1 0.800", "–")
    variant = VariantRow("int8", "int8", is_chosen=True, text="why", boxes=row.boxes_new)
    assert quality_text(variant) == "mAP@.5 0.700, F1 0.790"
    out = SliceOut.of(row)
    assert (out.measure, out.boxes_old and out.boxes_old.f1) == (Measure.PICTURE_F1, 0.81)
    shown = VariantOut.model_validate(variant)
    assert shown.boxes is not None
    assert shown.boxes.mean_average_precision == 0.7


def test_a_verdict_with_boxes_is_kept_and_read_again() -> None:
    (row,) = compare_slices((counts(low=-0.01),), QualitySettings())
    verdict = Verdict(is_passed=True, reasons=(), slices=(row,))
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
    old = SliceRow("", 9, 0.5, Answer.FIRST)
    assert (old.measure, old.boxes_new) == (Measure.ACCURACY, None)
