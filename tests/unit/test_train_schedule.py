"""How many steps a run has, its learning rate, and what is drawn at each step."""

import msgspec
import pytest

from cloud_hub.training.trainer.schedule import Plan, make_plan, rate_factor, seed_of
from cloud_hub.training.trainer.spec import Recipe, Schedule


@pytest.mark.parametrize(
    ("items", "batch", "epochs", "processes", "steps_per_epoch", "steps_total"),
    [
        (100, 10, 2.0, 1, 10, 20),
        (105, 10, 2.0, 1, 11, 22),
        (101, 10, 2.0, 1, 10, 20),  # One item left over: normalisation cannot take it
        (103, 10, 1.0, 2, 10, 10),  # Three for two processes: one would get one
        (104, 10, 1.0, 2, 11, 11),
        (3, 10, 1.0, 2, 1, 1),  # ... but never no step at all
        (1, 10, 1.0, 1, 1, 1),
        (100, 10, 0.1, 1, 10, 1),
        (100, 10, 0.11, 1, 10, 2),
        (100, 10, 0.001, 1, 10, 1),
    ],
)
def test_a_run_has_so_many_steps(
    items: int, batch: int, epochs: float, processes: int, steps_per_epoch: int, steps_total: int
) -> None:
    plan = make_plan(items, Recipe(epochs=epochs, batch=batch), processes=processes)
    assert plan == Plan(items, batch, steps_per_epoch, steps_total)


@pytest.mark.parametrize("schedule", Schedule)
def test_the_rate_rises_to_the_whole_and_falls_as_the_schedule_says(schedule: Schedule) -> None:
    recipe = Recipe(warmup_share=0.1, schedule=schedule)
    factors = [rate_factor(step, 100, recipe) for step in range(100)]
    assert factors[:11] == sorted(factors[:11])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    if schedule is Schedule.CONSTANT:
        assert factors[99] == 1.0
    else:
        assert 0.0 < factors[99] < 0.02
        assert factors[55] == pytest.approx(0.5)
    assert min(factors) > 0.0


def test_without_a_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert rate_factor(0, 10, msgspec.structs.replace(Recipe(), warmup_share=0.0)) == 1.0


def test_seeds_of_steps_and_streams_differ_and_fit_a_generator() -> None:
    seeds = {seed_of(s, i, stream=k) for s in range(5) for i in range(200) for k in range(4)}
    assert len(seeds) == 4000
    assert all(0 <= seed < 2**63 for seed in seeds)
