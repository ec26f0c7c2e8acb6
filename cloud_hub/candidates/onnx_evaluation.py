"""Runs a model on its golden inputs: does it run, twice the same, finite, and as promised?

1. Sessions are set up as on a device: one thread, no spinning, CPU.
2. Golden inputs that nobody gave are drawn with a fixed seed from the range the spec describes.
   Their outputs are computed by the file as uploaded; the form that would be published must
   reproduce them, which proves that stripping and raising the operator set changed nothing.
3. Each item is run alone, as on a device.

Runs in the examining process only (onnx_examination.py).
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from cloud_hub.candidates.examination import RunFacts
from shared.errors import RefusedError
from shared.model.postprocess import check_outputs
from shared.model.preprocess import to_tensor
from shared.model.spec import ImageInput, Layout, ModelSpec, TextInput, Tokenizer
from shared.release.golden import GoldenSet, compare, encode_golden

Array = NDArray[np.generic]
Run = Callable[[Array], tuple[Array, ...]]

SEED = 20_240_229
DRAWN_IDS = 100  # No vocabulary of a tokenizer.json is as small
SQUARES_PER_SIDE = 24
PRINTABLE_ASCII = (32, 127)
OUTPUT_BYTES_AIM = 512 * 1024  # Golden outputs of a drawn set, together
_LOG_ERRORS_ONLY = 3
_DTYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64"}
FOREIGN_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.NoSuchFile,
    ort_errors.RuntimeException,
    ort_errors.EPFail,
    RuntimeError,
    ValueError,
    MemoryError,
)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of running it, and the golden set that devices must reproduce (b"" if none)."""

    facts: RunFacts
    golden_bytes: bytes


def evaluate(
    uploaded: bytes, published: bytes, spec: ModelSpec, *, golden: GoldenSet | None, items: int
) -> Evaluation:
    """Return what came of running `published` on golden inputs; never raises for a bad model.

    `uploaded` is the file as it came in; it computes the golden outputs where no set is given,
    for at most `items` inputs drawn here.
    """
    try:
        run, dtype = open_run(published)
        inputs = golden.inputs if golden else _draw(run, spec, dtype=dtype, items=items)
        misfit = _misfit(inputs, spec, dtype)
        if misfit:
            return Evaluation(RunFacts(error=misfit, is_golden_given=golden is not None), b"")
        got, run_ms = _run_all(run, inputs)
        again, _ = _run_all(run, inputs)
        expected = golden.outputs if golden else _run_all(open_run(uploaded)[0], inputs)[0]
    except FOREIGN_ERRORS as error:
        return Evaluation(RunFacts(error=str(error), is_golden_given=golden is not None), b"")
    result = compare(got, expected, tolerance=spec.tolerance)
    is_comparable = bool(np.isfinite(result.excess_max))
    is_finite = all(np.isfinite(array).all() for array in got)
    facts = RunFacts(
        items_count=int(inputs.shape[0]),
        is_golden_given=golden is not None,
        is_finite=is_finite,
        is_deterministic=all(map(_same, got, again)),
        output_shapes=tuple((1, *array.shape[1:]) for array in got),
        output_misfit=_output_misfit(got, spec),
        error_max=result.error_max if is_comparable else 0.0,
        excess_max=result.excess_max if is_comparable else 0.0,
        is_comparable=is_comparable,
        run_ms_median=statistics.median(run_ms),
    )
    return Evaluation(facts, encode_golden(GoldenSet(inputs, expected)) if is_finite else b"")


def draw_inputs(spec: ModelSpec, *, dtype: str, items: int) -> Array:
    """Return `items` model inputs drawn with a fixed seed: (items, ...) of `dtype`.

    Images are squares of colour, 0..255, brought to the model as the spec says (squares, because
    a golden set travels to every device and noise cannot be compressed); windows are noise whose
    mean and deviation the spec's normalisation brings to 0 and 1; texts are letters and signs, of
    any length up to the model's.
    """
    random = np.random.default_rng(SEED)
    if isinstance(spec.input, TextInput):
        if spec.input.tokenizer is Tokenizer.TOKENIZER_JSON:
            return random.integers(0, DRAWN_IDS, (items, spec.input.length), dtype=np.int64)
        texts = random.integers(*PRINTABLE_ASCII, (items, spec.input.length), dtype=np.uint8)
        lengths = random.integers(1, spec.input.length + 1, items)
        texts[np.arange(spec.input.length)[None] >= lengths[:, None]] = 0
        return np.concatenate([to_tensor(text, spec) for text in texts])
    if not isinstance(spec.input, ImageInput):
        return random.standard_normal((items, *spec.input_shape[1:])).astype(np.float32)
    height, width, channels = spec.input.height, spec.input.width, spec.channels_count
    side = max(1, min(height, width) // SQUARES_PER_SIDE)
    squares = (items, -(-height // side), -(-width // side), channels)
    pixels: NDArray[Any] = random.integers(0, 256, squares, dtype=np.uint8)
    pixels = pixels.repeat(side, axis=1).repeat(side, axis=2)[:, :height, :width]  # (n, H, W, C)
    if dtype != "uint8":
        mean = np.asarray(spec.input.mean, np.float32)
        scale = np.asarray(spec.input.scale, np.float32)
        pixels = (pixels - mean) / scale
    if spec.input.layout is Layout.CHANNELS_FIRST:
        pixels = pixels.transpose(0, 3, 1, 2)  # (n, C, H, W)
    return np.ascontiguousarray(pixels)


def _draw(run: Run, spec: ModelSpec, *, dtype: str, items: int) -> Array:
    """Return drawn inputs, fewer where the model puts out so much that a set would be large."""
    inputs = draw_inputs(spec, dtype=dtype, items=items)
    output_bytes = sum(output.nbytes for output in run(inputs[:1]))
    return inputs[: max(1, min(items, OUTPUT_BYTES_AIM // max(1, output_bytes)))]


def open_run(data: bytes) -> tuple[Run, str]:
    """Return what runs one item of a model, and the number type of its input.

    Raises one of FOREIGN_ERRORS.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _LOG_ERRORS_ONLY
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    initializers = {value.name for value in session.get_overridable_initializers()}
    inputs = [value for value in session.get_inputs() if value.name not in initializers]
    name = inputs[0].name
    dtype = _DTYPES.get(inputs[0].type, "float32")

    def run(item: Array) -> tuple[Array, ...]:
        return tuple(_as_array(output) for output in session.run(None, {name: item}))

    return run, dtype


def _as_array(output: Any) -> Array:  # noqa: ANN401  (onnxruntime gives arrays, lists or maps)
    if not isinstance(output, np.ndarray) or output.dtype.kind not in "fiub":
        raise ValueError("an output is no tensor of numbers")
    if output.ndim < 1 or output.shape[0] != 1:
        raise ValueError(f"an output of shape {output.shape} does not begin with the batch axis")
    return output


def _run_all(run: Run, inputs: Array) -> tuple[tuple[Array, ...], list[float]]:
    """Return outputs of every item run alone, each (n, ...), and how long each took in ms."""
    rows, run_ms = [], []
    for index in range(inputs.shape[0]):
        started_s = time.perf_counter()
        rows.append(run(inputs[index : index + 1]))
        run_ms.append((time.perf_counter() - started_s) * 1000)
    for outputs in zip(*rows, strict=True):
        if len({output.shape for output in outputs}) > 1:
            raise ValueError("an output's shape depends on what is seen; pad it to a fixed size")
    return tuple(np.concatenate(outputs) for outputs in zip(*rows, strict=True)), run_ms


def _same(one: Array, other: Array) -> bool:
    return bool(np.array_equal(one, other, equal_nan=True))


def _output_misfit(outputs: tuple[Array, ...], spec: ModelSpec) -> str:
    """Return why a device could not read outputs, asked of the very code that would."""
    try:
        check_outputs(tuple(output[:1] for output in outputs), spec)
    except RefusedError as error:
        return error.message
    return ""


def _misfit(inputs: Array, spec: ModelSpec, dtype: str) -> str:
    if inputs.shape[1:] != spec.input_shape[1:]:
        return f"golden inputs have shape {inputs.shape[1:]}, not {spec.input_shape[1:]}"
    if inputs.dtype != np.dtype(dtype):
        return f"golden inputs are {inputs.dtype}, the model takes {dtype}"
    return ""
