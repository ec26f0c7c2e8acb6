"""Updates on the wire: what training changed, as float32, float16, or int8 with a scale per array.

1. An update is new weights minus the weights that came, per array. int8 takes a scale per array:
   its largest magnitude / 127, rounded to the nearest step.
2. What rounding lost is the residual; the device keeps it and adds it to its next update of the
   same Job (error feedback: Seide et al. 2014; Karimireddy et al. 2019). Under local noise no
   residual is kept: it would carry a Round's data past that Round's noise.
3. Encoded names: `name` holds the numbers; for int8 `name` + SCALE_SUFFIX holds one float32.
4. A decoder trusts nothing: names, shapes, types and finiteness are checked against the layout.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import ContractError
from shared.learning.task import Encoding
from shared.model.weights import Array, Layout, Vector, unflatten

SCALE_SUFFIX = "#scale"
STEPS = 127.0
FP16_MAX = float(np.finfo(np.float16).max)
_DTYPES: dict[Encoding, np.dtype[np.generic]] = {
    Encoding.FP32: np.dtype(np.float32),
    Encoding.FP16: np.dtype(np.float16),
    Encoding.INT8: np.dtype(np.int8),
}


@dataclass(frozen=True, slots=True)
class EncodedUpdate:
    """Arrays as they travel, and what rounding lost."""

    arrays: dict[str, Array]
    residual: Vector  # (N,): update minus what the hub will decode


def encode_update(update: Vector, layout: Layout, encoding: Encoding) -> EncodedUpdate:
    """Return an update (N,) as it travels. Raises ContractError `update.not_finite`."""
    if not np.isfinite(update).all():
        raise ContractError("update.not_finite", "The update holds NaN or infinity.")
    arrays: dict[str, Array] = {}
    for name, values in unflatten(update, layout).items():
        match encoding:
            case Encoding.FP32:
                arrays[name] = values.copy()
            case Encoding.FP16:
                arrays[name] = np.clip(values, -FP16_MAX, FP16_MAX).astype(np.float16)
            case Encoding.INT8:
                scale = np.float32(max(float(np.abs(values).max(initial=0.0)) / STEPS, 1e-30))
                arrays[name] = np.rint(values / scale).astype(np.int8)
                arrays[name + SCALE_SUFFIX] = np.array([scale], np.float32)
    return EncodedUpdate(arrays, update - decode_update(arrays, layout, encoding))


def decode_update(arrays: Mapping[str, Array], layout: Layout, encoding: Encoding) -> Vector:
    """Return what arrived as one vector (N,) float32.

    Raises ContractError `update.names`, `update.shape`, `update.dtype`, `update.not_finite`.
    """
    _check_names(arrays, layout, encoding)
    vector = np.empty(layout.size, np.float32)
    for field in layout.fields:
        array = arrays[field.name]
        if tuple(array.shape) != field.shape:
            raise ContractError(
                "update.shape", f"{field.name[:80]!r} is {array.shape}, not {field.shape}."
            )
        if array.dtype != _DTYPES[encoding]:
            raise ContractError(
                "update.dtype", f"{field.name[:80]!r} is {array.dtype}, not {_DTYPES[encoding]}."
            )
        part = vector[field.start : field.start + field.size]
        part[:] = array.ravel()
        if encoding is Encoding.INT8:
            part *= _scale(arrays[field.name + SCALE_SUFFIX], field.name)
    if not np.isfinite(vector).all():
        raise ContractError("update.not_finite", "The update holds NaN or infinity.")
    return vector


def _check_names(arrays: Mapping[str, Array], layout: Layout, encoding: Encoding) -> None:
    wanted = {field.name for field in layout.fields}
    if encoding is Encoding.INT8:
        wanted |= {name + SCALE_SUFFIX for name in wanted}
    if set(arrays) != wanted:
        strange = sorted(set(arrays) ^ wanted)[0]
        raise ContractError("update.names", f"The arrays are not the model's: {strange[:80]!r}.")


def _scale(array: Array, name: str) -> NDArray[np.float32]:
    if array.shape != (1,) or array.dtype != np.float32:
        raise ContractError("update.shape", f"The scale of {name[:80]!r} is not one float32.")
    return array.astype(np.float32)
