"""Networks by name: shapes as the ModelSpec says, the same weights for the same seed."""

import msgspec
import pytest
import torch

from shared.errors import ContractError
from shared.model.network import (
    AutoencoderNetwork,
    ConvolutionNetwork,
    DenseNetwork,
    NetworkSpec,
    RecurrentNetwork,
    WindowNetwork,
    parse_network,
)
from shared.model.spec import ModelSpec
from shared.model.torch_networks import build_network
from tests.support.network_specs import HEALTH, IMAGES, WINDOWS

FITTING = [
    (ConvolutionNetwork(), IMAGES, (3,)),
    (ConvolutionNetwork(channels=(4,), has_batch_norm=True), IMAGES, (3,)),
    (DenseNetwork(hidden=(8, 4)), IMAGES, (3,)),
    (DenseNetwork(), WINDOWS, (2,)),
    (DenseNetwork(), HEALTH, (3, 50)),
    (WindowNetwork(has_batch_norm=True), WINDOWS, (2,)),
    (RecurrentNetwork(layers=2), WINDOWS, (2,)),
    (AutoencoderNetwork(), HEALTH, (3, 50)),
]


@pytest.mark.parametrize(("architecture", "spec", "outputs"), FITTING)
def test_a_network_takes_and_gives_what_the_spec_says(
    architecture: object, spec: ModelSpec, outputs: tuple[int, ...]
) -> None:
    net = build_network(NetworkSpec(architecture=architecture), spec).eval()  # type: ignore[arg-type]
    items = torch.rand(4, *spec.input_shape[1:])
    assert tuple(net(items).shape) == (4, *outputs)


@pytest.mark.parametrize(("architecture", "spec", "outputs"), FITTING)
def test_the_same_seed_draws_the_same_weights_and_leaves_the_callers_luck_alone(
    architecture: object, spec: ModelSpec, outputs: tuple[int, ...]
) -> None:
    network = NetworkSpec(architecture=architecture)  # type: ignore[arg-type]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_network(network, spec, seed=1).state_dict()
    assert torch.equal(torch.rand(3), expected)
    again = build_network(network, spec, seed=1).state_dict()
    other = build_network(network, spec, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("architecture", "spec", "part"),
    [
        (ConvolutionNetwork(), WINDOWS, "images"),
        (ConvolutionNetwork(channels=(4,) * 5), IMAGES, "halvings"),
        (WindowNetwork(), IMAGES, "windows"),
        (RecurrentNetwork(), IMAGES, "windows"),
        (AutoencoderNetwork(), WINDOWS, "reconstruction"),
        (WindowNetwork(), HEALTH, "reconstruction"),
    ],
)
def test_a_network_that_does_not_fit_its_model_is_refused(
    architecture: object, spec: ModelSpec, part: str
) -> None:
    with pytest.raises(ContractError) as caught:
        build_network(NetworkSpec(architecture=architecture), spec)  # type: ignore[arg-type]
    assert caught.value.code == "network.unfit"
    assert part in caught.value.message


def test_a_channels_last_model_is_not_trained_here() -> None:
    image = msgspec.structs.replace(IMAGES.input, layout="channels-last")
    spec = msgspec.structs.replace(IMAGES, input=image)
    with pytest.raises(ContractError) as caught:
        build_network(NetworkSpec(architecture=DenseNetwork()), spec)
    assert caught.value.code == "network.unfit"


def test_a_network_file_names_its_architecture_and_what_stays_personal() -> None:
    network = parse_network(
        b'personal = ["1."]\narchitecture = {kind = "cnn", channels = [8], hidden = 16}\n'
    )
    assert network.architecture == ConvolutionNetwork(channels=(8,), hidden=16)
    names = build_network(network, IMAGES).state_dict()
    personal = [name for name in names if network.is_personal(name)]
    assert personal == ["1.1.weight", "1.1.bias", "1.3.weight", "1.3.bias"]


def test_a_wrong_key_in_a_network_file_is_named() -> None:
    with pytest.raises(ContractError) as caught:
        parse_network(b'architecture = {kind = "cnn", channel = [8]}\n')
    assert "channel" in caught.value.message
