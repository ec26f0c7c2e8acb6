"""Real files through inspection, evaluation and the examining process: good and bad ones."""

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cloud_hub.candidates import gate
from cloud_hub.candidates.candidate import Verdict
from cloud_hub.candidates.examination import Examination
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.onnx_evaluation import draw_inputs, evaluate, open_run
from cloud_hub.candidates.onnx_inspection import inspect_model
from cloud_hub.candidates.onnx_quantizer import quantize_static
from cloud_hub.candidates.process_examiner import Examined, examine
from shared.errors import RefusedError, TransientError
from shared.model.spec import ModelSpec, parse_spec
from shared.release.golden import GoldenSet, decode_golden, encode_golden
from tests.support import tiny_models as tiny
from tests.support.requirements import require_data
from tests.support.small_disk import small_disk

SPEC = parse_spec(tiny.SPEC.encode())
SETTINGS = GateSettings()
FASTESTDET = """
model = "street"
task = "detection"
[input]
kind = "image"
width = 352
height = 352
scale = [255.0]
[output]
decoder = "fastestdet"
classes = CLASSES
""".replace("CLASSES", str([f"c{i}" for i in range(80)]))
FACES = """
model = "faces"
task = "detection"
[input]
kind = "image"
width = 320
height = 240
colour = "rgb"
mean = [127.0]
scale = [128.0]
[output]
decoder = "ssd-corners"
classes = ["face"]
"""


def examined_here(
    model: onnx.ModelProto, *, golden: GoldenSet | None = None, spec: ModelSpec = SPEC
) -> Examination:
    """Examine in this process: what the examining process does, without starting it."""
    data = model.SerializeToString()
    inspection = inspect_model(data, opset_min=SETTINGS.opset_min)
    if gate.model_reasons(inspection.facts, spec, SETTINGS):
        return Examination(model=inspection.facts)
    run = evaluate(data, inspection.model_bytes, spec, golden=golden, items=3).facts
    return Examination(model=inspection.facts, run=run)


def codes(model: onnx.ModelProto, *, golden: GoldenSet | None = None) -> list[str]:
    verdict = gate.judge(examined_here(model, golden=golden), SPEC, SETTINGS)
    return [reason.code for reason in verdict.reasons]


def in_a_process(
    data: bytes, golden: bytes | None = None, settings: GateSettings = SETTINGS
) -> tuple[Verdict, Examined]:
    examined = examine(data, SPEC, golden, settings)
    return gate.judge(examined.examination, SPEC, settings), examined


def test_good_models_pass() -> None:
    assert codes(tiny.classifier()) == []
    assert codes(tiny.convolutional()) == []
    window = parse_spec(tiny.WINDOW_SPEC.encode())
    examination = examined_here(tiny.identity_window(), spec=window)
    assert gate.judge(examination, window, SETTINGS).is_passed


def test_texts_and_paths_are_stripped_wherever_they_hide() -> None:
    model = tiny.classifier()
    model.doc_string = model.producer_name = model.producer_version = "/home/anna/train.py"
    model.metadata_props.add(key="source", value="/home/anna/model.py")
    model.graph.doc_string = model.graph.name = "/home/anna"
    model.training_info.add().algorithm.name = "/home/anna"
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input):
        part.doc_string = "/home/anna"
        part.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/anna/x.py")
    stripped = inspect_model(model.SerializeToString(), opset_min=13).model_bytes
    assert b"/home/anna" not in stripped
    assert b"anna" in model.SerializeToString()
    assert (
        stripped == inspect_model(tiny.classifier().SerializeToString(), opset_min=13).model_bytes
    )


def test_initializers_leave_the_inputs() -> None:
    model = tiny.classifier()
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    assert codes(model) == []
    inspection = inspect_model(model.SerializeToString(), opset_min=13)
    assert inspection.facts.initializer_inputs_removed == 2
    assert len(onnx.load_from_string(inspection.model_bytes).graph.input) == 1


def test_nodes_that_converters_left_out_of_order_are_put_in_order() -> None:
    """As onnxconverter-common's float16 leaves them: onnxruntime takes it, the checker does not."""
    model = tiny.convolutional()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert codes(model) == []
    ordered = inspect_model(tiny.convolutional().SerializeToString(), opset_min=13)
    assert [node.op_type for node in onnx.load_from_string(ordered.model_bytes).graph.node] == [
        node.op_type for node in nodes
    ]


def test_nodes_in_a_circle_are_named_by_the_checker() -> None:
    model = tiny.classifier()
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]
    assert "gate.checker" in codes(model)


def test_a_batch_axis_of_minus_one_is_an_open_one() -> None:
    model = tiny.classifier()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    assert codes(model) == []
    published = inspect_model(model.SerializeToString(), opset_min=13)
    assert published.facts.inputs[0].shape[0] is None


def test_an_old_operator_set_is_raised_and_proved_to_compute_the_same() -> None:
    examination = examined_here(tiny.classifier(opset=11))
    assert (examination.model.opset_uploaded, examination.model.opset) == (11, 13)
    verdict = gate.judge(examination, SPEC, SETTINGS)
    assert verdict.is_passed
    assert "gate.opset_raised" in [remark.code for remark in verdict.remarks]


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def dangling(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nothing"


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, (1,)))


def wrong_side(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 9


def wrong_dtype(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (external, "gate.external_data"),
        (foreign_operator, "gate.domain"),
        (dangling, "gate.checker"),
        (two_inputs, "gate.inputs"),
        (wrong_side, "gate.input_shape"),
        (wrong_dtype, "gate.input_dtype"),
    ],
)
def test_a_spoiled_file_is_refused_for_its_fault(
    spoil: Callable[[onnx.ModelProto], None], code: str
) -> None:
    model = tiny.classifier()
    spoil(model)
    assert code in codes(model)


def test_a_tensor_hidden_in_a_subgraph_may_not_be_external_either() -> None:
    inner = tiny.classifier()
    external(inner)
    model = tiny.classifier()
    model.graph.node[0].attribute.append(helper.make_attribute("body", inner.graph))
    assert inspect_model(model.SerializeToString(), opset_min=13).facts.external_count == 1


def test_random_outputs_are_not_deterministic() -> None:
    noise = helper.make_node("RandomNormalLike", ["raw"], ["noise"])
    add = helper.make_node("Add", ["raw", "noise"], ["logits"])
    found = codes(tiny.classifier(extra_nodes=(noise, add)))
    assert "gate.not_deterministic" in found


def test_infinite_outputs() -> None:
    zero = helper.make_node("Sub", ["raw", "raw"], ["zero"])
    divide = helper.make_node("Div", ["raw", "zero"], ["logits"])
    assert codes(tiny.classifier(extra_nodes=(zero, divide))) == ["gate.not_finite"]


def test_outputs_that_do_not_fit_the_decoder() -> None:
    twice = helper.make_node("Concat", ["raw", "raw"], ["logits"], axis=1)
    model = tiny.classifier(extra_nodes=(twice,))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    assert codes(model) == ["gate.outputs"]


def golden(seed: int = 1, *, shift: float = 0.0) -> GoldenSet:
    """What the classifier of `seed` really computes, or `shift` beside it."""
    inputs = tiny.images(5)
    weights = {t.name: numpy_helper.to_array(t) for t in tiny.classifier(seed).graph.initializer}
    hidden = np.maximum(inputs.reshape(5, -1) @ weights["w1"], 0)
    return GoldenSet(inputs, ((hidden @ weights["w2"] + shift).astype(np.float32),))


def test_given_golden_outputs_must_be_reproduced() -> None:
    assert codes(tiny.classifier(1), golden=golden()) == []
    assert codes(tiny.classifier(2), golden=golden()) == ["gate.golden_differs"]
    assert codes(tiny.classifier(1), golden=golden(shift=5.0)) == ["gate.golden_differs"]


def test_golden_inputs_must_fit_the_model() -> None:
    one = golden()
    wide = GoldenSet(one.inputs[:, :, :, :7], one.outputs)
    assert codes(tiny.classifier(1), golden=wide) == ["gate.run"]
    pixels = GoldenSet((one.inputs * 255).astype(np.uint8), one.outputs)
    assert codes(tiny.classifier(1), golden=pixels) == ["gate.run"]


def test_drawn_inputs_lie_in_the_specs_range_and_are_always_the_same() -> None:
    faces = parse_spec(FACES.encode())
    drawn = draw_inputs(faces, dtype="float32", items=2)
    assert drawn.shape == (2, 3, 240, 320)
    assert drawn.dtype == np.float32
    assert -127 / 128 <= float(drawn.min()) < -0.9
    assert 0.9 < float(drawn.max()) <= 1.0
    assert np.array_equal(drawn, draw_inputs(faces, dtype="float32", items=2))
    assert draw_inputs(faces, dtype="uint8", items=1).dtype == np.uint8


def test_static_quantization_is_recognized_close_and_smaller() -> None:
    model = tiny.convolutional(3)
    data = model.SerializeToString()
    small = quantize_static(data, tiny.images(32))
    again = onnx.load_from_string(small)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in again.graph.node}
    examination = examined_here(again)
    assert examination.model.precision == "int8"
    assert gate.judge(examination, SPEC, SETTINGS).is_passed
    weights = [t for t in again.graph.initializer if t.data_type == TensorProto.INT8]
    assert weights
    reduced = onnx.load_from_string(quantize_static(data, tiny.images(32), is_range_reduced=True))
    for tensor in reduced.graph.initializer:
        if tensor.data_type == TensorProto.INT8:
            assert np.abs(numpy_helper.to_array(tensor)).max() <= 64


@pytest.mark.parametrize("is_named", [True, False])
def test_scores_that_share_a_tensor_with_boxes_outlive_quantization(*, is_named: bool) -> None:
    """As YOLOv8's head has it: boxes to 640 and scores below 1, by one scale all scores were 0."""
    random = np.random.default_rng(3)
    weights = {
        "w": random.standard_normal((6, 1, 1, 1)).astype(np.float32),
        "side": np.array(640.0, np.float32),
        "parts": np.array([4, 2], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["raw"]),
        helper.make_node("Split", ["raw", "parts"], ["b", "s"], axis=1),
        helper.make_node("Mul", ["b", "side"], ["boxes"]),
        helper.make_node("Sigmoid", ["s"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["out"], axis=1),
    ]
    model = tiny.make(nodes, weights, shape=(1, 1, 8, 8), outputs=[("out", (1, 6, 8, 8))])
    for index, node in enumerate(model.graph.node):
        node.name = f"node {index}" if is_named else ""
    data = model.SerializeToString()
    (run, _), (small, _) = open_run(data), open_run(quantize_static(data, tiny.images(32)))
    for image in tiny.images(8):
        (wanted,), (got,) = run(image[None]), small(image[None])
        assert np.abs(got[:, 4:] - wanted[:, 4:]).max() < 0.02
        assert np.abs(got[:, :4] - wanted[:, :4]).max() < 0.02 * 640


def test_what_cannot_be_quantized_says_so() -> None:
    model = tiny.classifier()
    two_inputs(model)
    with pytest.raises(RefusedError) as raised:
        quantize_static(model.SerializeToString(), tiny.images(2))
    assert raised.value.code == "quantizer.failed"


def test_dynamic_quantization_is_recognized() -> None:
    model = tiny.classifier()
    node = helper.make_node("DynamicQuantizeLinear", ["input"], ["q", "s", "z"])
    model.graph.node.append(node)
    facts = inspect_model(model.SerializeToString(), opset_min=13).facts
    assert facts.precision == "int8-dynamic"
    assert (
        inspect_model(tiny.classifier().SerializeToString(), opset_min=13).facts.precision == "fp32"
    )


# In the examining process.


@pytest.mark.slow
def test_the_process_gives_the_same_answer_and_the_files() -> None:
    data = tiny.classifier(1).SerializeToString()
    verdict, examined = in_a_process(data, encode_golden(golden()))
    assert verdict.is_passed
    assert verdict.remarks == ()
    assert examined.model_bytes == inspect_model(data, opset_min=13).model_bytes
    assert np.array_equal(decode_golden(examined.golden_bytes).inputs, golden().inputs)


@pytest.mark.slow
@pytest.mark.parametrize("data", [b"no model", b"\x08\x08", bytes(1000)])
def test_rubbish_is_refused(data: bytes) -> None:
    verdict, _ = in_a_process(data)
    assert verdict.reasons[0].code == "gate.unreadable"


@pytest.mark.slow
def test_a_golden_set_that_is_none_is_refused() -> None:
    verdict, _ = in_a_process(tiny.classifier().SerializeToString(), b"PK rubbish")
    assert [reason.code for reason in verdict.reasons] == ["gate.golden"]


@pytest.mark.slow
def test_a_model_that_takes_more_memory_than_it_may_dies_alone() -> None:
    """1.2 GiB of zeros from a constant of sixteen bytes: this machine has it, the limit has not."""
    shape = numpy_helper.from_array(np.array([1 << 14, 20_000], np.int64), "shape")
    big = helper.make_node("ConstantOfShape", ["shape"], ["zeros"])
    total = helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0)
    add = helper.make_node("Add", ["raw", "sum"], ["logits"])
    model = tiny.classifier(extra_nodes=(big, total, add))
    model.graph.initializer.append(shape)
    settings = GateSettings(examination_memory_bytes_max=1 << 30)
    assert in_a_process(tiny.classifier().SerializeToString(), settings=settings)[0].is_passed
    verdict, _ = in_a_process(model.SerializeToString(), settings=settings)
    assert not verdict.is_passed
    assert verdict.reasons[0].code in ("gate.run", "gate.crashed")


@pytest.mark.slow
@pytest.mark.parametrize("free_bytes", [0, 16 << 10])
def test_a_full_disk_is_not_the_models_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int
) -> None:
    """Full before the examining process starts, and while it writes."""
    model = tiny.classifier()
    with small_disk(tmp_path / "disk", size_bytes=1 << 20) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
        disk.fill()
        if free_bytes:
            os.truncate(disk.folder / "filler", (1 << 20) - free_bytes)
        with pytest.raises(TransientError) as raised:
            in_a_process(model.SerializeToString())
        assert raised.value.code == "disk.write_failed"
        disk.empty()
        assert not list(disk.folder.iterdir())
        assert in_a_process(model.SerializeToString())[0].is_passed


@pytest.mark.slow
def test_a_model_that_never_ends_is_stopped() -> None:
    """A loop of 2^62 turns."""
    turns = numpy_helper.from_array(np.array(1 << 62, np.int64), "turns")
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["carried"], ["carried_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("carried_on", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["turns", "", "raw"], ["logits"], body=body)
    model = tiny.classifier(extra_nodes=(loop,))
    model.graph.initializer.append(turns)
    settings = GateSettings(examination_s_max=2)
    verdict, _ = in_a_process(model.SerializeToString(), settings=settings)
    assert [verdict.reasons[0].code, verdict.is_passed] == ["gate.crashed", False]
    assert "time" in verdict.reasons[0].text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spec", "removed"),
    [("FastestDet", FASTESTDET, 0), ("version-RFB-320", FACES, 244)],
)
def test_real_detectors_pass(name: str, spec: str, removed: int) -> None:
    data = require_data(f"models/{name}.onnx").read_bytes()
    parsed = parse_spec(spec.encode())
    examined = examine(data, parsed, None, SETTINGS)
    verdict = gate.judge(examined.examination, parsed, SETTINGS)
    assert verdict.is_passed, verdict.reasons
    assert examined.examination.model.initializer_inputs_removed == removed
    assert len(examined.golden_bytes) < len(data)


@pytest.mark.slow
def test_a_real_detector_quantizes_and_passes() -> None:
    data = require_data("models/FastestDet.onnx").read_bytes()
    parsed = parse_spec(FASTESTDET.encode())
    small = quantize_static(data, draw_inputs(parsed, dtype="float32", items=8))
    assert len(small) < 0.5 * len(data)
    examined = examine(small, parsed, None, SETTINGS)
    assert gate.judge(examined.examination, parsed, SETTINGS).is_passed
    assert examined.examination.model.precision == "int8"


@pytest.mark.slow
def test_several_models_may_be_examined_at_once() -> None:
    data = tiny.classifier().SerializeToString()
    verdicts: list[bool] = []
    threads = [
        threading.Thread(target=lambda: verdicts.append(in_a_process(data)[0].is_passed))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert verdicts == [True] * 3
