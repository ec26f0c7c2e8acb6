"""make_objective: what a TrainSpec's method and model ask for, checked against each other.

What must not live here: losses.
"""

from pathlib import Path
from typing import assert_never

import torch
from torch import Tensor, nn

from cloud_hub.training.trainer.spec import (
    AdversarialMethod,
    Augmentation,
    ContrastiveMethod,
    DistillationMethod,
    GenerativeMethod,
    MaskedMethod,
    PseudoLabelMethod,
    SupervisedMethod,
    TrainSpec,
)
from cloud_hub.training.trainer.torch_adversarial import Adversarial, Attack
from cloud_hub.training.trainer.torch_contrastive import Contrastive
from cloud_hub.training.trainer.torch_detection import Detection
from cloud_hub.training.trainer.torch_distillation import Distillation
from cloud_hub.training.trainer.torch_features import Features
from cloud_hub.training.trainer.torch_generative import Generative
from cloud_hub.training.trainer.torch_masked import Masked
from cloud_hub.training.trainer.torch_objective import Objective
from cloud_hub.training.trainer.torch_pseudo_label import PseudoLabel
from cloud_hub.training.trainer.torch_supervised import Classification, Reconstruction, Score
from shared.errors import ContractError
from shared.model.spec import Decoder, ImageInput, WindowInput
from shared.model.torch_detector import DetectorNetwork
from shared.model.torch_networks import build_network
from shared.model.weights import decode_weights


def make_objective(
    spec: TrainSpec,
    network: nn.Module,
    folder: Path,
    *,
    class_counts: Tensor,
    device: torch.device,
) -> Objective:
    """Return what is learned of a batch; `extra` lies on the device.

    Args:
        spec: the whole training run.
        network: as it will be trained, on the device, its start's weights loaded, not yet wrapped.
        folder: of job.json; a teacher's weights lie there.
        class_counts: (classes,) labelled items of the training part.
        device: where it is trained.

    Raises:
        ContractError: `training.method`, the method does not fit the model or the recipe;
            `training.teacher`, the teacher's weights are not those of its network.
    """
    # What is trained beside the network is drawn by the run's seed, in every process the same.
    random_state = torch.random.get_rng_state()
    torch.manual_seed(spec.seed)
    try:
        return _make(spec, network, folder, class_counts, device)
    finally:
        torch.random.set_rng_state(random_state)


def _make(
    spec: TrainSpec, network: nn.Module, folder: Path, class_counts: Tensor, device: torch.device
) -> Objective:
    match spec.method:
        case SupervisedMethod() as method:
            return _supervised(spec, method, network, class_counts.to(device))
        case DistillationMethod() as method:
            _require_classes(spec, "distillation")
            return Distillation(method, _teacher(spec, method, folder).to(device))
        case AdversarialMethod() as method:
            _require_classes(spec, "adversarial training")
            _require_numbers(spec, "an attack")
            return Adversarial(method, Attack(method, spec.model, device=device), network)
        case ContrastiveMethod() as method:
            _require_classes(spec, "contrastive learning")
            _require_views(spec)
            features = Features(network, spec.network, spec.model)
            return Contrastive(method, features, device=device)
        case MaskedMethod() as method:
            return _masked(spec, method, network, device)
        case PseudoLabelMethod() as method:
            _require_classes(spec, "learning from pseudo-labels")
            return PseudoLabel(method)
        case GenerativeMethod() as method:
            if spec.model.output.decoder is not Decoder.RECONSTRUCTION:
                raise _unfit("a critic needs a network that reconstructs its input")
            return Generative(method, spec.model.input_shape[1:], device=device)
        case unknown:
            assert_never(unknown)


def _supervised(
    spec: TrainSpec, method: SupervisedMethod, network: nn.Module, class_counts: Tensor
) -> Objective:
    _refuse_what_does_nothing(spec, method)
    match spec.model.output.decoder:
        case Decoder.LOGITS:
            if method.mixup_alpha:
                _require_numbers(spec, "mixup")
            return Classification(method, class_counts)
        case Decoder.SCORE:
            return Score()
        case Decoder.RECONSTRUCTION:
            return Reconstruction(method.input_noise)
        case Decoder.SSD_CORNERS if isinstance(network, DetectorNetwork):
            return Detection(network)
        case decoder:
            raise _unfit(f"nothing here learns what decoder '{decoder}' reads")


def _refuse_what_does_nothing(spec: TrainSpec, method: SupervisedMethod) -> None:
    """Raise ContractError for an option that this model's loss has no place for."""
    ours: tuple[str, ...] = ()
    match spec.model.output.decoder:
        case Decoder.LOGITS:
            ours = ("label_smoothing", "class_weights", "focal_gamma", "mixup_alpha")
        case Decoder.RECONSTRUCTION:
            ours = ("input_noise",)
    plain = SupervisedMethod()
    for name in SupervisedMethod.__struct_fields__:
        if name not in ours and getattr(method, name) != getattr(plain, name):
            raise _unfit(f"method.{name} does nothing for task '{spec.model.task}'")


def _masked(
    spec: TrainSpec, method: MaskedMethod, network: nn.Module, device: torch.device
) -> Objective:
    window = spec.model.input
    if not isinstance(window, WindowInput):
        raise _unfit("masked reconstruction is for sensor windows")
    is_own_decoder = spec.model.output.decoder is Decoder.RECONSTRUCTION
    features = None if is_own_decoder else Features(network, spec.network, spec.model)
    return Masked(method, window, features, device=device)


def _teacher(spec: TrainSpec, method: DistillationMethod, folder: Path) -> nn.Module:
    """Return the teacher with its weights. Raises ContractError `training.teacher`."""
    if method.teacher is None:
        raise _no_teacher("method.teacher is missing")
    teacher = build_network(method.teacher, spec.model)
    name = method.teacher_weights
    try:
        weights = decode_weights((folder / name).read_bytes())
        teacher.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    except OSError as error:
        raise _no_teacher(f"{name} cannot be read ({error.strerror})") from error
    except ContractError as error:
        raise _no_teacher(f"{name} is damaged. {error.message}") from error
    except RuntimeError as error:  # torch's word for names or shapes that do not fit
        raise _no_teacher(f"{name} holds another network's weights") from error
    return teacher


def _require_classes(spec: TrainSpec, what: str) -> None:
    if spec.model.output.decoder is not Decoder.LOGITS:
        raise _unfit(f"{what} is for networks that put out logits of classes")


def _require_numbers(spec: TrainSpec, what: str) -> None:
    if not isinstance(spec.model.input, ImageInput | WindowInput):
        raise _unfit(f"{what} changes numbers a little, which a text's tokens do not allow")


def _require_views(spec: TrainSpec) -> None:
    _require_numbers(spec, "contrastive learning")
    if spec.recipe.augmentation == Augmentation():
        raise _unfit("contrastive learning needs two different views, and nothing is augmented")


def _no_teacher(text: str) -> ContractError:
    return ContractError(
        "training.teacher",
        f"There is no teacher to learn from: {text}.",
        remedy="Name a checkpoint of the same model whose network is the teacher's.",
    )


def _unfit(text: str) -> ContractError:
    return ContractError(
        "training.method",
        f"This method cannot train this model: {text}.",
        remedy="Choose another method, or change the order's spec, network or recipe.",
    )
