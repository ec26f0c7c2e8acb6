"""What forms of a model say of held-out items, beside what is true: counts and scores. Pure numpy.

1. A class or a flag is right or wrong. A picture of a detector is right where every true box is
   found once and nothing else is; its score is the F1 of its boxes, 1 where there is nothing on it
   and nothing was found. Boxes match as shared/model/metrics.py says, at an overlap of 0.5.
2. F1 takes the boxes that a device would report: those at the spec's confidence. The mean average
   precision takes all from CONFIDENCE_FLOOR on, as its curve asks for every confidence.
3. Two detectors agree by the boxes of both that match a box of the other, of all boxes of both.
4. Numbers and masks have a score of 0..1 (evaluation_scores.py).
5. Flags of anomalies hang on each model's threshold; the area under the ROC curve does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_hub.candidates import paired_scores
from cloud_hub.candidates.candidate import BoxScores, ItemScores, Measure, RocAreas
from cloud_hub.candidates.evaluation_boxes import TrueBoxes
from cloud_hub.candidates.evaluation_data import EvaluationData
from cloud_hub.candidates.evaluation_scores import (
    IOU_RIGHT,
    VALUE_NEAR,
    mask_score,
    resized,
    usual_spans,
    value_scores,
    values_alike,
)
from cloud_hub.candidates.examination import BoxFacts, PairedCounts, ScoreFacts
from shared.model.metrics import Matches, match_boxes, mean_precision, roc_area
from shared.model.postprocess import Boxes

CONFIDENCE_FLOOR = 0.01

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one form says of n items; which fields there are is up to its task."""

    classes: NDArray[np.int64] | None = None  # (n,) the class, or 1 for anomalous
    scores: Floats | None = None  # (n,) of anomalies: how unlike the normal
    reported: tuple[Boxes, ...] = ()  # What a device would report of each picture
    candidates: tuple[Boxes, ...] = ()  # The same from CONFIDENCE_FLOOR on
    values: Floats | None = None  # (n, k) of numbers
    masks: tuple[NDArray[np.uint8], ...] = ()  # (h, w) each


@dataclass(frozen=True, slots=True)
class Marks:
    """Answers beside what is true of the items."""

    answers: Answers
    is_right: Flags  # (n,)
    picture_f1: Floats | None = None  # (n,) of a detector
    reported: tuple[Matches, ...] = ()
    candidates: tuple[Matches, ...] = ()
    item_scores: Floats | None = None  # (n,) of numbers and masks


def mark(answers: Answers, data: EvaluationData) -> Marks:
    """Return what is right of a form's answers about a set's items; rules 1 and 2."""
    if data.values is not None:
        assert answers.values is not None, "of numbers"
        near = value_scores(answers.values, data.values, usual_spans(data.values))
        return Marks(answers, near >= 1.0 - VALUE_NEAR, item_scores=near)
    if data.masks is not None:
        pairs = zip(answers.masks, data.masks, strict=True)
        alike = np.array([mask_score(*pair) for pair in pairs], np.float64)
        return Marks(answers, alike >= IOU_RIGHT, item_scores=alike)
    if data.boxes is None:
        assert answers.classes is not None, "without boxes an item has a class"
        return Marks(answers, answers.classes == data.labels)
    reported = _matched(answers.reported, data.boxes)
    picture_f1 = np.array([match.f1 for match in reported], np.float64)
    return Marks(
        answers=answers,
        is_right=picture_f1 == 1.0,
        picture_f1=picture_f1,
        reported=reported,
        candidates=_matched(answers.candidates, data.boxes),
    )


def agreement(one: Answers, first: Answers) -> tuple[int, int]:
    """Return how many items two forms decide alike, of how many.

    Of detectors boxes (rule 3), of masks pixels.
    """
    if one.classes is not None:
        assert first.classes is not None, "forms of one model have one task"
        return int((one.classes == first.classes).sum()), one.classes.size
    if one.values is not None and first.values is not None:
        return values_alike(one.values, first.values), first.values.shape[0]
    if first.masks:
        pairs = zip(one.masks, first.masks, strict=True)
        same = sum(int((resized(a, b.shape) == b).sum()) for a, b in pairs)
        return same, sum(mask.size for mask in first.masks)
    matches = [match_boxes(*pair) for pair in zip(one.reported, first.reported, strict=True)]
    alike = 2 * sum(match.right_count for match in matches)
    return alike, sum(int(match.is_right.size) + match.true_count for match in matches)


def count_slices(
    new: Marks, old: Marks | None, data: EvaluationData, *, classes_count: int
) -> tuple[PairedCounts, ...]:
    """Return the counts of all items (name "") and of each slice."""
    names = np.asarray(data.slices, np.str_)  # (n,), or (0,) where none are named
    chosen = {"": np.ones(new.is_right.shape, np.bool_)}
    chosen |= {name: np.equal(names, name) for name in data.slice_counts()}
    return tuple(
        _count(name, np.flatnonzero(flags), new, old, data, classes_count)
        for name, flags in chosen.items()
    )


def _count(
    name: str,
    chosen: NDArray[np.intp],
    new: Marks,
    old: Marks | None,
    data: EvaluationData,
    classes_count: int,
) -> PairedCounts:
    now = new.is_right[chosen]
    was = old.is_right[chosen] if old is not None else None
    return PairedCounts(
        name=name,
        items_count=now.size,
        right_count=int(now.sum()),
        right_old_count=int(was.sum()) if was is not None else None,
        gained_count=int((now & ~was).sum()) if was is not None else 0,
        lost_count=int((~now & was).sum()) if was is not None else 0,
        boxes=_box_facts(chosen, new, old, data.boxes, classes_count),
        roc_areas=_roc_areas(chosen, new, old, data),
        scores=_score_facts(chosen, new, old, data),
    )


def _box_facts(
    chosen: NDArray[np.intp],
    new: Marks,
    old: Marks | None,
    true: TrueBoxes | None,
    classes_count: int,
) -> BoxFacts | None:
    if true is None or new.picture_f1 is None:
        return None
    now = _box_scores(new, chosen, true, classes_count)
    if old is None or old.picture_f1 is None:
        return BoxFacts(new=now)
    differences = new.picture_f1[chosen] - old.picture_f1[chosen]  # (m,)
    return BoxFacts(
        new=now,
        old=_box_scores(old, chosen, true, classes_count),
        bound_low=paired_scores.bound_low(differences),
        bound_high=paired_scores.bound_high(differences),
        worse_p_value=paired_scores.worse_p_value(differences),
        squares_sum=float(np.square(differences).sum()),
    )


def _score_facts(
    chosen: NDArray[np.intp], new: Marks, old: Marks | None, data: EvaluationData
) -> ScoreFacts | None:
    if new.item_scores is None:
        return None
    measure = Measure.PICTURE_IOU if data.values is None else Measure.VALUES
    now = _item_scores(new, chosen, data)
    if old is None or old.item_scores is None:
        return ScoreFacts(measure=measure, new=now)
    differences = new.item_scores[chosen] - old.item_scores[chosen]  # (m,)
    return ScoreFacts(
        measure=measure,
        new=now,
        old=_item_scores(old, chosen, data),
        bound_low=paired_scores.bound_low(differences),
        bound_high=paired_scores.bound_high(differences),
        worse_p_value=paired_scores.worse_p_value(differences),
        squares_sum=float(np.square(differences).sum()),
    )


def _item_scores(marks: Marks, chosen: NDArray[np.intp], data: EvaluationData) -> ItemScores:
    assert marks.item_scores is not None, "of numbers or masks"
    mean = float(marks.item_scores[chosen].mean())
    if data.values is None or marks.answers.values is None:
        return ItemScores(mean)
    errors = marks.answers.values[chosen] - data.values[chosen]
    return ItemScores(
        mean=mean,
        mae=float(np.abs(errors).mean()),
        rmse=float(np.sqrt(np.square(errors).mean())),
        span=float(usual_spans(data.values).mean()),
    )


def _box_scores(
    marks: Marks, chosen: NDArray[np.intp], true: TrueBoxes, classes_count: int
) -> BoxScores:
    assert marks.picture_f1 is not None, "of a detector"
    reported = [marks.reported[index] for index in chosen]
    total = sum(int(match.is_right.size) + match.true_count for match in reported)
    right = sum(match.right_count for match in reported)
    return BoxScores(
        picture_f1=float(marks.picture_f1[chosen].mean()),
        f1=2.0 * right / total if total else 1.0,
        mean_average_precision=mean_precision(
            [marks.candidates[index] for index in chosen],
            [marks.answers.candidates[index] for index in chosen],
            [true.of(int(index)) for index in chosen],
            classes_count=classes_count,
        ),
    )


def _roc_areas(
    chosen: NDArray[np.intp], new: Marks, old: Marks | None, data: EvaluationData
) -> RocAreas | None:
    scores, is_anomalous = new.answers.scores, data.labels[chosen] == 1
    if scores is None or is_anomalous.all() or not is_anomalous.any():
        return None
    before = old.answers.scores if old is not None else None
    return RocAreas(
        new=roc_area(scores[chosen], is_anomalous),
        old=roc_area(before[chosen], is_anomalous) if before is not None else None,
    )


def _matched(found: Sequence[Boxes], true: TrueBoxes) -> tuple[Matches, ...]:
    return tuple(match_boxes(boxes, true.of(index)) for index, boxes in enumerate(found))
