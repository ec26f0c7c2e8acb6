"""The form that orders a Job in the cloud: what it offers, what it makes, what it complains of."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
import pytest

from cloud_hub.candidates.checkpoint import Checkpoint, CheckpointId
from cloud_hub.dashboard.form_fields import FormField, FormState
from cloud_hub.dashboard.train_choices import METHODS
from cloud_hub.dashboard.train_form import FormFacts, TrainForm, make_form, tasks_of
from cloud_hub.dashboard.train_order import OrderMaterial, errors_of, make_order
from cloud_hub.datasets.dataset import Dataset, DatasetName
from cloud_hub.datasets.manifest import ItemKind, Manifest
from cloud_hub.training.cloud.order import Choice, CloudOrder, ExecutorName, Range, SearchOrder
from cloud_hub.training.trainer.spec import (
    DistillationMethod,
    LowRankTrained,
    OptimiserName,
    PartTrained,
    SupervisedMethod,
)
from shared.errors import ContractError, RefusedError
from shared.ids import LineageId, ModelName
from shared.model.network import LenetNetwork, NetworkSpec, WindowNetwork
from shared.model.spec import Colour, Decoder, ImageInput, Task, WindowInput
from tests.support.training_runs import MODEL, NETWORK

KINDS = [(kind, task) for kind in ItemKind for task in tasks_of(kind)]


def dataset(kind: ItemKind = ItemKind.IMAGE) -> Dataset:
    return Dataset(DatasetName("shapes"), kind, ("bar", "stripe"), "ada", 0, None)


def checkpoint(model: str = MODEL.model) -> Checkpoint:
    return Checkpoint(
        CheckpointId("ckpt-1"), ModelName(model), MODEL, NETWORK, "a" * 64, 100,
        LineageId("line-1"), "drawn", 0,
    )  # fmt: skip


def form(
    kind: ItemKind = ItemKind.IMAGE,
    task: Task = Task.CLASSIFICATION,
    base: Checkpoint | None = None,
    state: Mapping[str, str] = MappingProxyType({}),
) -> TrainForm:
    facts = FormFacts(dataset(kind), 2, 600, base, (28, 20), True, [checkpoint()])
    return make_form(facts, task, FormState(state, {}))


def fields(made: TrainForm) -> dict[str, str]:
    """Return what a browser sends of a form that nobody has touched."""
    method = made.methods[0]
    shown: list[FormField] = [
        made.model, *made.fresh, *made.trained, made.method, *method.fields, *made.basics,
        *made.more, *made.augmentation, made.plan, *made.machine, made.owner, made.notes,
        made.is_released, made.is_explained,
    ]  # fmt: skip
    return {one.name: one.value for one in shown if one.kind != "check" or one.value}


def material(
    kind: ItemKind = ItemKind.IMAGE,
    task: Task = Task.CLASSIFICATION,
    base: Checkpoint | None = None,
) -> OrderMaterial:
    manifest = None
    if kind is ItemKind.WINDOW:
        manifest = Manifest(
            "shapes", kind, ("bar",), (), window_shape=(64, 2), channel_means=(1.0, 2.0),
            channel_deviations=(3.0, 0.0),
        )  # fmt: skip
    return OrderMaterial(dataset(kind), 2, manifest, base, task)


def order(base: Checkpoint | None = None, /, **changes: str) -> CloudOrder:
    given = fields(form(base=base)) | {name.replace("__", "."): v for name, v in changes.items()}
    return make_order(given, material(base=base))


@pytest.mark.parametrize(("kind", "task"), KINDS)
def test_a_form_that_nobody_touched_is_a_good_order(kind: ItemKind, task: Task) -> None:
    made = make_order(fields(form(kind, task)), material(kind, task))
    assert made.spec is not None
    assert made.spec.task is task
    assert (made.model, made.dataset, made.dataset_version) == ("shapes", "shapes", 2)
    assert made.is_released
    assert made.executor is ExecutorName.LOCAL


def test_a_new_model_takes_what_the_items_are() -> None:
    made = order(network="lenet")
    assert made.network == NetworkSpec(architecture=LenetNetwork())
    assert made.spec is not None
    assert made.spec.input == ImageInput(width=28, height=20, colour=Colour.GRAY, scale=(255.0,))
    assert made.spec.output.classes == ("bar", "stripe")
    window = make_order(fields(form(ItemKind.WINDOW)), material(ItemKind.WINDOW))
    assert window.spec is not None
    assert window.spec.input == WindowInput(
        samples=64, channels=2, mean=(1.0, 2.0), scale=(3.0, 1.0)
    )
    assert window.network == NetworkSpec(architecture=WindowNetwork())
    repair = make_order(
        fields(form(ItemKind.IMAGE, Task.ANOMALY)), material(ItemKind.IMAGE, Task.ANOMALY)
    )
    assert repair.spec is not None
    assert repair.spec.output.decoder is Decoder.RECONSTRUCTION


def test_only_fields_of_the_chosen_method_count() -> None:
    made = order(method__label_smoothing="0.1", method__temperature="9")
    assert made.method == SupervisedMethod(label_smoothing=0.1)
    taught = order(
        method__kind="distillation", method__temperature="9", method__label_smoothing="0.1",
        teacher="ckpt-1",
    )  # fmt: skip
    assert taught.method == DistillationMethod(temperature=9.0)
    assert taught.teacher == "ckpt-1"


def test_what_methods_are_offered_follows_from_the_items() -> None:
    def offered(kind: ItemKind, task: Task) -> set[str]:
        return {part.name for part in form(kind, task).methods}

    assert "contrastive" in offered(ItemKind.IMAGE, Task.CLASSIFICATION)
    assert "masked" in offered(ItemKind.WINDOW, Task.CLASSIFICATION)
    assert not offered(ItemKind.TEXT, Task.CLASSIFICATION) & {"masked", "contrastive", "gan"}
    assert offered(ItemKind.IMAGE, Task.ANOMALY) == {"supervised", "gan"}
    assert offered(ItemKind.IMAGE, Task.DETECTION) == {"supervised"}
    for label, shape, labels in METHODS.values():
        assert label
        assert set(labels) <= set(shape.__struct_fields__)


def test_a_checkpoint_goes_on_whole_in_part_or_by_low_rank() -> None:
    base = checkpoint()
    made = order(base, model=MODEL.model)
    assert (made.checkpoint, made.is_transfer, made.spec) == ("ckpt-1", False, None)
    assert made.recipe.optimiser is OptimiserName.ADAMW
    assert order(base, model="other").is_transfer
    part = order(base, trained__kind="part", trained__prefixes="head, body.3")
    assert part.trained == PartTrained(prefixes=("head", "body.3"))
    low = order(base, trained__kind="lora", trained__rank="4", trained__prefixes="head")
    assert low.trained == LowRankTrained(rank=4, full=("head",))


def test_a_search_has_ranges_and_choices() -> None:
    made = order(
        plan="search", search__trials="7", search__sampler="random", search__is_refitted="yes",
        range__0__path="recipe.learning_rate", range__0__low="0.001", range__0__high="0.1",
        range__0__scale="log", range__1__path="recipe.batch", range__1__values="32, 64",
        range__2__path="recipe.optimiser", range__2__values="sgd,adamw",
    )  # fmt: skip
    assert isinstance(made.search, SearchOrder)
    assert (made.search.trials, made.search.is_refitted) == (7, True)
    assert made.search.space == {
        "recipe.learning_rate": Range(low=0.001, high=0.1, is_log=True),
        "recipe.batch": Choice(values=(32, 64)),
        "recipe.optimiser": Choice(values=("sgd", "adamw")),
    }
    assert order(plan="folds", folds="4").folds == 4


WRONG = (
    ({"recipe__epochs": "0"}, "recipe.epochs", "above 0"),
    ({"recipe__epochs": "many"}, "recipe.epochs", "a number"),
    ({"recipe__batch": "1.5"}, "recipe.batch", ""),
    ({"recipe__optimiser": "magic"}, "recipe.optimiser", "magic"),
    ({"method__label_smoothing": "2"}, "method.label_smoothing", "below 1"),
    ({"method__kind": "magic"}, "method.kind", "magic"),
    ({"method__kind": "distillation"}, "teacher", "teacher"),
    ({"model": "Not A Name"}, "model", "small letters"),
    ({"width": "99999"}, "width", "at most 4096"),
    ({"network": "magic"}, "network", "magic"),
    ({"plan": "folds", "folds": "1"}, "folds", "at least 2"),
    ({"plan": "search"}, "search", "at least one setting"),
    ({"plan": "search", "search__trials": "0"}, "search.trials", "at least 1"),
    (
        {"plan": "search", "range__0__path": "recipe.momentum", "range__0__low": "1"},
        "search",
        "from where",
    ),
    (
        {
            "plan": "search",
            "range__0__path": "recipe.momentum",
            "range__0__low": "1",
            "range__0__high": "0",
        },
        "search",
        "below high",
    ),
    ({"executor": "moon"}, "executor", "moon"),
    ({"owner": "x" * 100}, "owner", ""),
)


@pytest.mark.parametrize(("changes", "field", "words"), WRONG)
def test_what_is_wrong_is_told_at_its_field(
    changes: dict[str, str], field: str, words: str
) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        order(**changes)
    found = errors_of(caught.value)
    assert list(found) == [field]
    assert words in found[field]
    assert "`" not in found[field]


def test_what_a_service_refuses_is_told_at_its_field_too() -> None:
    for error, field in (
        (ContractError("order.folds", "folds: too few items."), "folds"),
        (ContractError("order.recipe", "recipe.batch: 1 cannot be shared."), "recipe.batch"),
        (ContractError("order.search", "search.space: no step."), "search"),
        (RefusedError("training.no_ray", "No Ray."), "executor"),
        (RefusedError("job.too_many", "Too many."), ""),
    ):
        assert list(errors_of(error)) == [field]


def test_what_was_typed_in_is_shown_again() -> None:
    made = form(state={"recipe.epochs": "-5", "model": "mine", "is_explained": "yes"})
    assert made.model.value == "mine"
    assert made.basics[0].value == "-5"
    assert made.is_explained.value
    assert not made.is_released.value  # It was unticked
