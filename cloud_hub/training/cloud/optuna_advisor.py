"""The search's advisor: `python -m cloud_hub.training.cloud.optuna_advisor FOLDER`.

FOLDER holds question.json; this writes answer.json and ends. Optuna keeps nothing between two
questions: the study is made anew of the history, in memory, with a seed that follows from the
order's and from how many trials there are.

1. Trials that run count for the sampler (constant liar), so that two at a time are not the same.
2. A running trial is judged at its last evaluation; one evaluation is one unit of Hyperband's
   resource.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as State

from cloud_hub.training.cloud.advice import (
    ANSWER,
    QUESTION,
    Advice,
    ParamValue,
    Question,
    TrialHistory,
    TrialState,
)
from cloud_hub.training.cloud.order import Choice, Pruner, Range, Sampler, SearchOrder
from cloud_hub.training.cloud.order_settings import grid_point, trials_count
from shared.durable_file import write_durably

STARTUP_MAX = 10  # Trials at random before TPE has something to go by
MEDIAN_TRIALS_MIN = 3  # Others that are done, before one is ended for being below their median
REDUCTION = 3  # Hyperband's eta
STUDY = "isthmus"  # Hyperband deals trials into brackets by the study's name and the number
_STATES = {
    TrialState.RUNNING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAILED: State.FAIL,
}


def advise(question: Question) -> Advice:
    """Return what should be done."""
    space = _space(question.search)
    study = optuna.create_study(
        study_name=STUDY,
        direction="maximize",
        sampler=_sampler(question, space),
        pruner=_pruner(question),
    )
    for trial in question.trials:
        study.add_trial(_frozen(trial, space))
    pruned, memory = _prune(study, question)
    return Advice(params=_next(study, question, space), pruned=pruned, memory=memory)


def _prune(
    study: optuna.Study, question: Question
) -> tuple[tuple[int, ...], dict[str, Mapping[str, float | str]]]:
    pruned = []
    for number, trial in enumerate(question.trials):
        if trial.state is TrialState.RUNNING and trial.values:
            frozen = study.get_trials(deepcopy=False)[number]
            if study.pruner.prune(study, frozen):
                pruned.append(number)
    memory: dict[str, Mapping[str, float | str]] = {}
    for number, frozen in enumerate(study.get_trials(deepcopy=False)):
        kept = {
            name: value
            for name, value in frozen.system_attrs.items()
            if name.startswith("completed_rung")
        }
        if kept:
            memory[str(number)] = kept
    return tuple(pruned), memory


def _next(
    study: optuna.Study, question: Question, space: Mapping[str, BaseDistribution]
) -> dict[str, ParamValue] | None:
    count = len(question.trials)
    if not question.is_trial_wanted or count >= trials_count(question.search):
        return None
    if question.search.sampler is Sampler.GRID:
        return dict(grid_point(question.search, count))
    asked = study.ask(dict(space))
    return {path: _native(value) for path, value in asked.params.items()}


def _space(search: SearchOrder) -> dict[str, BaseDistribution]:
    return {path: _distribution(search.space[path]) for path in sorted(search.space)}


def _distribution(values: Range | Choice) -> BaseDistribution:
    if isinstance(values, Choice):
        return CategoricalDistribution(values.values)
    if values.is_whole:
        step = 1 if values.is_log or values.step is None else max(1, round(values.step))
        return IntDistribution(round(values.low), round(values.high), log=values.is_log, step=step)
    step_size = None if values.is_log else values.step
    return FloatDistribution(values.low, values.high, log=values.is_log, step=step_size)


def _sampler(question: Question, space: Mapping[str, BaseDistribution]) -> BaseSampler:
    seed = (question.seed * 1_000_003 + len(question.trials)) % 2**32
    if question.search.sampler is Sampler.TPE:
        startup = min(STARTUP_MAX, max(2, question.search.trials // 4))
        return TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=len(space) > 1, constant_liar=True
        )
    return RandomSampler(seed=seed)


def _pruner(question: Question) -> BasePruner:
    match question.search.pruner:
        case Pruner.NONE:
            return NopPruner()
        case Pruner.MEDIAN:
            return MedianPruner(n_startup_trials=MEDIAN_TRIALS_MIN, n_warmup_steps=0)
        case Pruner.HYPERBAND:
            return HyperbandPruner(
                min_resource=1,
                max_resource=max(1, question.evaluations_max),
                reduction_factor=REDUCTION,
            )


def _frozen(trial: TrialHistory, space: Mapping[str, BaseDistribution]) -> FrozenTrial:
    state = trial.state
    value = trial.value
    if state is TrialState.COMPLETE and value is None:
        state = TrialState.FAILED
    if state is TrialState.PRUNED and not trial.values:
        state = TrialState.FAILED
    params = {path: trial.params[path] for path in space}
    is_float = {path: isinstance(space[path], FloatDistribution) for path in space}
    return create_trial(
        state=_STATES[state],
        value=value if state is TrialState.COMPLETE else None,
        params={
            path: float(given) if is_float[path] and isinstance(given, int) else given
            for path, given in params.items()
        },
        distributions=dict(space) if trial.params else {},
        intermediate_values=dict(enumerate(trial.values, start=1)),
        system_attrs=dict(trial.memory),
    )


def _native(value: object) -> ParamValue:
    assert value is None or isinstance(value, str | int | float | bool)
    return value


def main() -> None:
    """Answer the question in the folder named on the command line."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = Path(sys.argv[1])
    question = msgspec.json.decode((folder / QUESTION).read_bytes(), type=Question)
    write_durably(folder / ANSWER, msgspec.json.encode(advise(question)))


if __name__ == "__main__":
    main()
