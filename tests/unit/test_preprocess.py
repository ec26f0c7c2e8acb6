"""Preprocess: geometry and scaling, against the plain formula pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import RefusedError
from shared.model.preprocess import place, tensor_dtype, to_bytes, to_tensor
from shared.model.spec import (
    Colour,
    Decoder,
    ImageInput,
    Layout,
    ModelSpec,
    OutputSpec,
    Resize,
    Task,
    TextInput,
    WindowInput,
)

RANDOM = np.random.default_rng(7)


def image_spec(**options: object) -> ModelSpec:
    return ModelSpec(
        model="m",
        task=Task.CLASSIFICATION,
        input=ImageInput(**{"width": 5, "height": 4, **options}),
        output=OutputSpec(decoder=Decoder.LOGITS, classes=("a", "b")),
    )


def window_spec(**options: object) -> ModelSpec:
    return ModelSpec(
        model="m",
        task=Task.ANOMALY,
        input=WindowInput(**{"samples": 6, "channels": 2, **options}),
        output=OutputSpec(decoder=Decoder.SCORE),
    )


def test_bgr_pixels_become_channel_planes_scaled_by_mean_and_scale() -> None:
    pixels = RANDOM.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    spec = image_spec(mean=(10.0, 20.0, 30.0), scale=(2.0, 4.0, 8.0))
    tensor = to_tensor(pixels, spec)
    assert tensor.shape == (1, 3, 4, 5)
    assert tensor.dtype == np.float32
    for channel, (mean, scale) in enumerate(((10.0, 2.0), (20.0, 4.0), (30.0, 8.0))):
        expected = (pixels[:, :, channel].astype(np.float32) - mean) / scale
        np.testing.assert_array_equal(tensor[0, channel], expected)


def test_mean_and_scale_follow_the_order_the_model_sees() -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[:, :, 2] = 200  # Red
    tensor = to_tensor(pixels, image_spec(colour=Colour.RGB, mean=(100.0, 0.0, 0.0)))
    assert (tensor[0, 0] == 100.0).all()
    assert (tensor[0, 1:] == 0.0).all()


@pytest.mark.parametrize(
    ("blue", "green", "red", "gray"),
    [
        (255, 0, 0, 29),
        (0, 255, 0, 150),
        (0, 0, 255, 76),
        (255, 255, 255, 255),
        (10, 200, 30, 128),
    ],
)
def test_gray_is_bt601_rounded(blue: int, green: int, red: int, gray: int) -> None:
    pixels = np.full((4, 5, 3), (blue, green, red), np.uint8)
    tensor = to_tensor(pixels, image_spec(colour=Colour.GRAY))
    assert tensor.shape == (1, 1, 4, 5)
    assert (tensor == gray).all()


def test_channels_last_keeps_pixels_together() -> None:
    pixels = RANDOM.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    tensor = to_tensor(pixels, image_spec(layout=Layout.CHANNELS_LAST, scale=(255.0,)))
    np.testing.assert_array_equal(tensor[0], pixels.astype(np.float32) / np.float32(255.0))


def test_a_uint8_model_gets_the_pixels_as_they_are() -> None:
    pixels = RANDOM.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    spec = image_spec(colour=Colour.RGB, mean=(9.0,), scale=(3.0,))
    tensor = to_tensor(pixels, spec, dtype=np.dtype(np.uint8))
    np.testing.assert_array_equal(tensor[0], pixels[:, :, ::-1].transpose(2, 0, 1))


def test_a_buffer_is_written_into_and_returned() -> None:
    buffer = np.empty((1, 3, 4, 5), np.float32)
    assert to_tensor(np.full((4, 5, 3), 8, np.uint8), image_spec(), out=buffer) is buffer
    assert (buffer == 8.0).all()


def test_a_window_becomes_channels_by_time() -> None:
    samples = RANDOM.normal(size=(6, 2)).astype(np.float32)
    tensor = to_tensor(samples, window_spec(mean=(1.0, 2.0), scale=(2.0, 4.0)))
    assert tensor.shape == (1, 2, 6)
    np.testing.assert_array_equal(tensor[0, 1], (samples[:, 1] - np.float32(2)) / np.float32(4))
    last = to_tensor(samples, window_spec(layout=Layout.CHANNELS_LAST))
    np.testing.assert_array_equal(last[0], samples)


@pytest.mark.parametrize(
    "item",
    [
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5), np.uint8),
    ],
)
def test_an_item_of_another_shape_is_refused_saying_both(item: np.ndarray) -> None:
    with pytest.raises(RefusedError, match=r"uint8 \(4, 5, 3\)") as caught:
        to_tensor(item, image_spec())
    assert caught.value.code == "inference.input"


def test_a_window_with_nan_is_refused() -> None:
    samples = np.zeros((6, 2), np.float32)
    samples[3, 1] = np.nan
    with pytest.raises(RefusedError, match="finite"):
        to_tensor(samples, window_spec())


def test_stretch_fills_the_whole_input() -> None:
    placement = place(768, 432, ImageInput(width=352, height=352))
    assert (placement.left, placement.top, placement.width, placement.height) == (0, 0, 352, 352)


def test_letterbox_centres_and_keeps_proportions() -> None:
    image = ImageInput(width=320, height=320, resize=Resize.LETTERBOX)
    placement = place(640, 360, image)
    assert (placement.left, placement.top, placement.width, placement.height) == (0, 70, 320, 180)


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(RefusedError):
        place(0, 10, ImageInput(width=8, height=8))


@given(
    frame=st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    size=st.tuples(st.integers(1, 1024), st.integers(1, 1024)),
    resize=st.sampled_from(Resize),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_point_of_the_frame_comes_back_to_where_it_was(
    frame: tuple[int, int], size: tuple[int, int], resize: Resize, share: tuple[float, float]
) -> None:
    placement = place(*frame, ImageInput(width=size[0], height=size[1], resize=resize))
    assert 0 <= placement.left <= placement.left + placement.width <= size[0]
    assert 0 <= placement.top <= placement.top + placement.height <= size[1]
    x = (placement.left + share[0] * placement.width) / size[0]
    y = (placement.top + share[1] * placement.height) / size[1]
    back = placement.to_frame_shares(np.array([[x, y, x, y]], np.float32))[0]
    tolerance = 1e-4 * max(size) / min(placement.width, placement.height) + 1e-5
    np.testing.assert_allclose(back, [*share, *share], atol=tolerance)


def text_spec(length: int) -> ModelSpec:
    return ModelSpec(
        model="m",
        task=Task.CLASSIFICATION,
        input=TextInput(length=length),
        output=OutputSpec(decoder=Decoder.LOGITS, classes=("a", "b")),
    )


@given(st.text(max_size=40), st.integers(1, 50))
def test_a_text_becomes_its_bytes_plus_one_cut_or_filled_with_nothing(
    text: str, length: int
) -> None:
    spec = text_spec(length)
    tensor = to_tensor(to_bytes(text), spec)
    assert tensor.shape == spec.input_shape == (1, length)
    assert tensor.dtype == tensor_dtype(spec) == np.int64
    data = text.encode().rstrip(b"\0")[:length]
    assert tensor[0].tolist() == [byte + 1 for byte in data] + [0] * (length - len(data))


def test_texts_of_one_array_are_what_they_are_alone() -> None:
    spec = text_spec(8)
    row = np.frombuffer(b"oil\0\0\0\0\0\0\0\0", np.uint8)
    np.testing.assert_array_equal(to_tensor(row, spec), to_tensor(to_bytes("oil"), spec))


def test_a_buffer_that_held_a_longer_text_holds_nothing_of_it() -> None:
    spec = text_spec(6)
    out = to_tensor(to_bytes("longer"), spec)
    assert to_tensor(to_bytes("ab"), spec, out=out).tolist() == [[98, 99, 0, 0, 0, 0]]
    assert to_tensor(to_bytes(""), spec, out=out).tolist() == [[0] * 6]


@pytest.mark.parametrize(
    "item", [np.zeros((2, 3), np.uint8), np.zeros(3, np.float32), np.zeros(3, np.int64)]
)
def test_what_is_no_text_is_refused(item: np.ndarray) -> None:
    with pytest.raises(RefusedError) as caught:
        to_tensor(item, text_spec(4))
    assert caught.value.code == "inference.input"


@pytest.mark.parametrize("decoder", [Decoder.RECONSTRUCTION, Decoder.BOXES])
def test_a_text_is_classified_or_scored_and_nothing_else(decoder: Decoder) -> None:
    task = Task.DETECTION if decoder is Decoder.BOXES else Task.ANOMALY
    with pytest.raises(ValueError, match="for texts"):
        ModelSpec(
            model="m",
            task=task,
            input=TextInput(length=4),
            output=OutputSpec(decoder=decoder, classes=("a",)),
        )
