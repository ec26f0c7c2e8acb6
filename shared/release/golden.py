"""Golden inputs and outputs: the release's own proof that a device computes what it should.

1. A golden set is an .npz without pickles: `input` (n, ...) float32 or uint8, model inputs after
   preprocessing, and `output_0`, `output_1`, ... (n, ...) in the model's order of outputs.
2. At most ITEMS_MAX items. Item i is run alone, as input[i : i + 1]. A device reads the set item by
   item (`read_golden_items`): at 352x352 pixels each is 1.5 MB.
3. An output agrees where |got - expected| <= absolute + relative * |expected| for every number.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ContractError
from shared.model.spec import Tolerance
from shared.release.manifest import GOLDEN_BYTES_MAX

ITEMS_MAX = 64
OUTPUTS_MAX = 16
NUMBER_KINDS = "fiub"  # numpy's: floating, signed, unsigned, boolean

Array = NDArray[np.generic]
_HeaderReader = Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]
_HEADER_READERS: dict[tuple[int, int], _HeaderReader] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Everything that zipfile and numpy raise on what is no such archive.
_FORMAT_ERRORS = (ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError, zlib.error)


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
        with zipfile.ZipFile(io.BytesIO(data)) as zipped:
            _refuse_bomb(zipped)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            inputs = archive["input"]
            names = sorted((n for n in archive.files if n != "input"), key=_output_index)
            outputs = tuple(archive[name] for name in names)
    except (OSError, *_FORMAT_ERRORS) as error:
        raise _invalid(error) from error
    _check(inputs, outputs)
    return GoldenSet(inputs=inputs, outputs=outputs)


def read_golden_items(path: Path) -> Iterator[GoldenSet]:
    """Yield the items of an .npz one by one, each a set of one, never more than one in memory.

    Raises ContractError `golden.invalid`, also in the middle; OSError if it cannot be read.
    """
    with path.open("rb") as file, ExitStack() as stack:
        try:
            if file.seek(0, io.SEEK_END) > GOLDEN_BYTES_MAX:
                raise ValueError(f"it is over {GOLDEN_BYTES_MAX} bytes")
            archive = stack.enter_context(zipfile.ZipFile(file))
            _refuse_bomb(archive)
            names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
            outputs = sorted((name for name in names if name != "input"), key=_output_index)
            members = [
                _Member(stack.enter_context(archive.open(f"{name}.npy")), name)
                for name in ("input", *outputs)
            ]
            _check_counts([member.items_count for member in members])
            for _ in range(members[0].items_count):
                inputs, *rest = (member.read_item() for member in members)
                _check(inputs, tuple(rest))
                yield GoldenSet(inputs=inputs, outputs=tuple(rest))
        except _FORMAT_ERRORS as error:
            raise _invalid(error) from error


class _Member:
    """One array of an archive, read item by item."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        """Read its header. Raises ValueError."""
        self._file = file
        reader = _HEADER_READERS.get(np.lib.format.read_magic(file))
        if reader is None:
            raise ValueError(f"{name} is in a format of numpy that is not known here")
        shape, is_by_column, dtype = reader(file)
        if not shape or dtype.kind not in NUMBER_KINDS:
            raise ValueError(f"{name} must hold numbers, item after item")
        self.items_count: int = shape[0]
        self._shape, self._dtype = (1, *shape[1:]), dtype
        self._bytes = math.prod(self._shape) * dtype.itemsize
        self._whole: Array | None = None
        if is_by_column:  # Items do not lie one after another: numpy saved a transposed array
            flat = np.frombuffer(file.read(self._bytes * self.items_count), dtype)
            self._whole = flat.reshape(shape, order="F")
        self._index = 0

    def read_item(self) -> Array:
        """Return the next item, (1, ...)."""
        self._index += 1
        if self._whole is not None:
            return np.ascontiguousarray(self._whole[self._index - 1 : self._index])
        return np.frombuffer(self._file.read(self._bytes), self._dtype).reshape(self._shape)


def merge(results: Iterable[GoldenResult]) -> GoldenResult:
    """Return what the results of single items, at least one, come to."""
    total = GoldenResult(0, 0.0, float("-inf"))
    for one in results:
        total = GoldenResult(
            total.items_count + one.items_count,
            max(total.error_max, one.error_max),
            max(total.excess_max, one.excess_max),
        )
    return total


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


def _refuse_bomb(archive: zipfile.ZipFile) -> None:
    """Raise ValueError if the archive would unpack to far more than its limit."""
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
    if inputs.ndim < 2:
        raise _invalid("input must be (n, ...)")
    if any(output.ndim < 1 for output in outputs):
        raise _invalid("an output must be (n, ...)")
    _check_counts([array.shape[0] for array in (inputs, *outputs)])
    if any(array.dtype.kind not in NUMBER_KINDS for array in (inputs, *outputs)):
        raise _invalid("arrays must hold numbers")
    if not all(np.isfinite(array).all() for array in (inputs, *outputs)):
        raise _invalid("a number is not finite")


def _check_counts(counts: Sequence[int]) -> None:
    """Check how many items the input and each output have."""
    inputs_count, *outputs_counts = counts
    if not outputs_counts:
        raise _invalid("it has no output_0")
    if not 1 <= inputs_count <= ITEMS_MAX:
        raise _invalid(f"input must be (n, ...) with n from 1 to {ITEMS_MAX}")
    if any(count != inputs_count for count in outputs_counts):
        raise _invalid("every output needs as many items as input")


def _invalid(problem: object) -> ContractError:
    return ContractError(
        "golden.invalid",
        f"Not a golden set: {problem}.",
        remedy="Save it with numpy.savez(input=..., output_0=...).",
    )
