"""Search spaces, checks of orders, events and curves of cloud Jobs."""

from pathlib import Path

import pytest

from cloud_hub.training.cloud.advice import Question, TrialHistory, TrialState
from cloud_hub.training.cloud.cloud_job import CloudJobId, RunKind, RunProgress
from cloud_hub.training.cloud.curves import POINTS_MAX, make_curve, number_events
from cloud_hub.training.cloud.event_summary import summarise
from cloud_hub.training.cloud.order import Choice, CloudOrder, Pruner, Range, Sampler, SearchOrder
from cloud_hub.training.cloud.order_checks import check_prefixes
from cloud_hub.training.cloud.order_settings import (
    check_space,
    grid_point,
    grid_size,
    trials_count,
    with_params,
)
from cloud_hub.training.cloud.run_commands import command_of
from cloud_hub.training.cloud.search import advise_simply
from cloud_hub.training.trainer.run_files import (
    Evaluated,
    Progressed,
    Started,
    encode_event,
)
from cloud_hub.training.trainer.spec import PartTrained
from shared.errors import ContractError
from shared.model.network import DenseNetwork, NetworkSpec

NETWORK = NetworkSpec(architecture=DenseNetwork(hidden=(16, 8)))


def order(**changes: object) -> CloudOrder:
    return CloudOrder(
        model="tones", dataset="tones", checkpoint="ckpt-1", is_transfer=True,
        **changes,  # type: ignore[arg-type]
    )  # fmt: skip


def search(**space: Range | Choice) -> SearchOrder:
    return SearchOrder(
        space={path.replace("__", "."): values for path, values in space.items()},
        sampler=Sampler.GRID,
        pruner=Pruner.NONE,
    )


def test_values_are_put_into_the_order_and_the_network_by_path() -> None:
    params = {
        "recipe.learning_rate": 0.5,
        "recipe.augmentation.shift": 0.1,
        "method.label_smoothing": 0.2,
        "network.architecture.hidden.1": 32,
    }
    after, network = with_params(order(), NETWORK, params)
    assert (after.recipe.learning_rate, after.recipe.augmentation.shift) == (0.5, 0.1)
    assert getattr(after.method, "label_smoothing") == 0.2  # noqa: B009
    assert network == NetworkSpec(architecture=DenseNetwork(hidden=(16, 32)))


@pytest.mark.parametrize(
    "space",
    [
        search(recipe__no_rate=Choice(values=(0.1,))),
        search(recipe__learning_rate=Range(low=0.0, high=1.0)),  # Must be above 0
        search(recipe__batch=Range(low=1.0, high=8.0)),  # Not whole
        search(recipe__optimiser=Choice(values=("sgd", "none"))),
        search(method__kind=Choice(values=("supervised",))),
        search(network__architecture__hidden__7=Choice(values=(8,))),
        search(recipe__learning_rate=Range(low=0.1, high=1.0)),  # A grid, and no step
    ],
)
def test_a_space_that_the_order_cannot_take_is_refused(space: SearchOrder) -> None:
    with pytest.raises(ContractError) as caught:
        check_space(order(search=space), NETWORK)
    assert caught.value.code == "order.search"
    assert caught.value.remedy


def test_a_network_is_not_searched_where_weights_must_fit() -> None:
    space = search(network__architecture__hidden__0=Choice(values=(8, 16)))
    check_space(order(search=space), NETWORK)
    strict = CloudOrder(model="tones", dataset="tones", checkpoint="ckpt-1", search=space)
    with pytest.raises(ContractError, match="must fit"):
        check_space(strict, NETWORK)


def test_a_grid_has_every_point_once() -> None:
    space = search(
        recipe__batch=Range(low=8, high=16, step=4, is_whole=True),
        recipe__learning_rate=Choice(values=(0.1, 0.2)),
    )
    check_space(order(search=space), NETWORK)
    assert (grid_size(space), trials_count(space)) == (6, 6)
    points = [tuple(grid_point(space, index).values()) for index in range(6)]
    assert points == [(8, 0.1), (8, 0.2), (12, 0.1), (12, 0.2), (16, 0.1), (16, 0.2)]


def test_a_grid_without_pruning_needs_no_advisor() -> None:
    space = search(recipe__learning_rate=Choice(values=(0.1, 0.2)))
    one = TrialHistory({"recipe.learning_rate": 0.1}, TrialState.RUNNING, None, (), {})
    first = advise_simply(Question(space, 0, 3, (), is_trial_wanted=True))
    last = advise_simply(Question(space, 0, 3, (one, one), is_trial_wanted=True))
    assert first is not None
    assert last is not None
    assert (first.params, last.params) == ({"recipe.learning_rate": 0.1}, None)


def test_prefixes_must_be_those_of_parameters() -> None:
    names = ("body.0.weight", "head.weight", "head.bias")
    check_prefixes(order(trained=PartTrained(prefixes=("head.",))), names)
    with pytest.raises(ContractError, match="body, head") as caught:
        check_prefixes(order(trained=PartTrained(prefixes=("haed.",))), names)
    assert caught.value.code == "order.trained"


def test_more_than_one_process_is_under_torchrun() -> None:
    folder = Path("/runs/cloud-1-0")
    one = command_of(RunKind.SINGLE, folder, processes=1)
    assert one[1:] == ("-m", "cloud_hub.training.trainer", "--spec", "/runs/cloud-1-0/job.json")
    many = command_of(RunKind.FOLD, folder, processes=4)
    assert many[1:7] == (
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "--max-restarts",
    )  # fmt: skip
    assert many[-2:] == one[-2:]


def test_device_seconds_of_attempts_add_up_and_strange_lines_say_nothing() -> None:
    lines = [
        encode_event(started(None)), encode_event(progressed(10, spent=4.0)), b"{torn",
        encode_event(started(10)), encode_event(progressed(12, spent=1.0)),
        encode_event(evaluated(12, 0.7)), encode_event(evaluated(14, 0.6)),
    ]  # fmt: skip
    first = summarise(RunProgress(), lines[:3])
    assert (first.progress.device_seconds, first.strange_count) == (4.0, 1)
    found = summarise(first.progress, lines[3:]).progress
    assert (found.device_seconds, found.resumed_step) == (5.0, 10)
    assert (found.last_value, found.best_value, found.evaluations) == (0.6, 0.7, 2)


def test_a_curve_is_thinned_and_keeps_its_end_and_its_best() -> None:
    count = 4 * POINTS_MAX + 1
    data = b"".join(encode_event(progressed(step)) for step in range(count))
    data += b"".join(encode_event(evaluated(s, 0.5, is_best=s == 17)) for s in range(count))
    events = number_events(data + b'{"event": "prog', after=0, limit=10 * count)
    assert len(events) == 2 * count
    curve = make_curve(CloudJobId("cloud-1"), 0, events)
    assert len(curve.progress) <= POINTS_MAX
    assert curve.progress[-1].step == count - 1
    assert len(curve.evaluations) <= POINTS_MAX + 1
    assert any(point.is_best for point in curve.evaluations)
    assert [e.number for e in number_events(data, after=7, limit=2)] == [8, 9]


def started(resumed_step: int | None) -> Started:
    return Started(0, resumed_step, "cpu", "fp32", 1, 4, 4, {}, 20)


def progressed(step: int, *, spent: float = 0.0) -> Progressed:
    return Progressed(0, step, step / 10, 0.5, 0.1, 100.0, spent, 1)


def evaluated(step: int, value: float, *, is_best: bool = False) -> Evaluated:
    return Evaluated(0, step, step / 10, {}, value, is_best)
