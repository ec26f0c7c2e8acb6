"""Answers: what a model said of each item, beside its Report, so that two can be compared. Pure.

1. `answers.npz` has one row an item: `digests` (n, 32) uint8, `labels` and `answers` (n,) float64
   (class indices, or numbers; detection: boxes there and boxes found), `confidences` (n,) float32
   and `is_right` (n,) bool. No pickles.
2. Two files of the same manifest and part have the same digests in the same order.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_hub.datasets.manifest import ITEMS_MAX
from cloud_hub.explain.explain_files import ANSWERS, ANSWERS_BYTES_MAX
from shared.errors import ContractError

DIGEST_BYTES = 32
_FIELDS = {
    "digests": np.dtype(np.uint8),
    "labels": np.dtype(np.float64),
    "answers": np.dtype(np.float64),
    "confidences": np.dtype(np.float32),
    "is_right": np.dtype(np.bool_),
}


@dataclass(frozen=True, slots=True)
class Answers:
    """See rule 1."""

    digests: NDArray[np.uint8]
    labels: NDArray[np.float64]
    answers: NDArray[np.float64]
    confidences: NDArray[np.float32]
    is_right: NDArray[np.bool_]


def digest_rows(digests: list[str]) -> NDArray[np.uint8]:
    """Return hexadecimal digests as rows of bytes, (n, 32)."""
    rows = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8)
    return rows.reshape(len(digests), DIGEST_BYTES)


def encode_answers(answers: Answers) -> bytes:
    """Return the file's bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(answers, name) for name in _FIELDS})
    return buffer.getvalue()


def decode_answers(data: bytes) -> Answers:
    """Return a file's answers. Raises ContractError `explain.answers`."""
    if len(data) > ANSWERS_BYTES_MAX:
        raise _damaged(f"over {ANSWERS_BYTES_MAX} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as zipped:
            unpacked_bytes = sum(info.file_size for info in zipped.infolist())
        if unpacked_bytes > ANSWERS_BYTES_MAX:
            raise _damaged(f"over {ANSWERS_BYTES_MAX} bytes when unpacked")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            found = {name: archive[name] for name in _FIELDS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(str(error)) from error
    count = int(found["labels"].size)
    for name, dtype in _FIELDS.items():
        shape = (count, DIGEST_BYTES) if name == "digests" else (count,)
        if found[name].shape != shape or found[name].dtype != dtype or count > ITEMS_MAX:
            raise _damaged(f"{name} is {found[name].dtype} {found[name].shape}")
    return Answers(**found)


def _damaged(text: str) -> ContractError:
    return ContractError(
        "explain.answers",
        f"{ANSWERS} is not a file of answers: {text}.",
        remedy="Make the report again.",
    )
