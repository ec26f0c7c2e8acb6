"""Golden sets read item by item: the same as the whole, and as strict."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from shared.errors import ContractError
from shared.release.golden import (
    ITEMS_MAX,
    GoldenResult,
    GoldenSet,
    decode_golden,
    encode_golden,
    merge,
    read_golden_items,
)


def golden(count: int = 3, *, is_by_column: bool = False) -> GoldenSet:
    rng = np.random.default_rng(1)
    inputs = rng.uniform(0, 1, (count, 2, 4)).astype(np.float32)
    outputs = (rng.uniform(0, 1, (count, 5)), rng.integers(0, 9, (count,)))
    if is_by_column:
        inputs = np.asfortranarray(inputs)
    return GoldenSet(inputs, outputs)


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("is_by_column", [False, True])
@pytest.mark.parametrize("count", [1, 3, ITEMS_MAX])
def test_the_items_are_the_whole(tmp_path: Path, count: int, is_by_column: bool) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(encode_golden(golden(count, is_by_column=is_by_column)))
    whole = decode_golden(path.read_bytes())
    items = list(read_golden_items(path))
    assert [item.items_count for item in items] == [1] * count
    assert np.array_equal(np.concatenate([item.inputs for item in items]), whole.inputs)
    for index, output in enumerate(whole.outputs):
        got = np.concatenate([item.outputs[index] for item in items])
        assert np.array_equal(got, output)
        assert got.dtype == output.dtype


@pytest.mark.parametrize("arrays", [
    {"input": np.zeros((2, 3))},
    {"output_0": np.zeros((2, 3))},
    {"input": np.zeros((2, 3)), "output_0": np.zeros((3, 3))},
    {"input": np.zeros((0, 3)), "output_0": np.zeros((0, 3))},
    {"input": np.zeros(2), "output_0": np.zeros((2, 3))},
    {"input": np.zeros((2, 3)), "output_0": np.array([[1.0], [np.nan]])},
    {"input": np.zeros((2, 3)), "other": np.zeros((2, 3))},
    {"input": np.array([["a"], ["b"]]), "output_0": np.zeros((2, 3))},
    {"input": np.zeros((ITEMS_MAX + 1, 1)), "output_0": np.zeros((ITEMS_MAX + 1, 1))},
])  # fmt: skip
def test_what_the_whole_refuses_the_items_refuse(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    path = save(tmp_path / "golden.npz", **arrays)
    with pytest.raises(ContractError, match="golden set"):
        decode_golden(path.read_bytes())
    with pytest.raises(ContractError, match="golden set"):
        list(read_golden_items(path))


@pytest.mark.parametrize("length", [0, 10, 200, 400])
def test_a_torn_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(encode_golden(golden())[:length])
    with pytest.raises(ContractError, match="golden set"):
        list(read_golden_items(path))


def test_an_array_that_is_shorter_than_it_says_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 3)))
    path = tmp_path / "golden.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("input.npy", buffer.getvalue()[:-8])
        archive.writestr("output_0.npy", buffer.getvalue())
    with pytest.raises(ContractError, match="golden set"):
        list(read_golden_items(path))


def test_a_file_that_is_not_there_is_told_apart_from_a_bad_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_golden_items(tmp_path / "golden.npz"))


def test_results_of_single_items_come_to_one() -> None:
    merged = merge([GoldenResult(1, 0.5, -1.0), GoldenResult(1, 0.25, 0.125)])
    assert merged == GoldenResult(2, 0.5, 0.125)
    assert not merged.is_within
