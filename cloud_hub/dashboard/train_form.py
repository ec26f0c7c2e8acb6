"""The form that orders a Job in the cloud: its fields, by what is to be trained on what. Pure.

1. What a dataset's items are, and where training starts, decides which networks and methods are
   offered, and with which recipe the form begins.
2. Names of fields are paths of CloudOrder (cloud_hub/training/cloud/order.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.dashboard.form_fields import (
    NOTHING,
    FormField,
    FormState,
    check_field,
    choice_field,
    number_field,
    struct_fields,
    text_field,
)
from cloud_hub.dashboard.train_choices import (
    AUGMENTATION,
    BASICS,
    DECODERS,
    FEW_ITEMS,
    MACHINE,
    METHODS,
    MORE,
    NETWORKS,
    NEW,
    RANGES,
    SCALES,
    SEARCHED,
)
from cloud_hub.datasets.dataset import Dataset
from cloud_hub.datasets.manifest import ItemKind
from cloud_hub.training.cloud.order import CloudOrder
from cloud_hub.training.trainer.spec import (
    Augmentation,
    LowRankTrained,
    OptimiserName,
    Recipe,
    Schedule,
)
from shared.model.spec import Decoder, ImageInput, ModelSpec, Task, WindowInput


@dataclass(frozen=True, slots=True)
class MethodPart:
    """One method with its own fields."""

    name: str
    label: str
    fields: tuple[FormField, ...]


@dataclass(frozen=True, slots=True)
class TrainForm:
    """The whole form; see the rules above."""

    dataset: str
    version: int
    start: str  # NEW, or a checkpoint
    model: FormField
    fresh: tuple[FormField, ...]  # Of a new model: task, network, input
    trained: tuple[FormField, ...]  # Of a checkpoint: what of it is trained
    low_rank: tuple[FormField, ...]
    teacher: FormField
    method: FormField
    methods: tuple[MethodPart, ...]
    basics: tuple[FormField, ...]
    more: tuple[FormField, ...]
    augmentation: tuple[FormField, ...]
    plan: FormField
    folds: FormField
    search: tuple[FormField, ...]
    ranges: tuple[tuple[FormField, ...], ...]
    machine: tuple[FormField, ...]
    owner: FormField
    notes: FormField
    is_released: FormField
    is_explained: FormField
    error: str  # What no field can be blamed for
    search_error: str


@dataclass(frozen=True, slots=True)
class FormFacts:
    """What the form is about."""

    dataset: Dataset
    version: int
    items_count: int  # Of the training part
    base: Checkpoint | None
    sides: tuple[int, int]  # Width and height of the first picture
    is_gray: bool
    checkpoints: Sequence[Checkpoint]


def make_form(facts: FormFacts, task: Task, state: FormState = NOTHING) -> TrainForm:
    """Return the form for a dataset and a start, with what was typed in before."""
    kind, base = facts.dataset.kind, facts.base
    task = base.spec.task if base is not None else task
    names = _methods(kind, task, base)
    recipe = _recipe(facts, task)
    plain = {name: getattr(recipe, name) for name in (*BASICS, *MORE)}
    shift = {"shift": recipe.augmentation.shift, "has_flip": recipe.augmentation.has_flip}
    return TrainForm(
        dataset=facts.dataset.name,
        version=facts.version,
        start=base.checkpoint_id if base is not None else NEW,
        model=text_field(
            "model", "Name of the model", base.model if base else facts.dataset.name, state=state
        ),
        fresh=() if base is not None else _fresh(facts, task, state),
        trained=() if base is None else _trained(state),
        low_rank=struct_fields(
            LowRankTrained, "trained", {"rank": "Rank", "alpha": "Alpha"}, state=state
        ),
        teacher=choice_field(
            "teacher",
            "Teacher",
            [("", "choose a checkpoint"), *checkpoint_options(facts.checkpoints)],
            state=state,
        ),
        method=choice_field(
            "method.kind",
            "Method",
            [(name, METHODS[name][0]) for name in names],
            value=names[0],
            state=state,
        ),
        methods=tuple(
            MethodPart(
                name,
                METHODS[name][0],
                struct_fields(METHODS[name][1], "method", _labels(name, names), state=state),
            )
            for name in names
        ),
        basics=struct_fields(Recipe, "recipe", BASICS, state=state, defaults=plain),
        more=struct_fields(Recipe, "recipe", MORE, state=state, defaults=plain),
        augmentation=struct_fields(
            Augmentation, "recipe.augmentation", AUGMENTATION[kind], state=state, defaults=shift
        ),
        plan=choice_field(
            "plan",
            "How often",
            [
                ("one", "Train once"),
                ("folds", "K folds: how good, with an interval"),
                ("search", "Search for the best settings"),
            ],
            value="one",
            state=state,
        ),
        folds=number_field("folds", "Folds", "5", low="2", high="20", state=state),
        search=_search(state),
        ranges=tuple(_range(index, state) for index in range(RANGES)),
        machine=struct_fields(CloudOrder, "", MACHINE, state=state),
        owner=text_field("owner", "Whom usage is counted for", state=state, hint="empty: you"),
        notes=text_field("notes", "Notes", state=state, hint="optional"),
        is_released=check_field(
            "is_released", "Send what comes of it to the gate", is_set=True, state=state
        ),
        is_explained=check_field(
            "is_explained", "Write a report on the test part", is_set=True, state=state
        ),
        error=state.errors.get("", ""),
        search_error=state.errors.get("search", ""),
    )


def checkpoint_options(checkpoints: Sequence[Checkpoint]) -> list[tuple[str, str]]:
    """Return checkpoints to choose from."""
    return [
        (one.checkpoint_id, f"{one.model}, {one.checkpoint_id} ({one.parameters_count:,} numbers)")
        for one in checkpoints
    ]


def fits(checkpoint: Checkpoint, kind: ItemKind) -> bool:
    """Whether a checkpoint takes items of this kind."""
    match checkpoint.spec.input:
        case ImageInput():
            return kind is ItemKind.IMAGE
        case WindowInput():
            return kind is ItemKind.WINDOW
        case _:
            return kind is ItemKind.TEXT


def tasks_of(kind: ItemKind) -> tuple[Task, ...]:
    """Return what can be learned from items of a kind."""
    return tuple(task for of, task in NETWORKS if of is kind)


def _methods(kind: ItemKind, task: Task, base: Checkpoint | None) -> list[str]:
    spec: ModelSpec | None = base.spec if base is not None else None
    decoder = spec.output.decoder if spec is not None else DECODERS[task]
    names = ["supervised"]
    if task is Task.CLASSIFICATION:
        names += ["distillation", "adversarial", "pseudo-label"]
        names += ["contrastive"] if kind is ItemKind.IMAGE else []
        names += ["masked"] if kind is ItemKind.WINDOW else []
    if decoder is Decoder.RECONSTRUCTION:
        names += ["gan"]
    return names


def _labels(method: str, offered: Sequence[str]) -> dict[str, str]:
    """Return a method's fields; a model that reconstructs has no classes to weigh or smooth."""
    is_reconstruction = "gan" in offered
    return {
        name: label
        for name, label in METHODS[method][2].items()
        if method != "supervised" or (name == "input_noise") == is_reconstruction
    }


def _recipe(facts: FormFacts, task: Task) -> Recipe:
    """Return what is usually good for such a model; the form begins with it."""
    is_small = facts.items_count < FEW_ITEMS
    is_picture = facts.dataset.kind is ItemKind.IMAGE
    augmentation = Augmentation(shift=0.1) if is_picture else Augmentation()
    if is_picture and task is Task.CLASSIFICATION and facts.base is None:
        return Recipe(
            epochs=20.0,
            batch=64 if is_small else 256,
            learning_rate=0.05 if is_small else 0.1,
            augmentation=augmentation,
            patience_epochs=8,
        )
    return Recipe(
        epochs=10.0 if facts.base is not None else 30.0,
        batch=32 if is_small else 128,
        optimiser=OptimiserName.ADAMW,
        learning_rate=5e-4 if facts.base is not None else 1e-3,
        weight_decay=0.01,
        schedule=Schedule.COSINE,
        augmentation=augmentation,
        patience_epochs=8,
    )


def _fresh(facts: FormFacts, task: Task, state: FormState) -> tuple[FormField, ...]:
    kind = facts.dataset.kind
    networks = NETWORKS[kind, task]
    fields = [choice_field("network", "Network", networks, value=networks[0][0], state=state)]
    if kind is ItemKind.IMAGE:
        width, height = facts.sides
        fields += [
            number_field("width", "Width, pixels", str(width), low="8", high="1024", state=state),
            number_field(
                "height", "Height, pixels", str(height), low="8", high="1024", state=state
            ),
            choice_field(
                "colour",
                "Colours",
                [("bgr", "colour"), ("gray", "gray")],
                value="gray" if facts.is_gray else "bgr",
                state=state,
            ),
        ]
    if kind is ItemKind.TEXT:
        fields += [number_field("length", "Bytes read", "256", low="16", high="4096", state=state)]
    return tuple(fields)


def _trained(state: FormState) -> tuple[FormField, ...]:
    return (
        choice_field(
            "trained.kind",
            "What of it is trained",
            [("all", "everything"), ("part", "some layers"), ("lora", "LoRA: small additions")],
            value="all",
            state=state,
        ),
        text_field(
            "trained.prefixes",
            "Layers",
            state=state,
            hint="names begin with, apart by commas",
        ),
    )


def _search(state: FormState) -> tuple[FormField, ...]:
    return (
        number_field("search.trials", "Trials", "20", low="1", high="1000", state=state),
        choice_field(
            "search.sampler",
            "Chosen by",
            [("tpe", "TPE: from those before"), ("random", "chance"), ("grid", "a grid")],
            value="tpe",
            state=state,
        ),
        choice_field(
            "search.pruner",
            "Ended early",
            [("hyperband", "by Hyperband"), ("median", "if below the median"), ("none", "never")],
            value="hyperband",
            state=state,
        ),
        check_field(
            "search.is_refitted",
            "Train once more with the best, on training and validation parts",
            is_set=False,
            state=state,
        ),
    )


def _range(index: int, state: FormState) -> tuple[FormField, ...]:
    first = ("recipe.learning_rate", "0.001", "0.3", "log") if index == 0 else ("", "", "", "even")
    name = f"range.{index}"
    return (
        choice_field(
            f"{name}.path", "Setting", [("", "nothing"), *SEARCHED], value=first[0], state=state
        ),
        number_field(f"{name}.low", "From", first[1], is_whole=False, state=state),
        number_field(f"{name}.high", "To", first[2], is_whole=False, state=state),
        choice_field(f"{name}.scale", "Tried", SCALES, value=first[3], state=state),
        text_field(f"{name}.values", "Or one of, by commas", state=state),
    )
