"""A method that does not fit its model is refused with the reason; one that fits, learns."""

import copy
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from cloud_hub.training.trainer.spec import (
    AdversarialMethod,
    Augmentation,
    ClassWeights,
    ContrastiveMethod,
    DistillationMethod,
    GenerativeMethod,
    MaskedMethod,
    Method,
    PseudoLabelMethod,
    SupervisedMethod,
)
from cloud_hub.training.trainer.torch_objective import Targets
from shared.errors import ContractError
from shared.model.network import (
    AutoencoderNetwork,
    ConvolutionNetwork,
    DepthwiseNetwork,
    NetworkSpec,
    RecurrentNetwork,
    SsdNetwork,
    TransformerNetwork,
)
from shared.model.spec import (
    Colour,
    Decoder,
    ImageInput,
    ModelSpec,
    OutputSpec,
    Task,
    TextInput,
    WindowInput,
)
from shared.model.torch_networks import build_network
from shared.model.weights import encode_weights
from tests.support.small_training import objective_for, spec_for

CLASSES = OutputSpec(decoder=Decoder.LOGITS, classes=("a", "b", "c"))
PICTURE = ImageInput(width=16, height=16, colour=Colour.GRAY, scale=(255.0,))
WINDOW = WindowInput(samples=16, channels=3)
PICTURES = ModelSpec(model="pictures", task=Task.CLASSIFICATION, input=PICTURE, output=CLASSES)
WINDOWS = ModelSpec(model="windows", task=Task.CLASSIFICATION, input=WINDOW, output=CLASSES)
TEXTS = ModelSpec(
    model="texts", task=Task.CLASSIFICATION, input=TextInput(length=16), output=CLASSES
)
HEALTH = ModelSpec(
    model="health",
    task=Task.ANOMALY,
    input=WINDOW,
    output=OutputSpec(decoder=Decoder.RECONSTRUCTION),
)
BOXES = ModelSpec(
    model="boxes",
    task=Task.DETECTION,
    input=PICTURE,
    output=OutputSpec(decoder=Decoder.SSD_CORNERS, classes=("a",)),
)
CNN = NetworkSpec(architecture=ConvolutionNetwork(channels=(4,), hidden=8, has_batch_norm=True))
GRU = NetworkSpec(architecture=RecurrentNetwork(hidden=8))
TRANSFORMER = NetworkSpec(architecture=TransformerNetwork(width=8, layers=1, heads=2))
AUTOENCODER = NetworkSpec(architecture=AutoencoderNetwork(channels=(4,), narrow=4))
SSD = NetworkSpec(architecture=SsdNetwork(channels=(4, 8), maps=1))
DS_CNN = NetworkSpec(architecture=DepthwiseNetwork(channels=8, blocks=1))

REFUSED: list[tuple[ModelSpec, NetworkSpec, Method, str]] = [
    (HEALTH, AUTOENCODER, DistillationMethod(teacher=AUTOENCODER), "distillation"),
    (HEALTH, AUTOENCODER, AdversarialMethod(), "adversarial"),
    (HEALTH, AUTOENCODER, ContrastiveMethod(), "contrastive"),
    (HEALTH, AUTOENCODER, PseudoLabelMethod(), "pseudo-labels"),
    (PICTURES, CNN, MaskedMethod(), "windows"),
    (PICTURES, CNN, GenerativeMethod(), "reconstructs"),
    (TEXTS, TRANSFORMER, AdversarialMethod(), "tokens"),
    (TEXTS, TRANSFORMER, ContrastiveMethod(), "tokens"),
    (TEXTS, TRANSFORMER, SupervisedMethod(mixup_alpha=0.2), "tokens"),
    (PICTURES, CNN, SupervisedMethod(input_noise=0.1), "input_noise"),
    (HEALTH, AUTOENCODER, SupervisedMethod(label_smoothing=0.1), "label_smoothing"),
    (BOXES, SSD, SupervisedMethod(class_weights=ClassWeights.BALANCED), "class_weights"),
    (BOXES, SSD, SupervisedMethod(focal_gamma=2.0), "focal_gamma"),
    (BOXES, SSD, PseudoLabelMethod(), "pseudo-labels"),
]
FITTING: list[tuple[ModelSpec, NetworkSpec, Method]] = [
    (PICTURES, CNN, SupervisedMethod(mixup_alpha=0.2, focal_gamma=2.0, label_smoothing=0.1)),
    (PICTURES, DS_CNN, AdversarialMethod(steps=2)),
    (PICTURES, DS_CNN, ContrastiveMethod()),
    (PICTURES, CNN, PseudoLabelMethod(warm_epochs=0, threshold=0.1)),
    (WINDOWS, GRU, AdversarialMethod(epsilon=0.1, step=0.05, steps=2)),
    (WINDOWS, GRU, ContrastiveMethod()),
    (WINDOWS, TRANSFORMER, MaskedMethod(span=2)),
    (WINDOWS, DS_CNN, MaskedMethod(span=2)),
    (TEXTS, TRANSFORMER, SupervisedMethod()),
    (TEXTS, TRANSFORMER, PseudoLabelMethod(warm_epochs=0, threshold=0.1)),
    (HEALTH, AUTOENCODER, SupervisedMethod(input_noise=0.1)),
    (HEALTH, AUTOENCODER, MaskedMethod(span=2)),
    (HEALTH, AUTOENCODER, GenerativeMethod(erased_share=0.1)),
]


@pytest.mark.parametrize(
    ("model", "network", "method", "reason"),
    REFUSED,
    ids=[f"{model.model}-{reason}" for model, _, _, reason in REFUSED],
)
def test_a_method_that_does_not_fit_is_refused_with_the_reason(
    model: ModelSpec, network: NetworkSpec, method: Method, reason: str
) -> None:
    with pytest.raises(ContractError) as refused:
        objective_for(
            spec_for(model, network, method), build_network(network, model), torch.zeros(1).long()
        )
    assert refused.value.code == "training.method"
    assert reason in refused.value.message
    assert refused.value.remedy


def test_contrastive_learning_without_augmentation_is_refused() -> None:
    spec = spec_for(PICTURES, CNN, ContrastiveMethod(), augmentation=Augmentation())
    with pytest.raises(ContractError, match="nothing is augmented") as refused:
        objective_for(spec, build_network(CNN, PICTURES), torch.zeros(1).long())
    assert refused.value.code == "training.method"


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("model", "network", "method"),
    FITTING,
    ids=[f"{model.model}-{type(method).__name__}" for model, _, method in FITTING],
)
def test_every_method_gives_a_finite_fp32_loss_and_gradient(
    model: ModelSpec, network: NetworkSpec, method: Method, precision: torch.dtype
) -> None:
    torch.manual_seed(0)
    net = build_network(network, model).train()
    labels = torch.tensor([0, 1, 2, -1, -1, 0, 1, -1])
    objective = objective_for(spec_for(model, network, method), net, labels)
    items = torch.rand(8, *model.input_shape[1:])
    if isinstance(model.input, TextInput):
        items = torch.randint(257, (8, model.input.length))
    views = (items,) * objective.views
    with torch.autocast("cpu", dtype=precision, enabled=precision is not torch.float32):
        loss = objective.loss(net, views, Targets(labels), epoch=3.0)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [*net.parameters(), *objective.extra.parameters()]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in parameters)
    assert any(bool(p.grad.any()) for p in net.parameters() if p.grad is not None)
    net.eval()
    with torch.no_grad():
        sums = objective.metrics(net, views, Targets(labels))
    assert (sums is None) == isinstance(
        method, SupervisedMethod | AdversarialMethod | PseudoLabelMethod | GenerativeMethod
    ) or model is HEALTH


def test_features_survive_a_compiled_network() -> None:
    net = build_network(CNN, PICTURES).train()
    labels = torch.full((8,), -1)
    objective = objective_for(spec_for(PICTURES, CNN, ContrastiveMethod()), net, labels)
    # The stubs take what is compiled for a function.
    compiled = cast("nn.Module", torch.compile(net, backend="eager"))
    for seed in range(3):
        torch.manual_seed(seed)
        views = (torch.rand(8, 1, 16, 16), torch.rand(8, 1, 16, 16))
        with torch.no_grad():
            plain = objective.loss(net, views, Targets(labels), epoch=0.0)
            fast = objective.loss(compiled, views, Targets(labels), epoch=0.0)
        torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize(
    ("model", "network", "method"),
    [(PICTURES, CNN, ContrastiveMethod()), (WINDOWS, TRANSFORMER, MaskedMethod(span=2))],
    ids=["contrastive", "masked"],
)
def test_another_network_of_the_same_spec_is_evaluated_by_its_own_features(
    model: ModelSpec, network: NetworkSpec, method: Method
) -> None:
    trained, other = (build_network(network, model, seed=seed).eval() for seed in (0, 1))
    labels = torch.full((8,), -1)
    objective = objective_for(spec_for(model, network, method), trained, labels)
    views = (torch.rand(8, *model.input_shape[1:]),) * objective.views

    def loss(net: nn.Module) -> float:
        with torch.no_grad():
            sums = objective.metrics(net, views, Targets(labels))
        assert sums is not None
        return float(sums["loss"])

    first = loss(trained)
    assert loss(other) != first
    other.load_state_dict(trained.state_dict())
    assert loss(other) == pytest.approx(first)
    assert loss(copy.deepcopy(trained)) == pytest.approx(first)


@pytest.mark.parametrize("harm", ["missing", "misnamed", "of another", "not weights"])
def test_a_teacher_that_is_not_there_is_refused(tmp_path: Path, harm: str) -> None:
    method: Method = DistillationMethod(teacher=None if harm == "missing" else CNN)
    path = tmp_path / "teacher.npz"
    if harm == "of another":
        state = build_network(DS_CNN, PICTURES).state_dict()
        path.write_bytes(encode_weights({name: t.numpy() for name, t in state.items()}))
    if harm == "not weights":
        path.write_bytes(b"PK\x03\x04 nothing of the kind")
    net = build_network(CNN, PICTURES)
    with pytest.raises(ContractError) as refused:
        objective_for(spec_for(PICTURES, CNN, method), net, torch.zeros(1).long(), tmp_path)
    assert refused.value.code == "training.teacher"
    assert refused.value.remedy
