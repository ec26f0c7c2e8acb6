"""Which form of a model is published: facts in, rows with reasons out. Pure.

1. The model as it came is published unless another form is worth it.
2. Another form must decide nearly always as the first (`agreement_min`) and lose hardly any
   accuracy (`accuracy_loss_max`). Of detectors: find nearly all boxes that the first finds and
   hardly any other, and lose hardly any mean average precision (`map_loss_max`). Of numbers and
   masks: lose hardly any of the mean score of an item, within `accuracy_loss_max` too.
3. It must gain something: `speedup_min`, or `size_gain_min` while not being slower than
   `slowdown_max` allows; below `latency_floor_ms` slower does not matter.
4. Of those the fastest is taken where one gains speed, else the smallest; of forms that are hardly
   larger than it (`size_tie_max`), the fastest. Forms for particular processors are not: what the
   hub measures of them says little.
5. Published beside it are all forms that hold rule 2, whether they gain anything here or not: each
   device measures them itself. First the chosen one, then by time, those for particular processors
   last; of int8 and int8-qat, which are one precision, the better. The model as it came is always
   among them, unless what the gate says of it on held-out items (`is_fit`) speaks against it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

from msgspec import Meta

from cloud_hub.candidates.candidate import ItemScores, Measure, VariantRow
from cloud_hub.candidates.examination import EvaluationFacts, VariantFacts
from shared.settings import Settings
from shared.wire.limits import Share

INT8 = "int8"
TUNED = "int8-qat"
PRECISIONS = {TUNED: INT8}  # Where a form's precision is not its name


class VariantSettings(Settings, frozen=True):
    """Limits of rule 2 and 3. Measured before: int8 is from 0.8 to 3.6 times as fast as fp32."""

    agreement_min: Share = 0.95  # Of items; of detectors of the boxes of both forms
    accuracy_loss_max: Share = 0.01
    map_loss_max: Share = 0.01  # Of detectors, at an overlap of 0.5
    speedup_min: Annotated[float, Meta(ge=1.0, le=100.0)] = 1.15
    size_gain_min: Annotated[float, Meta(ge=1.0, le=100.0)] = 2.0
    slowdown_max: Annotated[float, Meta(ge=1.0, le=100.0)] = 1.1
    latency_floor_ms: Annotated[float, Meta(ge=0.0)] = 1.0
    # LeNet: int8 was 1.03 x smaller than int8-dynamic and took twice the time.
    size_tie_max: Annotated[float, Meta(ge=1.0, le=100.0)] = 1.1
    is_int8_built: bool = True
    # Calibration: where MinMax agrees as well on the calibration part, nothing else is tried
    calibration_agreement_enough: Share = 0.99
    # Digits of 140 kB: int8 of any kind was slower than fp32, on any processor
    processor_forms_bytes_min: Annotated[int, Meta(ge=0)] = 256 << 10


def choose(
    facts: EvaluationFacts, settings: VariantSettings
) -> tuple[VariantFacts, tuple[VariantRow, ...]]:
    """Return the form to publish, and a row about each form, as they were built."""
    first = facts.variants[0]
    texts = {one.name: why_not(one, first, facts, settings) for one in facts.variants[1:]}
    worth = [one for one in facts.variants[1:] if not texts[one.name] and not one.architectures]
    chosen = _best(worth, first, settings) if worth else first
    rows = []
    for one in facts.variants:
        text = texts.get(one.name) or "another form is better still"
        if one.architectures and not texts[one.name]:
            text = f"for {', '.join(one.architectures)}"
        if one is chosen:
            text = "the model as it came" if one is first else _gain(one, first)
        elif one is first:
            text = f"{chosen.name} is published in its place"
        rows.append(replace(_row(one, facts, text), is_chosen=one is chosen))
    return chosen, tuple(rows)


def published(
    chosen: VariantFacts,
    facts: EvaluationFacts,
    settings: VariantSettings,
    is_fit: Callable[[VariantFacts], bool],
) -> tuple[VariantFacts, ...]:
    """Return all forms to publish, best first, `chosen` at the head; rule 5."""
    first = facts.variants[0]
    others = [
        one
        for one in facts.variants
        if one is not chosen and (one is first or not unlike(one, first, facts, settings))
    ]
    others = [one for one in others if is_fit(one)]
    others.sort(key=lambda one: (bool(one.architectures), one.latency_ms or 0.0, one.name))
    kept: dict[str, VariantFacts] = {}
    for one in (chosen, *others):
        kept.setdefault(precision_of(one, first), one)
    return tuple(kept.values())


def precision_of(one: VariantFacts, first: VariantFacts) -> str:
    """Return what a form is called in its release; a model that came as int8 is "int8"."""
    return one.model.precision if one is first else PRECISIONS.get(one.name, one.name)


def why_not(
    one: VariantFacts, first: VariantFacts, facts: EvaluationFacts, settings: VariantSettings
) -> str:
    """Return why a form is not worth publishing in place of the first, or ""."""
    text = unlike(one, first, facts, settings)
    if text:
        return text
    is_small_enough = one.artifact_bytes * settings.size_gain_min <= first.artifact_bytes
    slow_ms = max((first.latency_ms or 0.0) * settings.slowdown_max, settings.latency_floor_ms)
    if _is_fast(one, first, settings) or (is_small_enough and (one.latency_ms or 0.0) <= slow_ms):
        return ""
    return f"it gains too little: {_gain(one, first)}"


def unlike(
    one: VariantFacts, first: VariantFacts, facts: EvaluationFacts, settings: VariantSettings
) -> str:
    """Return why a form may not stand for the first at all, or ""; rule 2."""
    if one.error:
        return one.error
    if not facts.items_count:
        return "no held-out items to judge it by"
    if one.agreement_total == 0:
        return f"neither finds any {_things(one)} on held-out items: nothing to judge it by"
    agreement, least = agreement_of(one, facts), settings.agreement_min
    if agreement < least:
        things = _things(one)
        return f"it agrees on {agreement:.3f} of the {things}, {least:g} is the least"
    lost, most = accuracy_loss(one, first), _loss_max(one, settings)
    if lost > most:
        what = "mAP@.5" if _has_boxes(one) else "the score" if _scores(one) else "accuracy"
        return f"it loses {lost:.3f} of {what}, {most:g} is the most"
    return ""


def wants_tuning(facts: EvaluationFacts, settings: VariantSettings) -> bool:
    """Whether post-training int8 loses more than the limit, so that tuning may help."""
    first = facts.variants[0]
    for one in facts.variants[1:]:
        if one.name == INT8 and not one.error and facts.items_count:
            is_apart = agreement_of(one, facts) < settings.agreement_min
            return is_apart or accuracy_loss(one, first) > _loss_max(one, settings)
    return False


def agreement_of(one: VariantFacts, facts: EvaluationFacts) -> float:
    """Return the share of items, or of boxes, on which a form agrees with the first; 1 of none."""
    total = facts.items_count if one.agreement_total is None else one.agreement_total
    return one.agreement_count / total if total else 1.0


def accuracy_loss(one: VariantFacts, first: VariantFacts) -> float:
    """Return how much less accurate a form is than the first, on the same held-out items.

    Of detectors: how much mean average precision it loses; of numbers and masks, of their score.
    """
    if not one.slices or not first.slices or not first.slices[0].items_count:
        return 0.0
    boxes, boxes_first = one.slices[0].boxes, first.slices[0].boxes
    if boxes is not None and boxes_first is not None:
        return boxes_first.new.mean_average_precision - boxes.new.mean_average_precision
    scores, scores_first = _scores(one), _scores(first)
    if scores is not None and scores_first is not None:
        return scores_first.mean - scores.mean
    lost = first.slices[0].right_count - one.slices[0].right_count
    return lost / first.slices[0].items_count


def _has_boxes(one: VariantFacts) -> bool:
    return bool(one.slices) and one.slices[0].boxes is not None


def _scores(one: VariantFacts) -> ItemScores | None:
    scores = one.slices[0].scores if one.slices else None
    return scores.new if scores is not None else None


def _things(one: VariantFacts) -> str:
    """Return what forms agree on."""
    scores = one.slices[0].scores if one.slices else None
    if scores is not None and scores.measure is Measure.PICTURE_IOU:
        return "pixels"
    return "boxes" if _has_boxes(one) else "items"


def _loss_max(one: VariantFacts, settings: VariantSettings) -> float:
    return settings.map_loss_max if _has_boxes(one) else settings.accuracy_loss_max


def _is_fast(one: VariantFacts, first: VariantFacts, settings: VariantSettings) -> bool:
    if one.latency_ms is None or first.latency_ms is None:
        return False
    return one.latency_ms * settings.speedup_min <= first.latency_ms


def _best(
    worth: Sequence[VariantFacts], first: VariantFacts, settings: VariantSettings
) -> VariantFacts:
    """Return the form of rule 4, of at least one."""
    among = [one for one in worth if _is_fast(one, first, settings)]
    if not among:
        bytes_max = settings.size_tie_max * min(one.artifact_bytes for one in worth)
        among = [one for one in worth if one.artifact_bytes <= bytes_max]
    return min(among, key=lambda one: (one.latency_ms or 0.0, one.artifact_bytes, one.name))


def _gain(one: VariantFacts, first: VariantFacts) -> str:
    size = first.artifact_bytes / max(one.artifact_bytes, 1)
    if not one.latency_ms or not first.latency_ms:
        return f"{size:.2f} x smaller"
    return f"{first.latency_ms / one.latency_ms:.2f} x as fast, {size:.2f} x smaller"


def _row(one: VariantFacts, facts: EvaluationFacts, text: str) -> VariantRow:
    row = VariantRow(
        name=one.name,
        precision=one.model.precision if not one.error else "",
        is_chosen=False,
        text=text,
        artifact_bytes=one.artifact_bytes,
        latency_ms=one.latency_ms,
        calibration=one.calibration,
    )
    if not one.slices or not facts.items_count:
        return row
    counts = one.slices[0]
    boxes, areas = counts.boxes, counts.roc_areas
    return replace(
        row,
        accuracy=counts.right_count / facts.items_count if counts.paired is None else None,
        agreement=agreement_of(one, facts) if one.agreement_total != 0 else None,
        boxes=boxes.new if boxes else None,
        roc_area=areas.new if areas else None,
        scores=_scores(one),
    )
