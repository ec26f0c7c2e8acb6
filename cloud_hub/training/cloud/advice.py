"""What the hub asks the search's advisor, and what it answers. Shapes only.

1. The advisor knows nothing but the question: the same question has the same answer, so that a hub
   that was restarted goes on as if it had not been.
2. What the advisor wants to remember of a trial (which rungs it has passed) it is given back with
   the next question.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from cloud_hub.training.cloud.order import SearchOrder

QUESTION = "question.json"
ANSWER = "answer.json"
ADVISOR = "cloud_hub.training.cloud.optuna_advisor"

ParamValue = str | float | int | bool | None


class TrialState(StrEnum):
    """How a trial stands, as a search sees it."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


class TrialHistory(msgspec.Struct, frozen=True):
    """One trial so far, in the order in which they were made."""

    params: Mapping[str, ParamValue]
    state: TrialState
    value: float | None
    values: tuple[float, ...]  # Of its evaluations, the first one first
    memory: Mapping[str, float | str]


class Question(msgspec.Struct, frozen=True):
    """What should be done next?"""

    search: SearchOrder
    seed: int
    evaluations_max: int  # Of one trial
    trials: tuple[TrialHistory, ...]
    is_trial_wanted: bool  # Whether there is room for one more


class Advice(msgspec.Struct, frozen=True):
    """What should be done."""

    params: Mapping[str, ParamValue] | None  # Of the next trial; None: no more
    pruned: tuple[int, ...]  # Running trials without hope, by place in the question
    memory: Mapping[str, Mapping[str, float | str]]  # By place, as text: JSON has no other keys
