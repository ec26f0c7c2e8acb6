"""Every zoo member leaves as an ONNX file: any batch, int8 too, through the gate, onto a device."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from cloud_hub.candidates import gate
from cloud_hub.candidates.evaluation_data import check_fit, decode_evaluation, split
from cloud_hub.candidates.export_files import ExportSettings
from cloud_hub.candidates.onnx_evaluation import evaluate
from cloud_hub.candidates.onnx_forms import open_form
from cloud_hub.candidates.onnx_inspection import inspect_model
from cloud_hub.candidates.onnx_parity import compare_with, parity_inputs
from cloud_hub.candidates.onnx_quantizer import quantize_dynamic, quantize_static
from cloud_hub.candidates.process_examiner import Beside, examine
from cloud_hub.candidates.process_exporter import export
from cloud_hub.candidates.torch_export import export_onnx, outputs_of
from cloud_hub.candidates.torch_pruning import prune
from cloud_hub.candidates.torch_tuning import tune_for_int8
from cloud_hub.candidates.torch_weights import state_of
from edge_agent.command_line.try_model import guess_source
from edge_agent.inference.golden_proof import prove_golden
from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.training.opencv_samples import load_samples
from edge_agent.training.settings import SampleFormat, SampleSettings
from edge_agent.training.torch_trainer import train
from shared.errors import ContractError, RefusedError
from shared.learning.task import LocalMethod, OptimiserName
from shared.model.network import NetworkSpec, TransformerNetwork
from shared.model.preprocess import to_bytes, to_tensor
from shared.model.torch_networks import build_network
from shared.model.weights import encode_weights
from shared.release.golden import decode_golden
from tests.support.zoo import DETECTOR, TEXTS, WORDS, ZOO, Member, draw, seasoned

pytestmark = pytest.mark.slow  # Each export takes about a second.

SETTINGS = ExportSettings()
# Exported by test_torch_export.py, or of the same layers as another
LEFT_OUT = {"cnn", "mlp", "conv1d", "gru", "lenet-small", "resnet-large-stem"}
MEMBERS = [pytest.param(m, id=m.name) for m in ZOO if m.name not in LEFT_OUT]
HAS_NO_MATRIX = {"repair", "repair-narrow", "ssd"}


@cache
def trained_like(member: Member) -> nn.Module:
    torch.set_num_threads(1)
    return seasoned(build_network(member.network, member.spec, seed=3), member.spec)


@cache
def exported(member: Member) -> bytes:
    return export_onnx(trained_like(member), member.spec)


def run(data: bytes, inputs: NDArray[np.generic]) -> list[NDArray[np.float32]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    answers: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: inputs})
    return answers


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_leaves_as_onnx_that_computes_the_same_and_passes_the_gate_also_as_int8(
    member: Member, tmp_path: Path
) -> None:
    """In one test, because an export takes most of its time."""
    data = exported(member)
    assert_computes_what_torch_does(member, data)
    assert_passes_the_gate_and_a_device_proves_it(member, data, tmp_path / "model.onnx")
    assert_is_close_as_int8(member, data)


def assert_computes_what_torch_does(member: Member, data: bytes) -> None:
    inputs = parity_inputs(member.spec, draw(member.spec, 3).numpy(), items=3)  # Drawn and given
    with torch.no_grad():
        outputs = outputs_of(trained_like(member)(torch.from_numpy(inputs)))
    facts = compare_with(data, inputs, outputs, SETTINGS.parity)  # One by one
    assert facts.is_within, facts
    assert facts.items_count == 6
    assert outputs[0].std(0).max() > 1e-3  # The comparison is of outputs that differ
    off = (outputs[0] + 0.01, *outputs[1:])
    assert not compare_with(data, inputs, off, SETTINGS.parity).is_within
    for got, wanted in zip(run(data, inputs), outputs, strict=True):  # All six together
        np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=1e-3)


def assert_passes_the_gate_and_a_device_proves_it(member: Member, data: bytes, path: Path) -> None:
    facts = inspect_model(data, opset_min=18).facts
    assert gate.model_reasons(facts, member.spec, gate.GateSettings()) == []
    assert facts.inputs[0].shape[0] is None
    ran = evaluate(data, data, member.spec, golden=None, items=4)
    assert gate.run_reasons(ran.facts, member.spec) == []
    path.write_bytes(data)
    session = load_onnx_session(path, member.spec)  # Its warm run is of zeros
    proof = prove_golden(session, [decode_golden(ran.golden_bytes)])
    assert proof.is_within
    assert proof.items_count == 4


def assert_is_close_as_int8(member: Member, data: bytes) -> None:
    inputs = draw(member.spec, 12, seed=5).numpy()
    wanted = run(data, inputs)
    static, dynamic = quantize_static(data, inputs), quantize_dynamic(data)
    assert precision_of(static) == "int8"
    assert precision_of(dynamic) == ("fp32" if member.name in HAS_NO_MATRIX else "int8-dynamic")
    for form in (static, dynamic):
        for got, fp32 in zip(run(form, inputs), wanted, strict=True):
            error = np.sqrt(np.mean(np.square(got - fp32)))
            # Networks that learned nothing put out nearly the same for all items: of noise, the
            # error would be 1.4 deviations.
            assert error < 0.5 * fp32.std() + 0.01


def precision_of(data: bytes) -> str:
    return inspect_model(data, opset_min=18).facts.precision


@pytest.mark.parametrize("member", [m for m in MEMBERS if m.id in {"resnet-8", "ssd"}])
def test_what_cannot_be_pruned_says_what_to_do_instead(member: Member) -> None:
    with pytest.raises(RefusedError) as caught:
        prune(trained_like(member), member.network, member.spec, 0.3)
    assert caught.value.code == "pruning.unsupported"
    assert "narrower" in caught.value.remedy


@pytest.mark.parametrize(
    "member", [m for m in MEMBERS if m.id in {"resnet-8", "transformer-texts", "ensemble"}]
)
def test_the_new_kinds_are_tuned_for_int8(member: Member) -> None:
    teacher = trained_like(member)
    inputs = draw(member.spec, 8)
    settings = ExportSettings(tuning_steps=0)
    student = tune_for_int8(teacher, inputs, member.spec, settings, seed=0)
    assert not [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]  # All folded
    with torch.no_grad():  # Weights on the grid alone change little
        torch.testing.assert_close(student(inputs), teacher(inputs), atol=0.05, rtol=0.05)


def test_a_detector_is_not_tuned_without_labels() -> None:
    module = trained_like(DETECTOR)
    with pytest.raises(RefusedError) as caught:
        tune_for_int8(module, draw(DETECTOR.spec, 2), DETECTOR.spec, SETTINGS, seed=0)
    assert caught.value.code == "tuning.unsupported"


@pytest.mark.parametrize("member", [m for m in MEMBERS if m.id in {"ssd", "transformer-texts"}])
def test_two_outputs_and_whole_numbers_go_through_the_process(member: Member) -> None:
    weights = encode_weights(state_of(trained_like(member)))
    evaluation = texts_npz() if member.spec is TEXTS else None
    made = export(member.spec, member.network, weights, evaluation, SETTINGS)
    assert made.parity.is_within
    inputs = draw(member.spec, 2).numpy()
    for got, wanted in zip(
        run(made.model_bytes, inputs), run(exported(member), inputs), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


def texts_npz(count: int = 40) -> bytes:
    """An evaluation set, or a device's samples: texts of different lengths in one array."""
    random = np.random.default_rng(0)
    texts = [f"{WORDS[i % 3]} {random.integers(1000)}".encode() for i in range(count)]
    items = np.zeros((count, max(map(len, texts))), np.uint8)
    for row, text in zip(items, texts, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, items=items, labels=np.arange(count) % 3)
    return buffer.getvalue()


def test_an_evaluation_set_of_texts_judges_a_model_of_texts_and_no_other(tmp_path: Path) -> None:
    data = decode_evaluation(texts_npz())
    check_fit(data, TEXTS)
    with pytest.raises(ContractError) as caught:
        check_fit(data, DETECTOR.spec)
    assert caught.value.code == "evaluation.misfit"
    member = next(m for m in ZOO if m.name == "transformer-texts")
    form = open_form(exported(member), TEXTS)
    assert form.dtype == "int64"
    assert form.tensors(data.items).shape == (40, 30)
    assert form.answer_all(data.items[list(split(data.items).held_out)]).classes.max() < 3
    text = to_tensor(to_bytes("oil 684"), TEXTS)
    np.testing.assert_array_equal(form.tensors(padded(b"oil 684", 99)), text)
    path = tmp_path / "texts.npz"
    path.write_bytes(texts_npz())
    settings = SampleSettings(model=TEXTS.model, path=str(path), format=SampleFormat.NPZ)
    samples = load_samples(settings, TEXTS)
    assert samples.training.items.dtype == np.int64
    assert samples.training.items.shape[1:] == (30,)


def test_the_gate_measures_every_form_of_a_text_model_on_held_out_texts() -> None:
    network = NetworkSpec(architecture=TransformerNetwork(width=16, heads=2, layers=1))
    module = build_network(network, TEXTS, seed=1)
    evaluation = texts_npz(200)
    data = decode_evaluation(evaluation)
    items = np.concatenate([to_tensor(item, TEXTS) for item in data.items])
    method = LocalMethod(epochs=6, optimiser=OptimiserName.ADAM, learning_rate=0.01)
    train(module, torch.from_numpy(items), torch.from_numpy(data.labels), method, spec=TEXTS)
    model_bytes = export_onnx(module.eval(), TEXTS)
    beside = Beside(evaluation_bytes=evaluation, old_spec=TEXTS, old_bytes=model_bytes)
    examined = examine(model_bytes, TEXTS, None, gate.GateSettings(), beside)
    facts = examined.examination.evaluation
    assert facts is not None, examined.examination
    assert facts.old_error == ""
    measured = {one.name: one for one in facts.variants}
    assert set(measured) == {"fp32", "int8", "int8-dynamic"}
    for one in measured.values():
        assert one.error == ""
        assert one.latency_ms is not None
        assert one.slices[0].items_count == facts.items_count
        assert one.slices[0].right_count > 0.9 * facts.items_count
    assert set(examined.further) == {"int8", "int8-dynamic"}


def padded(text: bytes, size: int) -> NDArray[np.uint8]:
    return np.frombuffer(text.ljust(size, b"\0"), np.uint8)[None]


def test_a_device_says_what_is_a_source_of_texts() -> None:
    with pytest.raises(ContractError) as caught:
        guess_source("0", TEXTS)
    assert caught.value.code == "source.guess"
    assert "text file" in caught.value.remedy
