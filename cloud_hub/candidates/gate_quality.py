"""The gate's rules on quality and speed: counts in, SliceRows and Reasons out. Pure.

1. The candidate (the form that would be published) must be shown to be not worse than the release
   it would replace by more than a margin: on all items and in every slice; see paired_test.py.
2. Where the items do not tell, all items together refuse (unless settings say otherwise), and so
   does a slice of `slice_items_min` or more; a smaller slice gives a remark.
3. A slice that is shown to be worse refuses whatever its size.
4. A model's first release is compared with nothing; `accuracy_min` holds for every release, of
   detectors `f1_min` does.
5. What is compared is the share of right items; of models for anomalies that of right flags, each
   model by its own threshold; of detectors the mean over pictures of the F1 of a picture's boxes,
   whose bounds were computed where the pictures are (paired_scores.py); of numbers and masks the
   mean of the items' scores (evaluation_scores.py), by the same test. `score_min` is their floor.
"""

from dataclasses import replace
from typing import Annotated

import msgspec
from msgspec import Meta

from cloud_hub.candidates.candidate import Answer, ItemScores, Measure, Reason, SliceRow
from cloud_hub.candidates.examination import EvaluationFacts, PairedCounts, VariantFacts
from cloud_hub.candidates.paired_test import (
    bound_high,
    bound_low,
    claims_by_holm,
    items_needed,
    items_needed_of_spread,
    worse_p_value,
)
from shared.settings import Settings

Margin = Annotated[float, Meta(gt=0.0, le=1.0)]
Ratio = Annotated[float, Meta(ge=1.0, le=1000.0)]
Latency = Annotated[float, Meta(gt=0.0, le=1e6)]
ALL_ITEMS = ""


class QualitySettings(Settings, frozen=True):
    """How much worse, slower or larger than the release before it a new one may be."""

    margin: Margin = 0.02  # Of accuracy, or of the mean F1 of a picture, on all held-out items
    slice_margin: Margin = 0.05  # In one slice
    slice_margins: Annotated[dict[str, Margin], Meta(max_length=64)] = msgspec.field(
        default_factory=dict
    )  # Of slices that have their own
    slice_items_min: Annotated[int, Meta(ge=1)] = 100  # Smaller ones cannot refuse by not telling
    is_unsure_refused: bool = True  # Whether "cannot tell" refuses
    accuracy_min: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None  # Of classes and flags
    f1_min: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None  # Of detectors: mean of a picture
    score_min: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None  # Of numbers and masks: mean
    latency_ms_max: Latency | None = None  # Median on the hub, one thread
    latency_ratio_max: Ratio = 1.5  # To the old release, measured in turns
    latency_floor_ms: Annotated[float, Meta(ge=0.0)] = 5.0  # Faster than this is fast enough
    artifact_bytes_max: Annotated[int, Meta(ge=1)] | None = None


def compare_slices(
    counts: tuple[PairedCounts, ...], settings: QualitySettings
) -> tuple[SliceRow, ...]:
    """Return what a paired test says of all items (first) and of each slice."""
    slices = {one.name: _worse_p_value(one) for one in counts if one.name != ALL_ITEMS}
    overall = {one.name: _worse_p_value(one) for one in counts if one.name == ALL_ITEMS}
    worse = claims_by_holm(slices) | claims_by_holm(overall)
    return tuple(_row(one, settings, is_worse=one.name in worse) for one in counts)


def quality_reasons(
    rows: tuple[SliceRow, ...], settings: QualitySettings
) -> tuple[list[Reason], list[Reason]]:
    """Return reasons and remarks about accuracy, all items first."""
    reasons: list[Reason] = []
    remarks: list[Reason] = []
    for row in rows:
        if row.answer is Answer.WORSE:
            reasons.append(_reason(row, "gate.worse" if not row.name else "gate.slice_worse"))
        elif row.answer is Answer.CANNOT_TELL:
            is_small = bool(row.name) and row.items_count < settings.slice_items_min
            is_refused = settings.is_unsure_refused and not is_small
            code = "gate.cannot_tell" if not row.name else "gate.slice_cannot_tell"
            (reasons if is_refused else remarks).append(_reason(row, code))
    return [*reasons, *_floor_reasons(rows[:1], settings)], remarks


def cost_reasons(
    facts: EvaluationFacts, chosen: VariantFacts, settings: QualitySettings
) -> list[Reason]:
    """Return what speaks against a form's time and size."""
    reasons = []
    new_ms, old_ms, size_max = chosen.latency_ms, facts.old_latency_ms, settings.artifact_bytes_max
    if size_max is not None and chosen.artifact_bytes > size_max:
        text = "The model is larger than a device may be asked to take."
        reasons.append(Reason("gate.artifact", text, f"{chosen.artifact_bytes} B", f"{size_max} B"))
    if new_ms is None:
        return reasons
    latency_max = settings.latency_ms_max
    if latency_max is not None and new_ms > latency_max:
        text = "The model takes too long for one item on the hub."
        reasons.append(Reason("gate.latency", text, f"{new_ms:.3g} ms", f"{latency_max:g} ms"))
    ratio_max = settings.latency_ratio_max
    is_slower = old_ms is not None and new_ms > max(old_ms * ratio_max, settings.latency_floor_ms)
    if old_ms is not None and is_slower:
        text = "The model is slower than the release it would replace, measured in turns."
        measured = f"{old_ms:.3g} -> {new_ms:.3g} ms, {new_ms / old_ms:.2f} x"
        reasons.append(Reason("gate.slower", text, measured, f"{ratio_max:g} x"))
    return reasons


def _floor_reasons(rows: tuple[SliceRow, ...], settings: QualitySettings) -> list[Reason]:
    reasons = []
    for row in rows:
        boxes, floor = row.boxes_new, settings.accuracy_min
        if boxes is not None:
            if settings.f1_min is not None and boxes.picture_f1 < settings.f1_min:
                text = "The model finds too few of the true boxes, or too many false ones."
                limit = f">= {settings.f1_min:g}"
                reasons.append(Reason("gate.f1", text, f"{boxes.picture_f1:.3f}", limit))
        elif row.scores_new is not None:
            if settings.score_min is not None and row.scores_new.mean < settings.score_min:
                text = "The model's answers are too far from what is true of held-out items."
                limit = f">= {settings.score_min:g}"
                reasons.append(Reason("gate.score", text, f"{row.scores_new.mean:.3f}", limit))
        elif floor is not None and row.accuracy_new < floor:
            text = "The model is right too rarely on held-out items."
            accuracy = f"{row.accuracy_new:.3f}"
            reasons.append(Reason("gate.accuracy", text, accuracy, f">= {floor:g}"))
    return reasons


def _worse_p_value(counts: PairedCounts) -> float:
    if counts.paired is not None:
        return counts.paired.worse_p_value
    return worse_p_value(counts.gained_count, counts.lost_count)


def _row(counts: PairedCounts, settings: QualitySettings, *, is_worse: bool) -> SliceRow:
    items, boxes, scores = counts.items_count, counts.boxes, counts.scores
    first = SliceRow(
        name=counts.name,
        items_count=items,
        accuracy_new=counts.right_count / max(items, 1),
        answer=Answer.FIRST,
        measure=_measure(counts),
        boxes_new=boxes.new if boxes else None,
        roc_areas=counts.roc_areas,
        scores_new=scores.new if scores else None,
    )
    if counts.right_old_count is None or not items:
        return first
    margin = margin_of(counts.name, settings)
    low, high = _bounds(counts)
    answer = Answer.NOT_WORSE if low > -margin else Answer.CANNOT_TELL
    if answer is Answer.CANNOT_TELL and is_worse:
        answer = Answer.WORSE
    return replace(
        first,
        answer=answer,
        accuracy_old=counts.right_old_count / items,
        gained_count=counts.gained_count,
        lost_count=counts.lost_count,
        bound_low=low,
        bound_high=high,
        margin=margin,
        items_needed=_needed(counts, margin) if answer is Answer.CANNOT_TELL else None,
        boxes_old=boxes.old if boxes else None,
        scores_old=scores.old if scores else None,
    )


def _measure(counts: PairedCounts) -> Measure:
    if counts.boxes is not None:
        return Measure.PICTURE_F1
    if counts.scores is not None:
        return counts.scores.measure
    return Measure.ACCURACY if counts.roc_areas is None else Measure.FLAGS


def _bounds(counts: PairedCounts) -> tuple[float, float]:
    if counts.paired is not None:
        return counts.paired.bound_low, counts.paired.bound_high
    paired = (counts.gained_count, counts.lost_count, counts.items_count)
    return bound_low(*paired), bound_high(*paired)


def _needed(counts: PairedCounts, margin: float) -> int:
    items = counts.items_count
    if counts.paired is not None:
        return items_needed_of_spread(counts.paired.squares_sum, items, margin=margin)
    return items_needed(counts.gained_count, counts.lost_count, items, margin=margin)


def margin_of(name: str, settings: QualitySettings) -> float:
    """Return the margin of all items, or of one slice."""
    if name == ALL_ITEMS:
        return settings.margin
    return settings.slice_margins.get(name, settings.slice_margin)


def _reason(row: SliceRow, code: str) -> Reason:
    is_of_pictures = row.measure in (Measure.PICTURE_F1, Measure.PICTURE_IOU)
    things = "pictures" if is_of_pictures else "items"
    where = f"In slice {row.name!r} " if row.name else f"On all held-out {things} "
    text = where + _change(row)
    if row.answer is Answer.CANNOT_TELL:
        text += (
            f" {row.items_count} {things} cannot tell whether that is within the margin; "
            f"about {row.items_needed} would be needed."
        )
    measured = f"95 % lower bound {100 * (row.bound_low or 0.0):+.1f} points"
    return Reason(code, text, measured, f"above {-100 * (row.margin or 0.0):.1f} points")


def _change(row: SliceRow) -> str:
    new, old = row.boxes_new, row.boxes_old
    if new is not None and old is not None:
        return (
            f"the mean F1 of a picture went {old.picture_f1:.3f} -> {new.picture_f1:.3f} and "
            f"mAP@.5 {old.mean_average_precision:.3f} -> {new.mean_average_precision:.3f}; "
            f"{row.lost_count} of {row.items_count} pictures are not wholly right any more, "
            f"{row.gained_count} became so."
        )
    if row.scores_new is not None and row.scores_old is not None:
        return _scores_change(row.scores_new, row.scores_old)
    counted = f"{row.lost_count} of {row.items_count} items got worse, {row.gained_count} better; "
    shares = f"{row.accuracy_old or 0.0:.3f} -> {row.accuracy_new:.3f}."
    if row.measure is Measure.FLAGS:
        return f"{counted}flagged rightly, each model by its own threshold: {shares}"
    return f"{counted}accuracy {shares}"


def _scores_change(new: ItemScores, old: ItemScores) -> str:
    """Return in words how numbers or masks changed."""
    if new.mae is None or old.mae is None or new.rmse is None or old.rmse is None:
        return f"the mean IoU of a picture went {old.mean:.3f} -> {new.mean:.3f}."
    return (
        f"the mean error went {1.0 - old.mean:.3f} -> {1.0 - new.mean:.3f} usual spans of the true "
        f"values (one is {new.span or 0.0:.4g}; an error counts as one at most); mean absolute "
        f"error {old.mae:.4g} -> {new.mae:.4g}, RMSE {old.rmse:.4g} -> {new.rmse:.4g}."
    )
