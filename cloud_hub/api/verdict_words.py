"""Sentences about a Verdict, for every page and command alike. Pure."""

from cloud_hub.api.job_words import bytes_text
from cloud_hub.candidates.candidate import (
    Answer,
    BoxScores,
    Comparison,
    ItemScores,
    Measure,
    Reason,
    SliceRow,
    VariantRow,
    Verdict,
)
from shared.plural import counted

ALL_ITEMS = "all items"


def verdict_text(verdict: Verdict) -> str:
    """Return the gate's answer in one sentence."""
    if verdict.is_passed:
        count = len(verdict.remarks)
        remarks = f", with {counted(count, 'remark')}" if count else ""
        return f"The gate let it through{remarks}."
    count = len(verdict.reasons)
    return f"The gate refused it for {count} reason{'' if count == 1 else 's'}."


def reason_text(reason: Reason) -> str:
    """Return a reason with what was measured and what the limit is."""
    parts = []
    if reason.measured:
        parts.append(f"measured {reason.measured}")
    if reason.limit:
        parts.append(f"limit {reason.limit}")
    return f"{reason.text} ({', '.join(parts)})" if parts else reason.text


def comparison_text(comparison: Comparison | None) -> str:
    """Return on what, and against what, a candidate was judged."""
    if comparison is None:
        return "Nothing was measured on held-out data: the model has no evaluation set."
    against = f"against {comparison.release}" if comparison.release else "without a release before"
    text = f"Judged on {comparison.items_count:,} held-out items {against}."
    new, old = comparison.latency_ms_new, comparison.latency_ms_old
    if new is not None and old is not None:
        text += f" One item takes {new:.2f} ms on the hub, {old:.2f} ms before."
    elif new is not None:
        text += f" One item takes {new:.2f} ms on the hub."
    return text


def slice_name(row: SliceRow) -> str:
    """Return what people call a slice."""
    return row.name or ALL_ITEMS


def slice_text(row: SliceRow) -> str:
    """Return the paired test of a slice in words."""
    if row.boxes_new is not None:
        return _boxes_text(row, row.boxes_new)
    if row.scores_new is not None:
        return _scores_sentence(row, row.scores_new)
    text = f"{share_text(row.accuracy_new)} of {row.items_count:,} {_right_text(row)}"
    if row.accuracy_old is None:
        return f"{text}; there is no release to compare with."
    text = (
        f"{text}, {share_text(row.accuracy_old)} before: {row.gained_count} became right, "
        f"{row.lost_count} wrong. "
    )
    return text + _areas_text(row) + _answer(row)


def interval_text(row: SliceRow) -> str:
    """Return the bounds of the difference in points; empty where nothing was compared."""
    if row.bound_low is None or row.bound_high is None:
        return ""
    return f"{row.bound_low * 100:+.1f} … {row.bound_high * 100:+.1f}"


def share_text(value: float | None) -> str:
    """Return a share as per cent with one digit."""
    return "–" if value is None else f"{value * 100:.1f} %"


def points_text(value: float | None) -> str:
    """Return a share as points of a per cent."""
    return "–" if value is None else f"{value * 100:.1f}"


def variant_cells(verdict: Verdict) -> tuple[tuple[str, ...], ...]:
    """Return the table of variants: form, bytes, latency, quality, agreement, and why."""
    return tuple(
        (
            f"{row.name} ({'published' if row.is_chosen else 'not published'})",
            bytes_text(row.artifact_bytes),
            "–" if row.latency_ms is None else f"{row.latency_ms:.2f} ms",
            quality_text(row),
            share_text(row.agreement),
            row.text,
        )
        for row in verdict.variants
    )


def slice_cells(verdict: Verdict) -> tuple[tuple[str, ...], ...]:
    """Return the table of slices: name, items, new, old, interval in points, margin, answer."""
    return tuple(
        (
            slice_name(row),
            f"{row.items_count:,}",
            *compared_texts(row),
            interval_text(row) or "–",
            points_text(row.margin),
            answer_text(row.answer),
        )
        for row in verdict.slices
    )


def quality_text(row: VariantRow) -> str:
    """Return how good a form is on held-out items, named for what it is where not accuracy."""
    if row.boxes is not None:
        return f"{_map_text(row.boxes)}, {_f1_text(row.boxes)}"
    if row.scores is not None:
        return _scores_text(row.scores)
    if row.roc_area is not None:
        return f"{share_text(row.accuracy)} of flags, ROC area {row.roc_area:.3f}"
    return share_text(row.accuracy)


def compared_texts(row: SliceRow) -> tuple[str, str]:
    """Return what is compared of a slice, new and old: see Measure."""
    if row.boxes_new is not None:
        old = f"{row.boxes_old.picture_f1:.3f}" if row.boxes_old is not None else "–"
        return f"F1 {row.boxes_new.picture_f1:.3f}", old if old == "–" else f"F1 {old}"
    if row.scores_new is not None:
        before = row.scores_old
        return _scores_text(row.scores_new), "–" if before is None else _scores_text(before)
    return share_text(row.accuracy_new), share_text(row.accuracy_old)


def answer_text(answer: Answer) -> str:
    """Return a paired test's answer in two or three words."""
    match answer:
        case Answer.NOT_WORSE:
            return "not worse"
        case Answer.WORSE:
            return "worse"
        case Answer.CANNOT_TELL:
            return "cannot tell"
        case Answer.FIRST:
            return "nothing before"


def _right_text(row: SliceRow) -> str:
    return "items are flagged rightly" if row.measure is Measure.FLAGS else "items are right"


def _boxes_text(row: SliceRow, new: BoxScores) -> str:
    """Return the paired test of a detector's pictures in words."""
    old = row.boxes_old
    text = f"On {row.items_count:,} pictures the mean F1 of a picture is {new.picture_f1:.3f}"
    whole = f"{share_text(row.accuracy_new)} of them have every object found and nothing false"
    if old is None:
        return (
            f"{text}, {_map_text(new)}, {_f1_text(new)} over all boxes; {whole}; there is no "
            "release to compare with."
        )
    return (
        f"{text}, {old.picture_f1:.3f} before; {_map_text(new)}, "
        f"{old.mean_average_precision:.3f} before; {_f1_text(new)} over all boxes, {old.f1:.3f} "
        f"before; {whole}: {row.gained_count} became so, {row.lost_count} ceased to. "
        f"{_answer(row)}"
    )


def _scores_sentence(row: SliceRow, new: ItemScores) -> str:
    """Return the paired test of numbers or masks in words."""
    old = row.scores_old
    if new.mae is None:
        what, told, before = "pictures the mean IoU of a picture", new.mean, old and old.mean
    else:
        what = "items the mean error in usual spans of the true values"
        told, before = 1.0 - new.mean, old and 1.0 - old.mean
    text = f"On {row.items_count:,} {what} is {told:.3f}"
    if old is None or before is None:
        exact = f"; {_errors_text(new)}" if new.mae is not None else ""
        return f"{text}{exact}; there is no release to compare with."
    exact = f"{_errors_text(new)}, before {_errors_text(old)}. " if new.mae is not None else ""
    return f"{text}, {before:.3f} before. {exact}{_answer(row)}"


def _scores_text(scores: ItemScores) -> str:
    return f"IoU {scores.mean:.3f}" if scores.mae is None else _errors_text(scores)


def _errors_text(scores: ItemScores) -> str:
    return f"MAE {scores.mae or 0.0:.4g}, RMSE {scores.rmse or 0.0:.4g}"


def _map_text(boxes: BoxScores) -> str:
    return f"mAP@.5 {boxes.mean_average_precision:.3f}"


def _f1_text(boxes: BoxScores) -> str:
    return f"F1 {boxes.f1:.3f}"


def _areas_text(row: SliceRow) -> str:
    areas = row.roc_areas
    if areas is None or areas.old is None:
        return ""
    return f"ROC area {areas.new:.3f}, {areas.old:.3f} before. "


def _answer(row: SliceRow) -> str:
    allowed = f"{points_text(row.margin)} points may be lost"
    low = "" if row.bound_low is None else f"{row.bound_low * 100:+.1f}"
    high = "" if row.bound_high is None else f"{row.bound_high * 100:+.1f}"
    match row.answer:
        case Answer.NOT_WORSE:
            return f"Not worse: with 95 % confidence the change is above {low} points; {allowed}."
        case Answer.WORSE:
            return f"Worse: with 95 % confidence the change is below {high} points; {allowed}."
        case Answer.CANNOT_TELL:
            needed = f"; about {row.items_needed:,} items would" if row.items_needed else ""
            return (
                f"These items cannot tell{needed}: the change may be {low} to {high} points; "
                f"{allowed}."
            )
        case Answer.FIRST:
            return "There is no release to compare with."
