"""Whether an order can be carried out: all that can be told before anything is trained. Pure.

1. What is wrong names the order's field and what to do about it; a trainer that refuses an hour
   later is the last resort.
2. What only the network itself can tell (shapes, names of parameters) is asked of its weights.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.datasets.dataset import Dataset, DatasetVersion
from cloud_hub.datasets.manifest import ItemKind, Part
from cloud_hub.training.cloud.order import CloudOrder, ExecutorName
from cloud_hub.training.cloud.order_settings import check_space
from cloud_hub.training.cloud.settings import CloudTrainingSettings
from cloud_hub.training.trainer.spec import (
    AdversarialMethod,
    AllTrained,
    ContrastiveMethod,
    DistillationMethod,
    GenerativeMethod,
    LowRankTrained,
    MaskedMethod,
    PartTrained,
    PseudoLabelMethod,
    SupervisedMethod,
)
from shared.errors import ContractError, RefusedError
from shared.model.network import MEMBERS_MAX, EnsembleNetwork, Member, NetworkSpec
from shared.model.spec import Decoder, ImageInput, ModelSpec, Task, TextInput, WindowInput

_INPUTS: Mapping[ItemKind, type[ImageInput | WindowInput | TextInput]] = {
    ItemKind.IMAGE: ImageInput,
    ItemKind.WINDOW: WindowInput,
    ItemKind.TEXT: TextInput,
}
_LABELLED = (SupervisedMethod, AdversarialMethod, PseudoLabelMethod)
MEMBERS_MIN = 2


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of what an order names."""

    dataset: Dataset
    version: DatasetVersion
    base: Checkpoint | None = None
    teacher: Checkpoint | None = None
    members: tuple[Checkpoint, ...] = ()


def choose_model(order: CloudOrder, facts: Facts) -> tuple[ModelSpec, NetworkSpec]:
    """Return what is to be trained, or joined.

    Raises ContractError `order.checkpoint`, `order.ensemble`.
    """
    if order.ensemble:
        return _joined(order, facts.members)
    base = facts.base
    spec, network = order.spec, order.network
    if base is not None:
        if not order.is_transfer:
            _require_same(order, base)
        # Transfer to another model: the same contract under this model's name.
        spec = spec or _renamed(base.spec, order.model)
        network = network or base.network
    assert spec is not None, "an order without a checkpoint has both"
    assert network is not None, "an order without a checkpoint has both"
    return spec, network


def check_order(
    order: CloudOrder,
    facts: Facts,
    spec: ModelSpec,
    network: NetworkSpec,
    settings: CloudTrainingSettings,
) -> None:
    """Return if the order can be carried out, as far as can be told now.

    Raises ContractError `order.…` naming the field, RefusedError `training.no_ray`.
    """
    _check_data(order, facts, spec)
    if not order.is_trained:
        _check_untrained(order)
    elif not order.ensemble:
        _check_method(order, facts, spec)
        check_space(order, network)
    if order.executor is ExecutorName.RAY and not settings.ray_address:
        raise RefusedError(
            "training.no_ray",
            "executor: this hub knows of no Ray cluster.",
            remedy='Set training.ray_address in the hub\'s file, or order executor "local".',
        )
    if order.timeout_s > settings.timeout_s_max:
        raise _wrong(
            "timeout_s",
            f"{order.timeout_s:.0f} s is over the {settings.timeout_s_max:.0f} s of this hub",
            "Ask for less, or raise training.timeout_s_max.",
        )
    if order.recipe.batch < order.processes:
        raise _wrong(
            "recipe.batch",
            f"{order.recipe.batch} items cannot be shared by {order.processes} processes",
            "Make it larger; it is over all processes together.",
        )


def check_prefixes(order: CloudOrder, names: Collection[str]) -> None:
    """Return if every prefix in the order is one of a parameter. Raises ContractError."""
    match order.trained:
        case PartTrained(prefixes=prefixes):
            field = "trained.prefixes"
        case LowRankTrained(full=prefixes):
            field = "trained.full"
        case AllTrained():
            return
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            known = ", ".join(sorted({name.partition(".")[0] for name in names})[:10])
            raise _wrong(
                field, f"no parameter's name begins with {prefix!r}", f"They begin with {known}."
            )


def _check_data(order: CloudOrder, facts: Facts, spec: ModelSpec) -> None:
    dataset, version = facts.dataset, facts.version
    wanted = _INPUTS[dataset.kind]
    name = f"{dataset.name}:{version.version}"
    if not isinstance(spec.input, wanted):
        raise _wrong(
            "dataset",
            f"{name} holds items of kind {dataset.kind}, the model takes another",
            "Name another dataset, or another model.",
        )
    if spec.output.classes and spec.output.decoder is not Decoder.SCORE:
        unknown = sorted(
            known
            for known, count in version.counts_by_class.items()
            if count and known not in spec.output.classes
        )
        if unknown and spec.task is not Task.ANOMALY:
            raise ContractError(
                "dataset.classes",
                f"dataset: {name} has the class {unknown[0]!r}, which the model does not.",
                remedy="Add it to spec.output.classes, or relabel those items.",
            )
    counts = version.counts_by_part
    parts = [Part.TRAIN] if order.folds or order.ensemble else [Part.TRAIN, Part.VALIDATION]
    if order.ensemble or not order.is_trained:
        parts = [Part.TEST if counts.get(Part.TEST) else Part.VALIDATION]
    for part in parts:
        if not counts.get(part):
            raise _wrong(
                "dataset",
                f"the part {part} of {name} is empty",
                "Split it again with a larger share for that part.",
            )
    if order.folds and order.folds > counts[Part.TRAIN] + counts.get(Part.VALIDATION, 0):
        raise _wrong("folds", f"{name} has fewer items than folds", "Ask for fewer.")


def _check_untrained(order: CloudOrder) -> None:
    """Refuse what makes no sense where nothing is trained."""
    remedy = "Leave it out, or train: is_trained = true."
    for field, is_given in (
        ("ensemble", bool(order.ensemble)),
        ("folds", order.folds is not None),
        ("search", order.search is not None),
        ("teacher", order.teacher is not None),
        ("is_transfer", order.is_transfer),
        ("is_released", order.is_released),
    ):
        if is_given:
            raise _wrong(field, "nothing is trained, the checkpoint stays as it is", remedy)


def _check_method(order: CloudOrder, facts: Facts, spec: ModelSpec) -> None:
    method = order.method
    is_image, is_window = isinstance(spec.input, ImageInput), isinstance(spec.input, WindowInput)
    is_reconstruction = spec.output.decoder is Decoder.RECONSTRUCTION
    if isinstance(method, ContrastiveMethod) and not is_image:
        raise _wrong("method", "contrastive is for images", "Use masked for windows.")
    if isinstance(method, MaskedMethod) and not is_window:
        raise _wrong("method", "masked is for windows", "Use contrastive for images.")
    if isinstance(method, GenerativeMethod) and not is_reconstruction:
        raise _wrong("method", "gan needs the decoder reconstruction", "Choose another method.")
    if isinstance(method, ContrastiveMethod | MaskedMethod) and order.is_released:
        raise _wrong(
            "is_released",
            "a model that was only pretrained cannot do its task yet",
            "Set it to false, and fine-tune the checkpoint that comes of it.",
        )
    if isinstance(method, DistillationMethod):
        assert facts.teacher is not None, "the order names one"
        _check_teacher(method, facts.teacher, spec)
    if isinstance(method, _LABELLED) and not is_reconstruction and not facts.version.labelled_count:
        raise _wrong(
            "method",
            f"{facts.dataset.name}:{facts.version.version} has no labels",
            "Label some items, or use a method that needs none.",
        )


def _check_teacher(method: DistillationMethod, teacher: Checkpoint, spec: ModelSpec) -> None:
    if method.teacher is not None and method.teacher != teacher.network:
        raise _wrong(
            "method.teacher", "it is not the network of the teacher's checkpoint", "Leave it out."
        )
    if teacher.spec.input_shape != spec.input_shape:
        raise _wrong(
            "teacher",
            f"it takes {teacher.spec.input_shape}, the model {spec.input_shape}",
            "Name a teacher that takes the same input.",
        )
    if teacher.spec.output.classes != spec.output.classes:
        raise _wrong(
            "teacher", "its classes are not the model's", "Name a teacher of the same classes."
        )


def _joined(order: CloudOrder, members: tuple[Checkpoint, ...]) -> tuple[ModelSpec, NetworkSpec]:
    if not MEMBERS_MIN <= len(members) <= MEMBERS_MAX:
        raise _wrong(
            "ensemble",
            f"an ensemble has {MEMBERS_MIN} to {MEMBERS_MAX} members",
            "Name so many checkpoints.",
        )
    if order.search is not None or order.folds is not None:
        raise _wrong("ensemble", "nothing is trained: no folds, no search", "Leave them out.")
    if len({member.weights_digest for member in members}) < len(members):
        raise _wrong("ensemble", "two members are the same", "Name each checkpoint once.")
    first = members[0].spec
    architectures: list[Member] = []
    for member in members:
        if member.model != order.model or _contract(member.spec) != _contract(first):
            raise _wrong(
                "ensemble",
                f"{member.checkpoint_id} is not of this model, or takes or gives something else",
                "Name checkpoints of one model with one spec.",
            )
        if isinstance(member.network.architecture, Member):
            architectures.append(member.network.architecture)
        else:
            raise _wrong(
                "ensemble",
                f"{member.checkpoint_id} is of a kind that cannot be joined",
                "Join networks that classify or score.",
            )
    return order.spec or first, NetworkSpec(
        architecture=EnsembleNetwork(members=tuple(architectures))
    )


def _require_same(order: CloudOrder, base: Checkpoint) -> None:
    if base.model != order.model:
        raise _wrong(
            "checkpoint",
            f"{base.checkpoint_id} is of the model {base.model}",
            "Set is_transfer to take from it what fits, or name one of this model.",
        )
    for field, given, own in (
        ("spec", order.spec, base.spec),
        ("network", order.network, base.network),
    ):
        if given is not None and given != own:
            raise _wrong(
                field,
                f"it is not that of {base.checkpoint_id}",
                "Leave it out, or set is_transfer to take what fits.",
            )


def _contract(spec: ModelSpec) -> tuple[object, ...]:
    return spec.task, spec.input, spec.output.decoder, spec.output.classes


def _renamed(spec: ModelSpec, model: str) -> ModelSpec:
    if spec.model == model:
        return spec
    return ModelSpec(
        model=model,
        task=spec.task,
        input=spec.input,
        output=spec.output,
        tolerance=spec.tolerance,
        description=spec.description,
    )


def _wrong(field: str, text: str, remedy: str) -> ContractError:
    return ContractError(f"order.{field.partition('.')[0]}", f"{field}: {text}.", remedy=remedy)
