"""The search's advisor, asked as the hub asks it: with the whole history, each time."""

from collections.abc import Sequence

import pytest

from cloud_hub.training.cloud.advice import Advice, ParamValue, Question, TrialHistory, TrialState
from cloud_hub.training.cloud.optuna_advisor import advise
from cloud_hub.training.cloud.order import Choice, Pruner, Range, Sampler, SearchOrder
from cloud_hub.training.cloud.process_advisor import ask

SPACE: dict[str, Range | Choice] = {
    "recipe.learning_rate": Range(low=1e-4, high=1.0, is_log=True),
    "recipe.batch": Range(low=8, high=64, step=8, is_whole=True),
    "recipe.optimiser": Choice(values=("sgd", "adamw")),
}


def question(
    *trials: TrialHistory,
    sampler: Sampler = Sampler.TPE,
    pruner: Pruner = Pruner.NONE,
    seed: int = 0,
    is_wanted: bool = True,
    trials_max: int = 8,
) -> Question:
    search = SearchOrder(space=SPACE, sampler=sampler, pruner=pruner, trials=trials_max)
    return Question(search, seed, 9, trials, is_wanted)


def trial(
    rate: float,
    values: Sequence[float],
    state: TrialState = TrialState.COMPLETE,
    memory: dict[str, float | str] | None = None,
) -> TrialHistory:
    params: dict[str, ParamValue] = {
        "recipe.learning_rate": rate,
        "recipe.batch": 16,
        "recipe.optimiser": "sgd",
    }
    value = max(values, default=None) if state is TrialState.COMPLETE else None
    return TrialHistory(params, state, value, tuple(values), memory or {})


@pytest.mark.slow
def test_a_process_gives_the_same_answer_to_the_same_question() -> None:
    history = [trial(10.0**-i, (0.1 * i,)) for i in range(1, 5)]
    first = ask(question(*history))
    assert first == ask(question(*history)) == advise(question(*history))
    assert first.params is not None
    assert 1e-4 <= float(first.params["recipe.learning_rate"] or 0) <= 1.0
    assert int(first.params["recipe.batch"] or 0) % 8 == 0


@pytest.mark.parametrize("sampler", [Sampler.RANDOM, Sampler.TPE])
def test_seeds_and_trials_make_other_answers(sampler: Sampler) -> None:
    first = advise(question(sampler=sampler)).params
    assert first != advise(question(sampler=sampler, seed=1)).params
    assert first != advise(question(trial(0.1, (0.5,)), sampler=sampler)).params


def test_tpe_looks_where_it_was_good() -> None:
    good = [trial(0.1 + i / 1000, (0.9,)) for i in range(10)]
    bad = [trial(10.0 ** -(2 + i / 15), (0.1,)) for i in range(30)]
    rates = [
        float(
            (advise(question(*good, *bad, seed=seed, trials_max=50)).params or {})[
                "recipe.learning_rate"
            ]
            or 0
        )
        for seed in range(8)
    ]
    # By chance half of them would be.
    assert all(rate > 0.01 for rate in rates)


def test_no_more_trials_than_were_ordered() -> None:
    assert advise(question(*[trial(0.1, (0.5,))] * 8)).params is None
    assert advise(question(is_wanted=False)).params is None


def test_the_median_ends_a_trial_that_lies_below_it() -> None:
    done = [trial(0.1, (0.5, 0.6, 0.7)) for _ in range(3)]
    weak = trial(0.001, (0.1, 0.2), TrialState.RUNNING)
    strong = trial(0.2, (0.6, 0.8), TrialState.RUNNING)
    assert _advice(Pruner.MEDIAN, *done, weak, strong).pruned == (3,)
    # Two others that are done are too few to judge by.
    assert _advice(Pruner.MEDIAN, *done[:2], weak).pruned == ()
    assert _advice(Pruner.NONE, *done, weak).pruned == ()


def test_hyperband_ends_trials_and_remembers_the_rungs() -> None:
    history = [trial(0.1, (0.5 + i / 20,) * 9) for i in range(6)]
    for number in range(len(history)):
        running = [*history[:number], trial(0.1, history[number].values, TrialState.RUNNING)]
        advice = _advice(Pruner.HYPERBAND, *running)
        memory = dict(advice.memory.get(str(number), {}))
        history[number] = trial(0.1, history[number].values, memory=memory)
    assert any(one.memory for one in history)
    weak = [trial(0.1, (0.01,) * 9, TrialState.RUNNING)] * 2
    assert 6 in _advice(Pruner.HYPERBAND, *history, *weak).pruned


def test_failed_and_pruned_trials_and_those_without_values_do_no_harm() -> None:
    history = [
        trial(0.1, (), TrialState.FAILED), trial(0.1, (0.3,), TrialState.PRUNED),
        trial(0.1, (), TrialState.PRUNED), trial(0.1, (), TrialState.COMPLETE),
        trial(0.1, (), TrialState.RUNNING),
    ]  # fmt: skip
    assert _advice(Pruner.HYPERBAND, *history).params is not None


def _advice(pruner: Pruner, *trials: TrialHistory) -> Advice:
    return advise(question(*trials, pruner=pruner))
