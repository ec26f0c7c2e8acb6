"""Golden inputs and outputs: the release's own proof that a device computes what it should.

1. A golden set is an .npz without pickles: `input` (n, ...) float32 or uint8, model inputs after
   preprocessing, and `output_0`, `output_1`, ... (n, ...) in the model's order of outputs.
2. At most ITEMS_MAX items. Item i is run alone, as input[i : i + 1].
3. An output agrees where |got - expected| <= absolute + relative * |expected| for every number.
"""

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import ContractError
from shared.model.spec import Tolerance
from shared.release.manifest import GOLDEN_BYTES_MAX

ITEMS_MAX = 64
OUTPUTS_MAX = 16

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Inputs with the outputs they must give."""

    inputs: Array  # (n, ...)
    outputs: tuple[Array, ...]  # each (n, ...)

    @property
    def items_count(self) -> int:
        """Return how many items there are."""
        return int(self.inputs.shape[0])


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """How close a device came."""

    items_count: int
    error_max: float  # Largest |got - expected| of any number
    excess_max: float  # Largest |got - expected| - (absolute + relative |expected|); <= 0 is good

    @property
    def is_within(self) -> bool:
        """Whether every number is within tolerance."""
        return self.excess_max <= 0.0


def encode_golden(golden: GoldenSet) -> bytes:
    """Return a golden set as .npz bytes."""
    buffer = io.BytesIO()
    arrays = {f"output_{i}": output for i, output in enumerate(golden.outputs)}
    np.savez_compressed(buffer, input=golden.inputs, **arrays)  # type: ignore[arg-type]  # stub takes allow_pickle by keyword
    return buffer.getvalue()


def decode_golden(data: bytes) -> GoldenSet:
    """Return a golden set from .npz bytes. Raises ContractError `golden.invalid`."""
    if len(data) > GOLDEN_BYTES_MAX:
        raise ContractError("golden.invalid", f"The golden set is over {GOLDEN_BYTES_MAX} bytes.")
    try:
        _refuse_bomb(data)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            inputs = archive["input"]
            names = sorted((n for n in archive.files if n != "input"), key=_output_index)
            outputs = tuple(archive[name] for name in names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise ContractError(
            "golden.invalid",
            f"Not a golden set: {error}.",
            remedy="Save it with numpy.savez(input=..., output_0=...).",
        ) from error
    _check(inputs, outputs)
    return GoldenSet(inputs=inputs, outputs=outputs)


def compare(
    got: tuple[Array, ...], expected: tuple[Array, ...], *, tolerance: Tolerance
) -> GoldenResult:
    """Return how far `got` is from `expected`; shapes that differ count as infinitely far."""
    items = int(expected[0].shape[0])
    infinitely_far = GoldenResult(items, float("inf"), float("inf"))
    if len(got) != len(expected):
        return infinitely_far
    error_max, excess_max = 0.0, float("-inf")
    for ours, theirs in zip(got, expected, strict=True):
        if ours.shape != theirs.shape:
            return infinitely_far
        if not ours.size:
            continue
        wanted = theirs.astype(np.float64)
        with np.errstate(invalid="ignore"):  # Infinity minus infinity is found right below.
            error = np.abs(ours.astype(np.float64) - wanted)
        if not np.isfinite(error).all():
            return infinitely_far
        allowed = tolerance.absolute + tolerance.relative * np.abs(wanted)
        error_max = max(error_max, float(error.max()))
        excess_max = max(excess_max, float((error - allowed).max()))
    return GoldenResult(items, error_max, excess_max)


def _refuse_bomb(data: bytes) -> None:
    """Raise ValueError if the archive would unpack to far more than its limit."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
    if len(members) > OUTPUTS_MAX + 1:
        raise ValueError(f"over {OUTPUTS_MAX} outputs")
    if sum(member.file_size for member in members) > 8 * GOLDEN_BYTES_MAX:
        raise ValueError("it unpacks to too much")


def _output_index(name: str) -> int:
    head, _, index = name.partition("_")
    if head != "output" or not index.isdigit():
        raise ValueError(f"unexpected array {name!r}")
    return int(index)


def _check(inputs: Array, outputs: tuple[Array, ...]) -> None:
    problem = ""
    if not outputs:
        problem = "it has no output_0"
    elif inputs.ndim < 2 or not 1 <= inputs.shape[0] <= ITEMS_MAX:
        problem = f"input must be (n, ...) with n from 1 to {ITEMS_MAX}"
    elif any(output.ndim < 1 or output.shape[0] != inputs.shape[0] for output in outputs):
        problem = "every output needs as many items as input"
    elif any(array.dtype.kind not in "fiub" for array in (inputs, *outputs)):
        problem = "arrays must hold numbers"
    elif not all(np.isfinite(array).all() for array in (inputs, *outputs)):
        problem = "a number is not finite"
    if problem:
        raise ContractError("golden.invalid", f"Not a golden set: {problem}.")
