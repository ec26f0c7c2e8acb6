"""Concluder: what one pipeline concludes from item after item on one release.

1. `conclude` is called in the order of items, by one thread at a time. What is remembered from item
   to item lives here and nowhere else: the class decided last, tracks, lines, zones, thresholds.
2. A failed read (RefusedError) changes nothing that is remembered.
3. `hold` is for an item that was not looked at because nothing moved: what was concluded last is
   told again, tracks go on standing where they stood, nobody crosses anything.
4. A new release goes on from the one before: `carry_over` copies what is remembered, as far as it
   means the same under the new spec and settings. Both can go on afterwards, each on its own.
"""

import copy
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_agent.decisions.adaptive import AdaptiveThreshold
from edge_agent.decisions.anomaly import confidence_of, judge_score
from edge_agent.decisions.conclude import NUMBER_MAX, Conclusion, conclude
from edge_agent.decisions.novelty import Novelty
from edge_agent.decisions.tracking import Tracking
from shared.model.preprocess import Placement
from shared.model.spec import ModelSpec, Task
from shared.pipeline.decisions import AdaptiveThresholdSettings, DecisionSettings, NoveltySettings
from shared.pipeline.sources import SENSORS_MAX
from shared.wire.records import Classified, Detected, Scored

log = logging.getLogger(__name__)

Array = NDArray[np.generic]


class Concluder:
    """See the rules above."""

    def __init__(self, spec: ModelSpec, settings: DecisionSettings) -> None:
        """Start without a memory."""
        self._spec, self._settings = spec, settings
        self._state = _State()
        self._is_full = False
        if settings.tracking is not None:
            self._state.tracking = Tracking(settings.tracking, settings)

    def conclude(
        self,
        outputs: tuple[Array, ...],
        *,
        batch: Array,
        placement: Placement | None,
        at_s: float,
        sensor: str = "",
    ) -> Conclusion:
        """Return what a model's outputs mean, after all that came before.

        Args:
            outputs: the model's, for one item.
            batch: the input tensor of that item.
            placement: where the frame lay within the input; None for what is no picture.
            at_s: when the item was, by its own time (sources/item.py); never falls.
            sensor: whose item it is, at a source of many; each has a memory of its own.

        Raises:
            RefusedError: `inference.output`, `inference.input`.
        """
        state = self._state
        last = state.last.get(sensor)
        conclusion = conclude(
            outputs,
            self._spec,
            self._settings,
            batch=batch,
            placement=placement,
            previous=None if last is None else last.outcome,
        )
        match conclusion.outcome:
            case Detected(boxes=boxes) if state.tracking is not None:
                tracked = state.tracking.update(boxes, at_s=at_s)
                conclusion = Conclusion(tracked, conclusion.confidence)
            case Scored() as scored if self._settings.adaptive is not None:
                conclusion = self._judge(scored, self._settings.adaptive, sensor)
            case Scored(score=score) if self._settings.novelty is not None:
                conclusion = self._judge_novelty(score, self._settings.novelty, sensor)
            case Classified() as classified if last is not None and self._settings.settle_s:
                conclusion = self._settle(classified, last, at_s, sensor)
            case _:
                pass
        _keep(state.last, sensor, conclusion, SENSORS_MAX)
        return conclusion

    def hold(self, *, at_s: float, sensor: str = "") -> Conclusion | None:
        """Return what was concluded last, for an item on which nothing moved; None at first."""
        state = self._state
        last = state.last.get(sensor)
        if last is None or state.tracking is None:
            return last
        return Conclusion(state.tracking.hold(at_s=at_s), last.confidence)

    def carry_over(self, previous: "Concluder") -> None:
        """Go on from `previous`; see rule 4. Call before the first `conclude`."""
        before, same_task = previous.memory, previous.task is self._spec.task
        if not same_task:
            return
        tracking = self._state.tracking
        if tracking is not None and before.tracking is not None:
            tracking.carry_over(before.tracking)
        # Another model's scores are on another scale: its thresholds mean nothing to this one.
        self._state = _State(
            last=before.last.copy(), wanted=before.wanted.copy(), tracking=tracking
        )
        if previous.judges_as(self._spec, self._settings):
            self._state.thresholds = copy.deepcopy(before.thresholds)
            self._state.novelties = copy.deepcopy(before.novelties)

    @property
    def memory(self) -> "_State":
        """Return what is remembered; for `carry_over`."""
        return self._state

    @property
    def task(self) -> Task:
        """Return the task of the spec."""
        return self._spec.task

    def judges_as(self, spec: ModelSpec, settings: DecisionSettings) -> bool:
        """Return whether scores mean the same under another spec and settings."""
        return (spec.model, spec.input, spec.output) == (
            self._spec.model,
            self._spec.input,
            self._spec.output,
        ) and (settings.adaptive, settings.novelty) == (
            self._settings.adaptive,
            self._settings.novelty,
        )

    def _judge(
        self, scored: Scored, settings: AdaptiveThresholdSettings, sensor: str
    ) -> Conclusion:
        thresholds = self._state.thresholds
        threshold = thresholds.get(sensor) or AdaptiveThreshold(settings)
        self._note_full(is_full=_keep(thresholds, sensor, threshold, settings.sensors_max))
        value = min(threshold.judge(scored.score), NUMBER_MAX)
        judged = Scored(scored.score, value, is_anomalous=scored.score > value)
        return Conclusion(judged, confidence_of(judged))

    def _judge_novelty(self, score: float, settings: NoveltySettings, sensor: str) -> Conclusion:
        novelties = self._state.novelties
        novelty = novelties.get(sensor) or Novelty(settings)
        self._note_full(is_full=_keep(novelties, sensor, novelty, settings.sensors_max))
        judged = judge_score(novelty.score(score), settings.threshold)
        return Conclusion(judged, confidence_of(judged))

    def _note_full(self, *, is_full: bool) -> None:
        """Say once that a sensor was forgotten: one that is forgotten each time never learns."""
        if is_full and not self._is_full:
            self._is_full = True
            log.warning("decisions.sensors_full", extra={"model": self._spec.model})

    def _settle(self, found: Classified, last: Conclusion, at_s: float, sensor: str) -> Conclusion:
        """Keep the class told last until another was found for `settle_s` without a break."""
        assert isinstance(last.outcome, Classified), "a spec has one task"
        wanted = self._state.wanted
        if found.label == last.outcome.label:
            wanted.pop(sensor, None)
            return Conclusion(found, found.confidence)
        since = wanted.get(sensor)
        if since is None or since[0] != found.label:
            since = (found.label, at_s)
            _keep(wanted, sensor, since, SENSORS_MAX)
        if at_s - since[1] >= self._settings.settle_s:
            del wanted[sensor]
            return Conclusion(found, found.confidence)
        return last


@dataclass(slots=True)
class _State:
    """All that is remembered; by sensor, the longest silent first."""

    last: OrderedDict[str, Conclusion] = field(default_factory=OrderedDict)
    wanted: OrderedDict[str, tuple[str, float]] = field(default_factory=OrderedDict)
    thresholds: OrderedDict[str, AdaptiveThreshold] = field(default_factory=OrderedDict)
    novelties: OrderedDict[str, Novelty] = field(default_factory=OrderedDict)
    tracking: Tracking | None = None


T = TypeVar("T")


def _keep(memory: OrderedDict[str, T], sensor: str, value: T, count_max: int) -> bool:
    """Remember `value` of a sensor; forget the longest silent one beyond `count_max`.

    Returns whether one was forgotten.
    """
    memory[sensor] = value
    memory.move_to_end(sensor)
    if len(memory) <= count_max:
        return False
    memory.popitem(last=False)
    return True
