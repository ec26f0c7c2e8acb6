"""What is trained: everything, parts by name, or a low-rank change that is merged exactly."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cloud_hub.training.trainer.spec import (
    AllTrained,
    LowRankTrained,
    PartTrained,
    SupervisedMethod,
)
from cloud_hub.training.trainer.torch_low_rank import (
    LowRank,
    own_state,
    prepare_trained,
    training_mode,
)
from cloud_hub.training.trainer.torch_objective import Targets
from shared.errors import ContractError
from shared.model.network import (
    Architecture,
    ConvolutionNetwork,
    DepthwiseNetwork,
    NetworkSpec,
    RecurrentNetwork,
    ResidualNetwork,
    TransformerNetwork,
    WindowNetwork,
)
from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, WindowInput
from shared.model.torch_networks import build_network
from shared.model.weights import digest_weights
from tests.support.learning_digits import SPEC
from tests.support.small_training import accuracy, digits, spec_for, train

NETWORK = NetworkSpec(
    architecture=ConvolutionNetwork(channels=(8, 16), hidden=32, has_batch_norm=True)
)
WINDOWS = ModelSpec(
    model="shaft",
    task=Task.CLASSIFICATION,
    input=WindowInput(samples=16, channels=3),
    output=OutputSpec(decoder=Decoder.LOGITS, classes=("a", "b")),
)
LORA = LowRankTrained(rank=4, alpha=8.0)
KINDS: list[tuple[Architecture, ModelSpec]] = [
    (NETWORK.architecture, SPEC),
    (ResidualNetwork(blocks=(1, 1), widths=(8, 16)), SPEC),
    (DepthwiseNetwork(channels=8, blocks=1), SPEC),
    (WindowNetwork(channels=(8,), hidden=8), WINDOWS),
    (TransformerNetwork(width=16, layers=1, heads=2), WINDOWS),
    (RecurrentNetwork(hidden=8), WINDOWS),
]
NAMES = [type(architecture).__name__ for architecture, _ in KINDS]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("architecture", "spec"), KINDS, ids=NAMES)
def test_a_low_rank_change_starts_at_the_very_same_network(
    architecture: Architecture, spec: ModelSpec
) -> None:
    net = build_network(NetworkSpec(architecture=architecture), spec).eval()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    items = torch.randn(5, *spec.input_shape[1:])
    with torch.no_grad():
        before = net(items)
        prepare_trained(net, LORA)
        # Frozen recurrent layers are computed by other kernels, in another order of sums.
        torch.testing.assert_close(net(items), before, rtol=0.0, atol=1e-6)
    assert all(torch.equal(tensor, state[name]) for name, tensor in own_state(net).items())


@pytest.mark.parametrize(("architecture", "spec"), KINDS, ids=NAMES)
def test_merged_weights_are_exactly_w_plus_scale_b_a_under_their_own_names(
    architecture: Architecture, spec: ModelSpec
) -> None:
    torch.manual_seed(0)
    net = build_network(NetworkSpec(architecture=architecture), spec).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    merge = prepare_trained(net, LORA)
    expected = dict(before)
    changed = 0
    for path, module in net.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            change = module.parametrizations.weight[0]
            assert isinstance(change, LowRank)
            nn.init.normal_(change.b)
            weight = before[f"{path}.weight"]
            product = (8.0 / change.a.shape[0]) * (change.b @ change.a)
            expected[f"{path}.weight"] = weight + product.detach().view(weight.shape)
            assert change.a.shape[0] == min(4, weight.shape[0], weight[0].numel())
            changed += 1
    items = torch.randn(5, *spec.input_shape[1:])
    with torch.no_grad():
        answers = net(items)
    during = own_state(net)
    merge()
    after = net.state_dict()
    assert changed
    assert list(after) == list(before) == list(during)
    assert all(torch.equal(after[name], expected[name]) for name in before)
    assert all(torch.equal(during[name], expected[name]) for name in before)
    assert all(parameter.requires_grad for parameter in net.parameters())
    with torch.no_grad():
        torch.testing.assert_close(net(items), answers)
    fresh = build_network(NetworkSpec(architecture=architecture), spec)
    fresh.load_state_dict(after)
    assert _digest(fresh.state_dict()) == _digest(after)


def test_only_the_change_and_what_is_full_are_trained() -> None:
    net = build_network(NETWORK, SPEC)
    prepare_trained(net, LowRankTrained(rank=2, alpha=4.0, full=("1.3.",)))
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    changed = ("0.0", "0.4", "1.1")
    changes = {f"{path}.parametrizations.weight.0.{name}" for path in changed for name in "ab"}
    assert trained == changes | {"1.3.weight", "1.3.bias"}


@pytest.mark.slow
def test_a_network_of_other_digits_learns_new_ones_by_a_low_rank_change() -> None:
    items, labels, test_items, test_labels = digits()
    low, high = labels < 5, labels >= 5
    spec = spec_for(SPEC, NETWORK, SupervisedMethod())
    net = train(spec, items[low], Targets(labels[low]), epochs=10)
    new = test_labels >= 5
    before = accuracy(net, test_items[new], test_labels[new])
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    merge = prepare_trained(net, LowRankTrained(rank=4, alpha=8.0, full=("1.3.",)))
    count = sum(p.numel() for p in net.parameters() if p.requires_grad)
    train(spec, items[high], Targets(labels[high]), epochs=60, net=net)
    during = accuracy(net, test_items[new], test_labels[new])
    merge()
    after = accuracy(net, test_items[new], test_labels[new])
    every = sum(p.numel() for p in net.parameters())
    print(f"new digits {before:.3f} -> {after:.3f}, {count} of {every} numbers trained")
    assert before < 0.1
    assert after == during > 0.85
    kept = {n for n, tensor in net.state_dict().items() if torch.equal(tensor, weights[n])}
    assert {"0.1.running_mean", "0.1.weight", "0.5.running_var", "0.0.bias"} <= kept


def test_a_part_is_trained_and_the_rest_stays_bit_for_bit() -> None:
    items, labels, _, _ = digits()
    net = build_network(NETWORK, SPEC)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    merge = prepare_trained(net, PartTrained(prefixes=("1.",)))
    spec = spec_for(SPEC, NETWORK, SupervisedMethod())
    train(spec, items[:256], Targets(labels[:256]), epochs=2, net=net)
    after = net.state_dict()
    is_same = {name: torch.equal(tensor, before[name]) for name, tensor in after.items()}
    assert {name for name, same in is_same.items() if not same} == {
        name for name in before if name.startswith("1.")
    }
    merge()
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_only_frozen_normalisation_keeps_its_statistics() -> None:
    net = build_network(NETWORK, SPEC).eval()
    prepare_trained(net, PartTrained(prefixes=("0.5.", "1.")))
    training_mode(net)
    modes = {path: module.training for path, module in net.named_modules()}
    assert [path for path, is_training in modes.items() if not is_training] == ["0.1"]
    prepare_trained(build_network(NETWORK, SPEC), AllTrained())
    other = build_network(NETWORK, SPEC).eval()
    prepare_trained(other, AllTrained())()
    training_mode(other)
    assert all(module.training for module in other.modules())


@pytest.mark.parametrize(
    "trained",
    [PartTrained(prefixes=("1.", "haed.")), LowRankTrained(full=("haed.",))],
    ids=["part", "lora"],
)
def test_an_unknown_prefix_is_refused_and_the_known_ones_are_named(
    trained: PartTrained | LowRankTrained,
) -> None:
    net = build_network(NETWORK, SPEC)
    with pytest.raises(ContractError) as refused:
        prepare_trained(net, trained)
    assert refused.value.code == "training.prefix"
    assert "'haed.'" in refused.value.message
    assert "0.0., 0.1., 0.4., 0.5., 1.1., 1.3." in refused.value.remedy
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(parametrize.is_parametrized(module) for module in net.modules())


def _digest(state: dict[str, Tensor]) -> str:
    return digest_weights({name: np.asarray(tensor) for name, tensor in state.items()})
