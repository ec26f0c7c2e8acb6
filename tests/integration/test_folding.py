"""Preprocessing folded into the graph: what a device would compute, computed from raw frames."""

import tracemalloc
import weakref
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from cloud_hub.candidates import gate
from cloud_hub.candidates.folding import folded_spec
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.onnx_calibration import calibrate
from cloud_hub.candidates.onnx_evaluation import evaluate, open_run
from cloud_hub.candidates.onnx_fold_parity import fold_examined, frames_of
from cloud_hub.candidates.onnx_folding import PREFIX, fold
from cloud_hub.candidates.onnx_inspection import inspect_model
from cloud_hub.candidates.onnx_quantizer import Calibration, quantize_dynamic, quantize_static
from cloud_hub.candidates.process_examiner import examine
from shared.errors import RefusedError
from shared.model.opencv_resize import FrameResizer
from shared.model.preprocess import to_tensor
from shared.model.spec import (
    Colour,
    Decoder,
    ImageInput,
    Layout,
    ModelSpec,
    OutputSpec,
    Resize,
    Task,
    parse_spec,
)
from shared.release.golden import GoldenSet, decode_golden
from tests.support import tiny_models as tiny
from tests.support.requirements import require_data

WIDTH, HEIGHT = 12, 8
SETTINGS = GateSettings(timing_rounds=5)
Frames = NDArray[np.uint8]


def spec_of(image: ImageInput) -> ModelSpec:
    output = OutputSpec(decoder=Decoder.SCORE)
    return ModelSpec(model="pixels", task=Task.ANOMALY, input=image, output=output)


def network(spec: ModelSpec, *, pads: int, takers: int = 1) -> bytes:
    """A convolution over the input, `takers` of them, then one number."""
    random = np.random.default_rng(1)
    channels = spec.channels_count
    image = spec.input
    assert isinstance(image, ImageInput)
    weights = {"w": random.standard_normal((4, channels, 3, 3)).astype(np.float32) / 9}
    weights["b"] = random.standard_normal(4).astype(np.float32)
    is_last = image.layout is Layout.CHANNELS_LAST
    turn = [helper.make_node("Transpose", ["input"], ["turned"], perm=[0, 3, 1, 2])] * is_last
    start = "turned" if is_last else "input"
    convolutions = [
        helper.make_node("Conv", [start, "w", "b"], [f"c{index}"], pads=[pads] * 4)
        for index in range(takers)
    ]
    nodes = [
        *turn,
        *convolutions,
        helper.make_node("Sum", [f"c{index}" for index in range(takers)], ["summed"]),
        helper.make_node("Relu", ["summed"], ["positive"]),
        helper.make_node("ReduceMean", ["positive"], ["score"], axes=[1, 2, 3], keepdims=0),
    ]
    shape = spec.input_shape
    model = tiny.make(nodes, weights, shape=shape, outputs=[("score", (1,))])
    return model.SerializeToString()


def frames(count: int = 6, *, width: int = WIDTH, height: int = HEIGHT) -> Frames:
    random = np.random.default_rng(2)
    return random.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


IMAGES = [
    ImageInput(width=WIDTH, height=HEIGHT),
    ImageInput(width=WIDTH, height=HEIGHT, scale=(255.0,)),
    ImageInput(width=WIDTH, height=HEIGHT, mean=(127.0,), scale=(128.0,), resize=Resize.LETTERBOX),
    ImageInput(
        width=WIDTH,
        height=HEIGHT,
        colour=Colour.RGB,
        mean=(123.7, 116.3, 103.5),
        scale=(58.4, 57.1, 57.4),
    ),
    ImageInput(width=WIDTH, height=HEIGHT, colour=Colour.GRAY, mean=(33.3,), scale=(78.6,)),
    ImageInput(
        width=WIDTH,
        height=HEIGHT,
        colour=Colour.RGB,
        layout=Layout.CHANNELS_LAST,
        mean=(1.0, 2.0, 3.0),
        scale=(50.0,),
    ),
    ImageInput(
        width=WIDTH, height=HEIGHT, colour=Colour.GRAY, layout=Layout.CHANNELS_LAST, scale=(255.0,)
    ),
]


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize(("pads", "takers"), [(0, 1), (1, 1), (1, 2)])
def test_a_folded_model_computes_from_frames_what_the_other_does_from_tensors(
    image: ImageInput, pads: int, takers: int
) -> None:
    spec = spec_of(image)
    data = network(spec, pads=pads, takers=takers)
    folded = fold(data, spec)
    onnx.checker.check_model(onnx.load_from_string(folded), full_check=True)
    plain, (run, dtype) = open_run(data)[0], open_run(folded)
    assert dtype == "uint8"
    resizer = FrameResizer(image)  # Letterboxes or stretches, as a device does
    for camera in frames(width=30, height=9):
        frame = resizer.resize(camera)[0]
        (wanted,), (got,) = plain(to_tensor(frame, spec)), run(frame[None])
        # A gray that lies between two whole numbers may be rounded to either.
        loose = 0.02 if image.colour is Colour.GRAY else 1e-4
        np.testing.assert_allclose(got, wanted, rtol=loose, atol=loose)


@pytest.mark.parametrize("is_within", [False, True])
def test_an_input_called_frame_or_taken_within_a_branch_is_folded(*, is_within: bool) -> None:
    image = IMAGES[3]
    spec = spec_of(image)
    model = onnx.load_from_string(network(spec, pads=1))
    if is_within:
        branch = onnx.GraphProto(name="branch")
        branch.node.extend(model.graph.node)
        branch.output.extend(model.graph.output)
        switch = helper.make_node("If", ["yes"], ["score"], then_branch=branch, else_branch=branch)
        del model.graph.node[:]
        model.graph.node.append(switch)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    else:
        model.graph.node[0].input[0] = model.graph.input[0].name = "frame"
    data = model.SerializeToString()
    run, plain = open_run(fold(data, spec))[0], open_run(data)[0]
    for frame in frames():
        (got,), (wanted,) = run(frame[None]), plain(to_tensor(frame, spec))
        np.testing.assert_allclose(got, wanted, rtol=1e-4)


def test_scale_colour_and_mean_go_into_the_weights_where_nothing_is_padded() -> None:
    spec = spec_of(IMAGES[3])

    def added(pads: int) -> list[str]:
        graph = onnx.load_from_string(fold(network(spec, pads=pads), spec)).graph
        return [node.op_type for node in graph.node if node.name.startswith(PREFIX)]

    assert added(0) == ["Transpose", "Cast"]
    assert added(1) == ["Transpose", "Cast", "Sub"]


def test_the_folded_spec_says_that_frames_go_straight_in() -> None:
    spec = spec_of(IMAGES[3])
    said = folded_spec(spec)
    frame = frames(1)[0]
    np.testing.assert_array_equal(to_tensor(frame, said, dtype=np.dtype(np.uint8))[0], frame)
    assert said.output == spec.output


@pytest.mark.parametrize("image", IMAGES)
def test_given_golden_inputs_are_turned_back_into_frames(image: ImageInput) -> None:
    spec = spec_of(image)
    seen = frames(3)
    if image.colour is Colour.GRAY:
        seen = np.repeat(seen[..., :1], 3, axis=3)
    tensors = np.concatenate([to_tensor(frame, spec) for frame in seen])
    np.testing.assert_array_equal(frames_of(tensors, spec), seen)
    with pytest.raises(RefusedError, match="no pixels"):
        frames_of(tensors + 0.4 / image.scale[0], spec)


def test_a_fold_that_computes_something_else_is_refused_with_how_far_it_is_off() -> None:
    spec = spec_of(IMAGES[1])
    data = network(spec, pads=1)
    other = network(spec_of(IMAGES[1]), pads=0)
    evaluation = evaluate(data, data, spec, golden=None, items=2)
    wrong = tuple(output + 1.0 for output in open_run(other)[0](to_tensor(frames(1)[0], spec)))
    tensors = to_tensor(frames(1)[0], spec)
    with pytest.raises(RefusedError, match="off by"):
        fold_examined(data, spec, evaluation, golden=GoldenSet(tensors, wrong), items=None)


@pytest.mark.slow
def test_the_examining_process_folds_and_an_upload_may_say_not_to() -> None:
    spec = parse_spec(tiny.SPEC.encode())
    data = tiny.classifier(1).SerializeToString()
    folded = examine(data, spec, None, SETTINGS)
    assert folded.examination.spec == folded_spec(spec)
    golden = decode_golden(folded.golden_bytes)
    assert (golden.inputs.dtype, golden.inputs.shape[1:]) == (np.uint8, (8, 8, 3))
    assert gate.judge(folded.examination, spec, SETTINGS).is_passed
    plain = examine(data, spec, None, SETTINGS, is_folded=False)
    assert plain.examination.spec is None
    assert decode_golden(plain.golden_bytes).inputs.dtype == np.float32


@pytest.fixture(scope="module")
def street() -> Frames:
    capture = cv2.VideoCapture(str(require_data("data/video/car-detection.mp4")))
    taken = [capture.read()[1] for _ in range(48)][::2]
    capture.release()
    return np.stack(taken).astype(np.uint8, copy=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image", "within"),
    [
        ("FastestDet", ImageInput(width=352, height=352, scale=(255.0,)), 1e-3),
        (
            "version-RFB-320",
            ImageInput(width=320, height=240, colour=Colour.RGB, mean=(127.0,), scale=(128.0,)),
            1e-5,
        ),
        ("yunet_n_320_320", ImageInput(width=320, height=320), 1e-6),
    ],
)
def test_real_detectors_take_frames_and_their_int8_forms_read_bytes(
    name: str, image: ImageInput, within: float, street: Frames
) -> None:
    spec = spec_of(image)
    uploaded = require_data(f"models/{name}.onnx").read_bytes()
    data = inspect_model(uploaded, opset_min=13).model_bytes
    folded = fold(data, spec)
    plain, run = open_run(data)[0], open_run(folded)[0]
    resizer = FrameResizer(image)
    seen = np.stack([resizer.resize(frame)[0].copy() for frame in street])
    for frame in seen[:4]:
        for got, wanted in zip(run(frame[None]), plain(to_tensor(frame, spec)), strict=True):
            np.testing.assert_allclose(got, wanted, atol=within, rtol=within)
    small = onnx.load_from_string(quantize_static(folded, seen[:4]))
    added = {node.op_type for node in small.graph.node if node.name.startswith(PREFIX)}
    assert added == {"Transpose", "DequantizeLinear"}  # Bytes are the quantized tensor
    assert quantize_dynamic(folded)


def test_ranges_by_percentile_are_found_of_as_many_items_as_may_be_held() -> None:
    """A detector of 640 x 640 has 245 MB of activations an item: 32 of them ate all memory."""
    spec = spec_of(ImageInput(width=128, height=128))
    data = network(spec, pads=1)
    items = np.stack([to_tensor(frame, spec)[0] for frame in frames(32, width=128, height=128)])

    def peak_bytes(held_bytes: int) -> int:
        tracemalloc.start()
        quantize_static(data, items, method=Calibration.PERCENTILE, range_bytes_max=held_bytes)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # Two activations of (4, 128, 128) floats: half a megabyte an item.
    assert peak_bytes(1 << 20) + (4 << 20) < peak_bytes(1 << 30)


def test_a_calibration_that_fails_lets_go_of_its_memory(tmp_path: Path) -> None:
    class Held:
        """What a method had in memory."""

    held: list[weakref.ref[Held]] = []

    def agreement(_form: bytes) -> float:
        assert not any(one() for one in held)
        ours = Held()
        held.append(weakref.ref(ours))
        raise RefusedError("quantizer.failed", "It cannot be run.")

    spec = spec_of(IMAGES[0])
    items = np.stack([to_tensor(frame, spec)[0] for frame in frames(16)])
    with pytest.raises(RefusedError):
        calibrate(network(spec, pads=1), items, agreement, tmp_path, agreement_enough=0.99)
    assert len(held) == 3


@pytest.mark.slow
def test_calibrators_differ_and_the_one_that_agrees_best_is_taken(
    tmp_path: Path, street: Frames
) -> None:
    image = ImageInput(width=320, height=320)
    spec = spec_of(image)
    uploaded = require_data("models/yunet_n_320_320.onnx").read_bytes()
    data = fold(inspect_model(uploaded, opset_min=13).model_bytes, spec)
    resizer = FrameResizer(image)
    seen = np.stack([resizer.resize(frame)[0].copy() for frame in street[:16]])
    tried: dict[bytes, float] = {}

    def agreement(form: bytes) -> float:
        tried[form] = (0.5, 0.9, 0.7)[len(tried)]
        return tried[form]

    best = calibrate(data, seen, agreement, tmp_path, agreement_enough=0.99)
    assert len(tried) == 3  # All methods, and no two make the same form
    assert (best.method, best.agreement) == (Calibration.PERCENTILE, 0.9)
    assert tried[best.data] == 0.9
    # Forms of other integers are made of the ranges that were found.
    signed = quantize_static(data, seen[:0], method=best.method, ranges=best.ranges, is_signed=True)
    assert signed not in tried
    tried.clear()
    first = calibrate(data, seen, lambda _: 0.99, tmp_path, agreement_enough=0.99)
    assert first.method is Calibration.MINMAX
