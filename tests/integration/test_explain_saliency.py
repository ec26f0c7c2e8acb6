"""Saliency of networks of which it is known what they look at."""

import numpy as np
import pytest
import torch

from cloud_hub.explain.torch_answers import to_inputs
from cloud_hub.explain.torch_saliency import (
    asked,
    can_ask,
    integrated_gradients,
    occlusion,
    saliency,
)
from shared.model.network import (
    AutoencoderNetwork,
    ConvolutionNetwork,
    NetworkSpec,
    RecurrentNetwork,
)
from shared.model.spec import Decoder
from shared.model.torch_networks import build_network
from tests.support.explained_items import (
    Dataset,
    OneNumber,
    box_items,
    image_items,
    text_items,
    window_items,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def item_of(data: Dataset, index: int = 1) -> torch.Tensor:
    return torch.from_numpy(to_inputs(data.arrays.items[index : index + 1], data.spec))


def test_a_network_that_looks_at_one_pixel_rests_on_it() -> None:
    data = image_items()
    found = saliency(OneNumber((0, 4, 7), 2), data.spec, item_of(data), answer=1, device=CPU)
    assert found.gradient is not None
    assert found.gradient.shape == (12, 12)
    assert np.flatnonzero(found.gradient).tolist() == [4 * 12 + 7]
    row, column = np.unravel_index(np.abs(found.occlusion).argmax(), (12, 12))
    assert (row, column) == (4, 7)
    assert found.occlusion[10, 1] == 0.0


def test_what_speaks_against_an_answer_is_negative() -> None:
    data, network = image_items(), OneNumber((0, 4, 7), 2)
    for answer, sign in ((0, -1.0), (1, 1.0)):
        found = saliency(network, data.spec, item_of(data), answer=answer, device=CPU)
        assert found.gradient is not None
        assert np.sign(found.gradient[4, 7]) == sign  # The pixel is bright
        assert np.sign(found.occlusion[4, 7]) == sign


def test_a_network_that_looks_at_one_channel_rests_on_it() -> None:
    data = window_items()
    found = saliency(OneNumber((1, 20), 1), data.spec, item_of(data), answer=0, device=CPU)
    assert found.gradient is not None
    assert found.gradient.shape == found.occlusion.shape == (32, 3)
    assert np.flatnonzero(found.gradient).tolist() == [20 * 3 + 1]
    assert not found.occlusion[:, [0, 2]].any()
    assert np.abs(found.occlusion[:, 1]).argmax() == 20


def test_a_network_that_looks_at_one_letter_rests_on_it() -> None:
    data = text_items()
    found = saliency(OneNumber((10,), 2), data.spec, item_of(data), answer=1, device=CPU)
    assert found.gradient is None
    assert np.flatnonzero(found.occlusion).tolist() == [10]


@pytest.mark.parametrize("kind", ["cnn", "gru", "autoencoder"])
def test_integrated_gradients_sum_up_to_the_difference_they_explain(kind: str) -> None:
    match kind:
        case "cnn":
            data = image_items()
            network = NetworkSpec(architecture=ConvolutionNetwork(channels=(4, 8), hidden=16))
        case "gru":
            data = window_items()
            network = NetworkSpec(architecture=RecurrentNetwork(hidden=8))
        case _:
            data = window_items(decoder=Decoder.RECONSTRUCTION)
            network = NetworkSpec(architecture=AutoencoderNetwork())
    module = build_network(network, data.spec, seed=3).eval()
    with torch.no_grad():  # Fresh weights hardly answer: make them differ
        for parameter in module.parameters():
            parameter.mul_(2.0)
    ask, item = asked(module, data.spec, 0), item_of(data)
    with torch.no_grad():
        difference = float(ask(item) - ask(torch.zeros_like(item)))
    assert abs(difference) > 0.01
    found = integrated_gradients(ask, item)
    error = abs(float(found.sum()) - difference)
    assert error < 0.02 * float(found.abs().sum())
    finer = float(integrated_gradients(ask, item, steps=2000).sum())
    assert finer == pytest.approx(difference, rel=0.005)


def test_no_gradient_is_left_in_the_network() -> None:
    data, network = image_items(), OneNumber((0, 4, 7), 2)
    saliency(network, data.spec, item_of(data), answer=1, device=CPU)
    assert network.gain.grad is None


def test_hiding_nothing_that_counts_changes_nothing() -> None:
    data = image_items()
    ask = asked(OneNumber((0, 4, 7), 2), data.spec, 1)
    empty = torch.zeros_like(item_of(data))
    assert not occlusion(ask, empty, data.spec).any()


def test_detectors_are_not_asked() -> None:
    assert not can_ask(box_items().spec)
    assert can_ask(image_items().spec)
