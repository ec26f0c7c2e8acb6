"""Checkpoints become ONNX models that compute the same; what cannot be exported is named."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cloud_hub.candidates.export_files import ExportSettings
from cloud_hub.candidates.onnx_parity import compare_with, parity_inputs
from cloud_hub.candidates.process_exporter import WEIGHTS_FILE_BYTES_MAX, check_weights
from cloud_hub.candidates.torch_export import export_onnx, outputs_of
from cloud_hub.process_limits import run_to_end
from shared.errors import IsthmusError
from shared.model.network import (
    Architecture,
    AutoencoderNetwork,
    ConvolutionNetwork,
    DenseNetwork,
    NetworkSpec,
    RecurrentNetwork,
    WindowNetwork,
)
from shared.model.spec import ModelSpec, Tolerance
from shared.model.torch_networks import build_network
from shared.model.weights import decode_weights, digest_weights, encode_weights
from tests.support.network_specs import HEALTH, IMAGES, WINDOWS

pytestmark = pytest.mark.slow  # Each export takes about a second.

SMALL = NetworkSpec(architecture=DenseNetwork(hidden=(4,)))
SETTINGS = ExportSettings()
KINDS = [
    pytest.param(ConvolutionNetwork(channels=(4, 6), has_batch_norm=True), IMAGES, id="cnn"),
    pytest.param(DenseNetwork(hidden=(8,)), IMAGES, id="mlp"),
    pytest.param(DenseNetwork(hidden=(8,)), HEALTH, id="mlp-reconstruction"),
    pytest.param(WindowNetwork(channels=(4, 6), has_batch_norm=True), WINDOWS, id="conv1d"),
    pytest.param(RecurrentNetwork(hidden=6, layers=2), WINDOWS, id="gru"),
    pytest.param(AutoencoderNetwork(), HEALTH, id="autoencoder"),
]


def trained_like(architecture: Architecture, spec: ModelSpec) -> nn.Module:
    """A network with statistics in its norms and numbers as training leaves them."""
    torch.set_num_threads(1)
    module = build_network(NetworkSpec(architecture=architecture), spec, seed=3)
    with torch.no_grad():
        for _ in range(3):
            module(torch.rand(16, *spec.input_shape[1:]))
        for parameter in module.parameters():
            parameter.mul_(1.5)
    return module.eval()


@pytest.mark.parametrize(("architecture", "spec"), KINDS)
def test_every_kind_computes_in_onnxruntime_what_it_does_in_torch(
    architecture: Architecture, spec: ModelSpec
) -> None:
    module = trained_like(architecture, spec)
    data = export_onnx(module, spec)
    inputs = parity_inputs(spec, None, items=8)
    with torch.no_grad():
        outputs = outputs_of(module(torch.from_numpy(inputs)))
    facts = compare_with(data, inputs, outputs, SETTINGS.parity)
    assert facts.is_within
    assert facts.items_count == 8
    assert facts.error_max < 1e-4
    # The comparison can fail: outputs that are a little off are not within.
    assert not compare_with(data, inputs, (outputs[0] + 0.01,), Tolerance(1e-4, 1e-4)).is_within
    model = onnx.load_from_string(data)
    batch, *item = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param  # Any number of items
    assert tuple(size.dim_value for size in item) == spec.input_shape[1:]
    assert_holds_no_texts(model, data)


def assert_holds_no_texts(model: onnx.ModelProto, data: bytes) -> None:
    assert not model.metadata_props
    assert not model.doc_string
    for node in model.graph.node:
        assert not node.metadata_props
        assert not node.doc_string
    for text in (b".py", b"site-packages", str(Path.cwd()).encode(), b"stack_trace"):
        assert text not in data


def test_weights_that_were_drawn_are_the_same_every_time_and_go_through_the_process() -> None:
    drawn = check_weights(IMAGES, SMALL, None, SETTINGS)
    weights = decode_weights(drawn.weights_bytes)
    assert digest_weights(weights) == drawn.weights_digest
    assert drawn.parameters_count == sum(math.prod(a.shape) for a in weights.values())
    shuffled = dict(reversed(weights.items()))
    assert check_weights(IMAGES, SMALL, encode_weights(shuffled), SETTINGS) == drawn


@pytest.mark.parametrize(
    ("network", "spec", "weights", "code", "text"),
    [
        (SMALL, IMAGES, b"no zip", "weights.invalid", "Not a file of weights"),
        (
            SMALL,
            IMAGES,
            encode_weights({"1.weight": np.zeros((4, 7), np.float32)}),
            "weights.misfit",
            "'1.weight' has shape (4, 7)",
        ),
        (
            NetworkSpec(architecture=RecurrentNetwork()),
            IMAGES,
            None,
            "network.unfit",
            "takes windows",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    network: NetworkSpec, spec: ModelSpec, weights: bytes | None, code: str, text: str
) -> None:
    with pytest.raises(IsthmusError) as raised:
        check_weights(spec, network, weights, SETTINGS)
    assert raised.value.code == code
    assert text in raised.value.message
    assert raised.value.remedy


def test_weights_that_are_too_large_are_not_even_written() -> None:
    """Zeros that nobody touches take no memory."""
    with pytest.raises(IsthmusError) as raised:
        check_weights(IMAGES, SMALL, bytes(WEIGHTS_FILE_BYTES_MAX + 1), SETTINGS)
    assert raised.value.code == "weights.too_large"
    assert str(WEIGHTS_FILE_BYTES_MAX) in raised.value.message


HUGE = NetworkSpec(architecture=DenseNetwork(hidden=(4096,) * 16))  # A gibibyte of numbers


@pytest.mark.parametrize(
    ("network", "settings", "text"),
    [
        (HUGE, ExportSettings(export_s_max=1), "it used all the processor time it may"),
        (HUGE, ExportSettings(export_memory_bytes_max=2 << 30), "it used all the memory it may"),
    ],
)
def test_a_network_that_takes_too_much_is_an_error_with_what_it_took(
    network: NetworkSpec, settings: ExportSettings, text: str
) -> None:
    with pytest.raises(IsthmusError) as raised:
        check_weights(IMAGES, network, None, settings)
    assert raised.value.code == "export.failed"
    assert text in raised.value.message
    assert "releases.gate.export" in raised.value.remedy


def test_how_a_process_died_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "isthmus_dies.py").write_text("import os; os.kill(os.getpid(), 11)")
    (tmp_path / "isthmus_fails.py").write_text("raise ValueError('what is wrong')")
    (tmp_path / "isthmus_hangs.py").write_text("import signal; signal.pause()")
    (tmp_path / "isthmus_ends.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_to_end("isthmus_ends", tmp_path, seconds_max=30.0) == ""
    assert run_to_end("isthmus_dies", tmp_path, seconds_max=30.0) == "the process died of SIGSEGV"
    assert run_to_end("isthmus_fails", tmp_path, seconds_max=30.0) == "ValueError: what is wrong"
    assert "longer than" in run_to_end("isthmus_hangs", tmp_path, seconds_max=0.1)
