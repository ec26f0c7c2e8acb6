"""What is learned without labels, or of one number: windows of sensors, and pictures repaired."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_hub.training.trainer.spec import (
    GenerativeMethod,
    MaskedMethod,
    Method,
    SupervisedMethod,
)
from cloud_hub.training.trainer.torch_generative import damage
from cloud_hub.training.trainer.torch_objective import Targets
from cloud_hub.training.trainer.torch_supervised import squared_errors
from shared.model.metrics import roc_area
from shared.model.network import (
    AutoencoderNetwork,
    NetworkSpec,
    RepairNetwork,
    TransformerNetwork,
    WindowNetwork,
)
from shared.model.spec import Colour, Decoder, ImageInput, ModelSpec, OutputSpec, Task, WindowInput
from shared.model.torch_networks import build_network
from tests.support.small_training import accuracy, objective_for, spec_for, train
from tests.support.small_windows import (
    AIR_COLUMNS,
    AIR_HOURS,
    MACHINE_SAMPLES,
    air,
    fashion,
    machine,
)

pytestmark = pytest.mark.slow
AIR = ModelSpec(
    model="air",
    task=Task.CLASSIFICATION,
    input=WindowInput(samples=AIR_HOURS, channels=len(AIR_COLUMNS)),
    output=OutputSpec(decoder=Decoder.LOGITS, classes=("0", "6", "12", "18")),
)
MACHINE = ModelSpec(
    model="machine",
    task=Task.ANOMALY,
    input=WindowInput(samples=MACHINE_SAMPLES),
    output=OutputSpec(decoder=Decoder.RECONSTRUCTION),
)
SHOES = ModelSpec(
    model="shoes",
    task=Task.ANOMALY,
    input=ImageInput(width=14, height=14, colour=Colour.GRAY, scale=(255.0,)),
    output=OutputSpec(decoder=Decoder.RECONSTRUCTION),
)
TRANSFORMER = NetworkSpec(architecture=TransformerNetwork(width=32, layers=1, heads=4, patch=2))
AUTOENCODER = NetworkSpec(architecture=AutoencoderNetwork(channels=(16, 8), narrow=6))
TRAINERS, BOOTS = 7, 9  # Classes of Fashion-MNIST


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_filling_in_hidden_hours_teaches_what_few_labels_cannot() -> None:
    windows, quarters = _shuffled_air()
    few, count = 60, len(windows) - 400
    fresh = build_network(TRANSFORMER, AIR, seed=0)
    taught = train(
        spec_for(AIR, TRANSFORMER, MaskedMethod(mask_share=0.4, span=4)),
        windows[:count],
        Targets(torch.full((count,), -1)),
        epochs=50,
        learning_rate=0.005,
    )

    def tuned(net: nn.Module) -> float:
        trained = train(
            spec_for(AIR, TRANSFORMER, SupervisedMethod()),
            windows[:few],
            Targets(quarters[:few]),
            epochs=100,
            batch=few // 2,
            net=net,
        )
        return accuracy(trained, windows[count:], quarters[count:])

    before, after = tuned(fresh), tuned(taught)
    print(f"60 labels: from scratch {before:.3f}, after masked pretraining {after:.3f}")
    assert after > before + 0.15


def test_masked_evaluation_hides_the_same_samples_each_time() -> None:
    windows, quarters = _shuffled_air()
    net = build_network(TRANSFORMER, AIR).eval()
    objective = objective_for(spec_for(AIR, TRANSFORMER, MaskedMethod()), net, quarters)
    with torch.no_grad():
        sums = [objective.metrics(net, (windows[:50],), Targets(quarters[:50])) for _ in range(2)]
        losses = {
            float(objective.loss(net, (windows[:50],), Targets(quarters[:50]), epoch=0.0))
            for _ in range(3)
        }
    assert sums[0] is not None
    assert sums[0] == sums[1]
    assert float(sums[0]["count"]) == 50.0
    assert len(losses) == 3


def test_only_hidden_samples_count() -> None:
    windows, quarters = _shuffled_air()
    spec = spec_for(MACHINE, AUTOENCODER, MaskedMethod(mask_share=0.5, span=4))
    items = windows[:64, :1].repeat(1, 1, 2)  # (64, 1, 48)

    class Copies(nn.Module):
        def forward(self, seen: Tensor) -> Tensor:
            return seen

    net = build_network(AUTOENCODER, MACHINE)
    objective = objective_for(spec, net, quarters)
    # What copies its input is right where nothing is hidden, and puts 0 where something is.
    loss = objective.loss(Copies(), (items,), Targets(quarters[:64]), epoch=0.0)
    assert float(loss) == pytest.approx(float(items.square().mean()), rel=0.1)
    assert objective.metrics(net, (items,), Targets(quarters[:64])) is None


@pytest.mark.parametrize(
    ("method", "area_min"),
    [
        (SupervisedMethod(input_noise=0.1), 0.7),
        (GenerativeMethod(input_noise=0.1, erased_share=0.2), 0.8),
    ],
    ids=["denoising", "gan"],
)
def test_a_machine_in_trouble_is_reconstructed_worse(method: Method, area_min: float) -> None:
    windows, flags = machine()
    half = len(windows) // 2
    labels = torch.from_numpy(flags.astype(np.int64))
    net = train(
        spec_for(MACHINE, AUTOENCODER, method),
        windows[:half],
        Targets(labels[:half]),
        epochs=20,
        batch=32,
    )
    area = roc_area(_errors(net, windows[half:]), flags[half:])
    print(f"{type(method).__name__}: area under the ROC curve {area:.3f}")
    assert area > area_min


def test_items_labelled_anomalous_are_not_learned() -> None:
    windows, _ = machine()
    net = build_network(AUTOENCODER, MACHINE)
    mixed = torch.tensor([0, 1, -1, 1])
    for method in (SupervisedMethod(), GenerativeMethod(input_noise=0.0, adversary_weight=0.0)):
        objective = objective_for(spec_for(MACHINE, AUTOENCODER, method), net, mixed)
        items = windows[:4].clone().requires_grad_()
        loss = objective.loss(net, (items,), Targets(mixed), epoch=0.0)
        loss.backward()  # type: ignore[no-untyped-call]
        assert items.grad is not None
        reached = items.grad.flatten(1).abs().sum(1) > 0
        assert reached.tolist() == [True, False, True, False]


def test_a_network_against_a_critic_paints_in_what_was_erased() -> None:
    pictures, classes = fashion(3000)
    is_shoe = (classes == TRAINERS) | (classes == BOOTS)
    shoes, unseen = pictures[:1500][is_shoe[:1500]], pictures[1500:]
    method = GenerativeMethod(input_noise=0.1, erased_share=0.1)
    network = NetworkSpec(architecture=RepairNetwork(channels=(16, 32)))
    spec = spec_for(SHOES, network, method)
    nobody = torch.full((len(shoes),), -1)
    net = train(spec, shoes, Targets(nobody), epochs=15, batch=32)

    torch.manual_seed(1)
    clean = unseen[is_shoe[1500:]]
    damaged = damage(clean, method)
    with torch.no_grad():
        before = float((damaged - clean).square().mean())
        after = float((net(damaged) - clean).square().mean())
    area = roc_area(_errors(net, unseen), ~is_shoe[1500:].numpy())
    print(f"squared error {before:.4f} -> {after:.4f}, other clothes found: {area:.3f}")
    assert after < 0.5 * before
    assert area > 0.85


def test_neither_the_network_nor_its_critic_pulls_at_the_others_parameters() -> None:
    windows, _ = machine()
    labels = torch.zeros(16, dtype=torch.int64)
    items = windows[:16]

    def grads(weight: float, *, is_critic_frozen: bool) -> tuple[list[Tensor], list[Tensor | None]]:
        torch.manual_seed(0)
        net = build_network(AUTOENCODER, MACHINE)
        method = GenerativeMethod(adversary_weight=weight, input_noise=0.0)
        objective = objective_for(spec_for(MACHINE, AUTOENCODER, method), net, labels)
        objective.extra.requires_grad_(not is_critic_frozen)
        loss = objective.loss(net, (items,), Targets(labels), epoch=0.0)
        loss.backward()  # type: ignore[no-untyped-call]
        ours = [p.grad for p in net.parameters() if p.grad is not None]
        return ours, [p.grad for p in objective.extra.parameters()]

    with_critic, of_critic = grads(1.0, is_critic_frozen=False)
    alone, nothing = grads(1.0, is_critic_frozen=True)
    assert all(grad is None for grad in nothing)
    for ours, expected in zip(with_critic, alone, strict=True):
        torch.testing.assert_close(ours, expected)
    _, of_critic_unheard = grads(0.0, is_critic_frozen=False)
    for ours_too, expected_too in zip(of_critic, of_critic_unheard, strict=True):
        torch.testing.assert_close(ours_too, expected_too)
    without, _ = grads(0.0, is_critic_frozen=True)
    assert any(not torch.equal(a, b) for a, b in zip(with_critic, without, strict=True))


def test_a_score_is_learned_from_labels_read_as_numbers() -> None:
    windows, _ = _shuffled_air()
    spec = ModelSpec(
        model="warmth",
        task=Task.ANOMALY,
        input=AIR.input,
        output=OutputSpec(decoder=Decoder.SCORE),
    )
    warmth = windows[:, AIR_COLUMNS.index("TEMP")].mean(1)  # (N,)
    degrees = ((warmth + 3.0) * 2.0).round().long().clamp(min=0)
    known = torch.where(torch.arange(len(windows)) % 3 > 0, degrees, -1)
    network = NetworkSpec(architecture=WindowNetwork(channels=(8,), hidden=16))
    run = msgspec.structs.replace(spec_for(spec, network, SupervisedMethod()), seed=1)
    net = train(run, windows, Targets(known), epochs=15)
    with torch.no_grad():
        error = (net(windows)[:, 0] - degrees).square()[known < 0].mean()
    assert float(error) < 0.25 * float(degrees.float().var())


def _shuffled_air() -> tuple[Tensor, Tensor]:
    windows, quarters = air()
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    return windows[order], quarters[order]


def _errors(net: nn.Module, items: Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        return squared_errors(net(items), items).numpy()
