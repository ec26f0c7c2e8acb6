"""Makes the int8 forms of a model. Static: QDQ, per channel, unsigned activations, signed weights.

1. U8S8 is what x86 kernels are fast at; signed activations were slower than fp32 on every real
   detector measured there.
2. On x86 without VNNI, U8S8 products saturate: `is_range_reduced` gives weights 7 bits. Kernels of
   Arm favour signed activations: `is_signed` gives those (S8S8).
3. What folding put before the model is left as it is, and the first convolution reads bytes where
   that says the same (onnx_folding.py).
4. Entropy and percentiles keep every activation of every item in memory, and take seconds:
   RANGE_ITEMS_MAX says how many items each method looks at, RANGE_BYTES_MAX how much they may hold
   together (YOLOv8n at 640 x 640: 245 MB an item). Ranges may be kept in `ranges`, a file, so that
   forms of other kinds are made of the same.
5. What follows the last convolution or matrix product stays as it is: it costs nothing, and heads
   that put boxes and scores into one tensor (YOLOv8) would give both one scale, on which every
   score is 0.
6. Int8 is not a free win: compare its outputs and its speed with fp32 before publishing it.

Imports onnx's quantization tools, which take memory: the hub's own process never imports this.
"""

import tempfile
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import version_converter
from onnxruntime import quantization as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from onnxruntime.quantization import calibrate
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from cloud_hub.candidates.onnx_folding import PREFIX, take_bytes
from shared.errors import RefusedError

OPSET_MIN = 13  # Per-channel QuantizeLinear begins here
TAIL_PREFIX = "isthmus_tail_"
Array = NDArray[np.generic]


class Calibration(StrEnum):
    """How the ranges of activations are found."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"


RANGE_ITEMS_MAX = MappingProxyType(
    {Calibration.MINMAX: 512, Calibration.PERCENTILE: 32, Calibration.ENTROPY: 32}
)
RANGE_BYTES_MAX = 1 << 30  # Of activations of all items together
_HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Attention", "LSTM", "GRU", "RNN"})
_METHODS = MappingProxyType(
    {
        Calibration.MINMAX: ort.CalibrationMethod.MinMax,
        Calibration.PERCENTILE: ort.CalibrationMethod.Percentile,
        Calibration.ENTROPY: ort.CalibrationMethod.Entropy,
    }
)

# As many bins as entropy quantizes to would be MinMax again; each further one costs time. Ranges
# that lie around 0 would waste half of the integers after a ReLU.
_OPTIONS: Mapping[Calibration, dict[str, object]] = MappingProxyType(
    {
        Calibration.MINMAX: {},
        Calibration.PERCENTILE: {"symmetric": False, "percentile": 99.99},
        Calibration.ENTROPY: {"num_bins": 256, "num_quantized_bins": 128},
    }
)

_FOREIGN_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    DecodeError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def quantize_static(
    model_bytes: bytes,
    calibration: Array,
    *,
    is_range_reduced: bool = False,
    is_signed: bool = False,
    method: Calibration = Calibration.MINMAX,
    ranges: Path | None = None,
    range_bytes_max: int = RANGE_BYTES_MAX,
    exclude_nodes: tuple[str, ...] = (),
) -> bytes:
    """Return the static int8 form of an fp32 model.

    Args:
        model_bytes: an ONNX model with one input.
        calibration: inputs as the model takes them, (n, ...); they set the activations' ranges,
            so they must look like what the device will see. Some hundred are enough.
        is_range_reduced: 7-bit weights, for x86 processors without VNNI.
        is_signed: signed activations, for Arm.
        method: how ranges are found.
        ranges: a file to keep them in, or to take them from where it is there: of the same model
            and method.
        range_bytes_max: how much the activations of all items may hold while their ranges are
            found by entropy or percentiles; of a larger model fewer items are looked at.
        exclude_nodes: names of nodes that stay fp32.

    Raises RefusedError `quantizer.failed`.
    """
    try:
        model = onnx.load_from_string(model_bytes)
        name, items = _input_name(model), calibration[: RANGE_ITEMS_MAX[method]]
        with tempfile.TemporaryDirectory(prefix="isthmus-quantize-") as folder:
            modern, prepared, result = (
                Path(folder) / f"{stage}.onnx" for stage in ("modern", "prepared", "int8")
            )
            onnx.save_model(_modern(model), modern)
            # Symbolic shape inference would need sympy; ONNX's own is enough here.
            quant_pre_process(modern, prepared, skip_symbolic_shape=True)
            tail = _name_tail(prepared)
            kept = ranges or Path(folder) / "ranges.json"
            if not kept.exists():
                found = _find_ranges(prepared, name, items, method, range_bytes_max)
                calibrate.save_tensors_data(found, kept)
            ort.quantize_static(
                prepared,
                result,
                None,
                quant_format=ort.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=is_range_reduced,
                activation_type=ort.QuantType.QInt8 if is_signed else ort.QuantType.QUInt8,
                weight_type=ort.QuantType.QInt8,
                nodes_to_exclude=[*exclude_nodes, *_folded(model), *tail],
                calibrate_method=_METHODS[method],
                calibration_cache_path=kept,
            )
            return take_bytes(result.read_bytes())
    except _FOREIGN_ERRORS as error:
        raise _failed(error) from error


def quantize_dynamic(model_bytes: bytes) -> bytes:
    """Return the dynamic int8 form of an fp32 model: activations' ranges are found at run time.

    Only matrix products are quantized: onnxruntime has no ConvInteger for signed weights.
    Raises RefusedError `quantizer.failed`.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="isthmus-quantize-") as folder:
            modern, prepared, result = (
                Path(folder) / f"{stage}.onnx" for stage in ("modern", "prepared", "int8")
            )
            onnx.save_model(_modern(onnx.load_from_string(model_bytes)), modern)
            quant_pre_process(modern, prepared, skip_symbolic_shape=True)
            plain = onnx.load_model(prepared)
            # Shapes noted for weights that are turned around below would contradict them.
            del plain.graph.value_info[:]
            ort.quantize_dynamic(
                plain,
                result,
                op_types_to_quantize=["MatMul", "Gemm", "Attention", "LSTM"],
                nodes_to_exclude=_folded(plain),
                per_channel=True,
                weight_type=ort.QuantType.QInt8,
            )
            return result.read_bytes()
    except _FOREIGN_ERRORS as error:
        raise _failed(error) from error


def _find_ranges(
    prepared: Path, name: str, items: Array, method: Calibration, bytes_max: int
) -> calibrate.TensorsData:
    """Return the ranges of all activations, over `items`, (n, ...)."""
    types = sorted({*QLinearOpsRegistry, *QDQRegistry})
    finder = calibrate.create_calibrator(
        prepared,
        types,
        augmented_model_path=str(prepared.with_name("augmented.onnx")),
        calibrate_method=_METHODS[method],
        extra_options=_OPTIONS[method],
    )
    if method is not Calibration.MINMAX:
        first = finder.infer_session.run(None, {name: items[:1]})
        held_bytes = sum(activation.nbytes for activation in first)
        items = items[: max(1, bytes_max // max(1, held_bytes))]
    finder.collect_data(_Reader(name, items))
    return finder.compute_data()


class _Reader(ort.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Feeds calibration items one at a time, as a device would."""

    def __init__(self, name: str, items: Array) -> None:
        self._feeds: Iterator[dict[str, Array]] = (
            {name: items[index : index + 1]} for index in range(items.shape[0])
        )

    def get_next(self) -> dict[str, Array] | None:
        """Return the next item, or None at the end."""
        return next(self._feeds, None)


def _folded(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.name.startswith(PREFIX)]


def _name_tail(prepared: Path) -> list[str]:
    """Return the names of nodes behind the last heavy ones; those without get one in the file."""
    model = onnx.load_model(prepared)
    makers = {output: node for node in model.graph.node for output in node.output if output}
    tail: dict[int, onnx.NodeProto] = {}
    wanted = [output.name for output in model.graph.output]
    while wanted:
        node = makers.get(wanted.pop())
        if node is None or id(node) in tail or node.op_type in _HEAVY:
            continue
        tail[id(node)] = node
        wanted += node.input
    if not all(node.name for node in tail.values()):
        for index, node in enumerate(tail.values()):
            node.name = node.name or f"{TAIL_PREFIX}{index}"
        onnx.save_model(model, prepared)
    return [node.name for node in tail.values()]


def _failed(error: Exception) -> RefusedError:
    return RefusedError(
        "quantizer.failed",
        f"The model cannot be quantized: {error}.",
        remedy="Publish its fp32 form, or exclude the nodes that fail.",
    )


def _input_name(model: onnx.ModelProto) -> str:
    initializers = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in initializers]
    if len(names) != 1:
        raise ValueError(f"it has {len(names)} inputs, not one")
    return str(names[0])


def _modern(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset >= OPSET_MIN:
        return model
    return version_converter.convert_version(model, OPSET_MIN)
