"""Updates as they travel: exact, half, or a byte a number, and what rounding lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.errors import ContractError
from shared.learning.task import Encoding
from shared.learning.update_codec import (
    SCALE_SUFFIX,
    decode_update,
    encode_update,
)
from shared.model.weights import layout_of

LAYOUT = layout_of({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)})
updates = arrays(np.float32, LAYOUT.size, elements=st.floats(-1e4, 1e4, width=32))


@given(updates)
def test_fp32_is_exact(update: np.ndarray) -> None:
    encoded = encode_update(update, LAYOUT, Encoding.FP32)
    assert (decode_update(encoded.arrays, LAYOUT, Encoding.FP32) == update).all()
    assert not encoded.residual.any()


@given(updates, st.sampled_from([Encoding.FP16, Encoding.INT8]))
def test_what_arrives_and_what_was_lost_make_the_update(
    update: np.ndarray, encoding: Encoding
) -> None:
    encoded = encode_update(update, LAYOUT, encoding)
    arrived = decode_update(encoded.arrays, LAYOUT, encoding)
    np.testing.assert_allclose(arrived + encoded.residual, update, rtol=1e-6, atol=1e-3)
    assert np.abs(encoded.residual).max() <= np.abs(update).max() / (127 * 2) + 1e-3


@pytest.mark.parametrize(
    ("encoding", "size"),
    [(Encoding.FP32, 17 * 4), (Encoding.FP16, 17 * 2), (Encoding.INT8, 17 + 2 * 4)],
)
def test_int8_takes_about_a_quarter(encoding: Encoding, size: int) -> None:
    arrays = encode_update(np.ones(17, np.float32), LAYOUT, encoding).arrays
    assert sum(array.nbytes for array in arrays.values()) == size


def test_with_error_feedback_many_rounded_updates_add_up_to_the_unrounded_sum() -> None:
    random = np.random.default_rng(1)
    wanted = np.zeros(LAYOUT.size, np.float64)
    arrived, plain = np.zeros_like(wanted), np.zeros_like(wanted)
    residual = np.zeros(LAYOUT.size, np.float32)
    for _ in range(200):
        update = random.normal(0.002, 0.0001, LAYOUT.size).astype(np.float32)
        update[0] = 1.0  # Its array's scale makes all else in it less than half a step
        wanted += update
        plain += decode_update(
            encode_update(update, LAYOUT, Encoding.INT8).arrays, LAYOUT, Encoding.INT8
        )
        encoded = encode_update(update + residual, LAYOUT, Encoding.INT8)
        residual = encoded.residual
        arrived += decode_update(encoded.arrays, LAYOUT, Encoding.INT8)
    assert np.abs(arrived - wanted).max() < 0.01
    assert np.abs(plain - wanted).max() > 0.3


def _with(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    sound = encode_update(np.ones(LAYOUT.size, np.float32), LAYOUT, Encoding.INT8).arrays
    return {k: v for k, v in {**sound, **changes}.items() if v is not None}


@pytest.mark.parametrize(
    ("arrived", "code"),
    [
        (_with(b=None), "update.names"),
        (_with(c=np.zeros(1, np.int8)), "update.names"),
        (_with(**{"a" + SCALE_SUFFIX: None}), "update.names"),
        (_with(a=np.zeros((4, 3), np.int8)), "update.shape"),
        (_with(a=np.zeros(12, np.int8)), "update.shape"),
        (_with(**{"a" + SCALE_SUFFIX: np.zeros(2, np.float32)}), "update.shape"),
        (_with(a=np.zeros((3, 4), np.float32)), "update.dtype"),
        (_with(**{"a" + SCALE_SUFFIX: np.array([np.nan], np.float32)}), "update.not_finite"),
        (_with(**{"b" + SCALE_SUFFIX: np.array([np.inf], np.float32)}), "update.not_finite"),
    ],
)
def test_a_wrong_update_is_refused_with_its_code(arrived: dict[str, np.ndarray], code: str) -> None:
    with pytest.raises(ContractError) as caught:
        decode_update(arrived, LAYOUT, Encoding.INT8)
    assert caught.value.code == code


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encoding", Encoding)
def test_one_bad_number_is_neither_sent_nor_taken(bad: float, encoding: Encoding) -> None:
    update = np.ones(LAYOUT.size, np.float32)
    update[3] = bad
    with pytest.raises(ContractError) as caught:
        encode_update(update, LAYOUT, encoding)
    assert caught.value.code == "update.not_finite"
    if encoding is not Encoding.INT8:
        arrived = encode_update(np.ones(LAYOUT.size, np.float32), LAYOUT, encoding).arrays
        arrived["a"].ravel()[3] = bad
        with pytest.raises(ContractError):
            decode_update(arrived, LAYOUT, encoding)
