"""Optimisers of the trainer beside torch's own, and what Muon promises."""

import copy
from collections.abc import Callable

import msgspec
import pytest
import torch
from torch import Tensor, nn

from cloud_hub.training.trainer.spec import OptimiserName, Recipe
from cloud_hub.training.trainer.torch_flat import FlatGroup, clip, gradient_norm
from cloud_hub.training.trainer.torch_optimisers import Optimiser, orthogonalised

torch.set_num_threads(1)
STEPS = 6
RECIPE = Recipe(learning_rate=0.05, matrix_learning_rate=0.03, weight_decay=0.01)


def _network() -> nn.Module:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(96, 5)
    )
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _train(network: nn.Module, zero: Callable[[], None], step: Callable[[], None]) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        items = torch.randn(8, 2, 4, 4, generator=generator)
        zero()
        network(items).square().mean().backward()
        step()


def _groups(network: nn.Module) -> list[dict[str, object]]:
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [OptimiserName.SGD, OptimiserName.ADAMW])
def test_steps_are_those_of_torch(name: OptimiserName) -> None:
    ours = _network()
    theirs = copy.deepcopy(ours)
    optimiser = Optimiser((ours,), msgspec.structs.replace(RECIPE, optimiser=name))
    groups = _groups(theirs)
    stock: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=0.05)
    if name is OptimiserName.SGD:
        stock = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    _train(ours, optimiser.zero, lambda: optimiser.step(1.0))
    _train(theirs, stock.zero_grad, lambda: stock.step() and None)
    _assert_same(ours, theirs)


def test_muon_steps_filters_and_hidden_matrices_and_sgd_the_rest() -> None:
    ours = _network()
    theirs = copy.deepcopy(ours)
    recipe = msgspec.structs.replace(RECIPE, optimiser=OptimiserName.MUON, weight_decay=0.0)
    optimiser = Optimiser((ours,), recipe, head_prefix="3.")
    sgd = Optimiser((theirs,), msgspec.structs.replace(recipe, optimiser=OptimiserName.SGD))
    before = ours[0].weight.detach().clone()  # type: ignore[index,union-attr,operator]
    batch = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    for network, stepped in ((ours, optimiser), (theirs, sgd)):
        stepped.zero()
        network(batch).square().mean().backward()
        stepped.step(1.0)
    for name in ("0.bias", "1.weight", "1.bias", "3.weight", "3.bias"):
        torch.testing.assert_close(ours.get_parameter(name), theirs.get_parameter(name))
    change = (ours.get_parameter("0.weight") - before).flatten(1).detach()  # (6, 18)
    singular = torch.linalg.svdvals(change) / recipe.matrix_learning_rate
    assert singular.min() > 0.5
    assert singular.max() < 1.3


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 24, 24)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    found = orthogonalised(matrices)
    assert found.shape == matrices.shape
    singular = torch.linalg.svdvals(found)
    assert singular.max() < 1.3
    # The iteration lifts what is small; only the square one has values near 0 to begin with.
    assert singular.median() > 0.6
    # The same singular vectors: what it does to each is only a length.
    product = found @ matrices.mT
    torch.testing.assert_close(product, product.mT, rtol=1e-3, atol=1e-5)


def test_a_gradient_of_nothing_changes_nothing() -> None:
    found = orthogonalised(torch.zeros(1, 4, 8))
    assert bool((found == 0).all())


def test_gradients_are_clipped_to_a_norm_and_shorter_ones_left_alone() -> None:
    groups = [FlatGroup([nn.Parameter(torch.zeros(n))], has_decay=False) for n in (3, 5)]
    for group in groups:
        group.parameters[0].grad.fill_(2.0)  # type: ignore[union-attr]
    assert float(gradient_norm(groups)) == pytest.approx(32**0.5)
    clip(groups, 1.0)
    assert float(gradient_norm(groups)) == pytest.approx(1.0, rel=1e-4)
    clip(groups, 5.0)
    assert float(gradient_norm(groups)) == pytest.approx(1.0, rel=1e-4)


def test_parameters_keep_their_values_and_strides_in_a_flat_group() -> None:
    network = _network()
    before: dict[str, Tensor] = {n: p.detach().clone() for n, p in network.named_parameters()}
    strides = {name: p.stride() for name, p in network.named_parameters()}
    Optimiser((network,), RECIPE)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.stride() == strides[name]


def test_frozen_parameters_are_left_alone() -> None:
    network = _network()
    network.get_parameter("0.weight").requires_grad_(False)
    before = network.get_parameter("0.weight").clone()
    optimiser = Optimiser((network,), RECIPE)
    _train(network, optimiser.zero, lambda: optimiser.step(1.0))
    assert torch.equal(network.get_parameter("0.weight"), before)


def test_the_average_follows_the_weights_and_a_swap_undoes_itself() -> None:
    network = _network()
    recipe = msgspec.structs.replace(RECIPE, average_decay=0.9)
    optimiser = Optimiser((network,), recipe)
    first = network.get_parameter("3.weight").detach().clone()
    _train(network, optimiser.zero, lambda: optimiser.step(1.0))
    last = network.get_parameter("3.weight").detach().clone()
    optimiser.swap_average()
    mean = network.get_parameter("3.weight").detach().clone()
    optimiser.swap_average()
    assert torch.equal(network.get_parameter("3.weight"), last)
    assert 0 < (mean - last).norm() < (first - last).norm()


def test_a_state_goes_on_exactly() -> None:
    networks = [_network(), _network()]
    recipe = msgspec.structs.replace(RECIPE, optimiser=OptimiserName.ADAMW, average_decay=0.5)
    first, second = (Optimiser((network,), recipe) for network in networks)
    _train(networks[0], first.zero, lambda: first.step(1.0))
    networks[1].load_state_dict(networks[0].state_dict())
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    for network, optimiser in zip(networks, (first, second), strict=True):
        _train(network, optimiser.zero, lambda o=optimiser: o.step(0.5))  # type: ignore[misc]
    for (name, a), b in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(a, b), name
