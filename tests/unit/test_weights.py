"""Weights as bytes, as one vector, and by digest."""

import io

import numpy as np
import pytest

from shared.errors import ContractError
from shared.model.weights import (
    decode_weights,
    digest_weights,
    encode_weights,
    flatten,
    layout_of,
    unflatten,
)

WEIGHTS = {
    "0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "0.bias": np.array([-1.0, 2.0], np.float32),
    "1.num_batches_tracked": np.array(7, np.int64),
}


def test_a_vector_holds_every_averaged_number_once_and_gives_it_back_by_name() -> None:
    layout = layout_of(WEIGHTS)
    vector = flatten(WEIGHTS, layout)
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, -1, 2]
    back = unflatten(vector, layout)
    assert set(back) == {"0.weight", "0.bias"}
    assert (back["0.weight"] == WEIGHTS["0.weight"]).all()


def test_arrays_of_a_vector_are_views() -> None:
    layout = layout_of(WEIGHTS)
    vector = flatten(WEIGHTS, layout)
    unflatten(vector, layout)["0.bias"][0] = 9
    assert vector[6] == 9


@pytest.mark.parametrize(
    "changed",
    [
        {"0.weight": WEIGHTS["0.weight"]},
        {**WEIGHTS, "0.bias": np.zeros(3, np.float32)},
        {**WEIGHTS, "0.bias": np.zeros(2, np.int64)},
    ],
)
def test_weights_of_another_network_do_not_fit_a_layout(changed: dict[str, np.ndarray]) -> None:
    with pytest.raises(ContractError) as caught:
        flatten(changed, layout_of(WEIGHTS))
    assert caught.value.code == "weights.misfit"
    assert "0.bias" in caught.value.message


def test_bytes_give_back_the_same_weights_in_the_same_order() -> None:
    back = decode_weights(encode_weights(WEIGHTS))
    assert list(back) == list(WEIGHTS)
    assert digest_weights(back) == digest_weights(WEIGHTS)


@pytest.mark.parametrize(
    "changed",
    [
        {**WEIGHTS, "0.bias": np.array([-1.0, 2.0000002], np.float32)},
        {"0.w": WEIGHTS["0.weight"], **{k: v for k, v in WEIGHTS.items() if k != "0.weight"}},
        {**WEIGHTS, "0.weight": WEIGHTS["0.weight"].reshape(3, 2)},
        dict(reversed(WEIGHTS.items())),
    ],
)
def test_a_digest_covers_names_shapes_order_and_every_bit(changed: dict[str, np.ndarray]) -> None:
    assert digest_weights(changed) != digest_weights(WEIGHTS)


def _packed(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 no archive",
        encode_weights(WEIGHTS)[:-30],
        _packed(a=np.array([{"a": "pickle"}], dtype=object)),
        _packed(a=np.zeros(2, np.float64)),
        _packed(a=np.array([np.nan], np.float32)),
        _packed(a=np.zeros((1,) * 9, np.float32)),
        _packed(a=np.array(["text"])),
    ],
)
def test_what_is_no_file_of_weights_is_refused(data: bytes) -> None:
    with pytest.raises(ContractError) as caught:
        decode_weights(data)
    assert caught.value.code == "weights.invalid"
