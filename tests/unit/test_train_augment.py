"""What is done to a batch of training items, and what a batch on the device is."""

import math

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from cloud_hub.datasets.opencv_arrays import Arrays
from cloud_hub.training.trainer.spec import Augmentation
from cloud_hub.training.trainer.torch_augment import (
    Draw,
    augmented,
    coloured,
    erased,
    flipped,
    moved,
    turned,
)
from cloud_hub.training.trainer.torch_data import DeviceItems, epoch_order, share_of
from shared.errors import ContractError
from shared.model.preprocess import to_bytes, to_tensor
from shared.model.spec import (
    Colour,
    Decoder,
    ImageInput,
    ModelSpec,
    OutputSpec,
    Task,
    TextInput,
    WindowInput,
)

torch.set_num_threads(1)
CPU = torch.device("cpu")
COUNT, SIDE = 64, 12
OUTPUT = OutputSpec(decoder=Decoder.LOGITS, classes=("a", "b"))


def _spec(input_: ImageInput | WindowInput | TextInput) -> ModelSpec:
    return ModelSpec(model="m", task=Task.CLASSIFICATION, input=input_, output=OUTPUT)


def _data(items: np.ndarray, input_: ImageInput | WindowInput | TextInput) -> DeviceItems:
    count = len(items)
    labels = np.arange(count) % 2
    return DeviceItems(Arrays(items, labels, None, np.arange(count)), _spec(input_), CPU)


def _draw(whole: int = COUNT, share: slice = slice(0, COUNT), seed: int = 1) -> Draw:
    return Draw(torch.Generator().manual_seed(seed), whole, share, CPU)


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)


def _images(channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(
        0, 256, (COUNT, channels, SIDE, SIDE), generator=generator, dtype=torch.uint8
    )


@pytest.mark.parametrize("colour", Colour)
def test_images_on_the_device_are_what_preprocessing_makes_of_them(colour: Colour) -> None:
    channels = 1 if colour is Colour.GRAY else 3
    image = ImageInput(
        width=SIDE,
        height=SIDE,
        colour=colour,
        mean=(10.0, 20.5, 30.0)[:channels],
        scale=(58.395, 57.12, 57.375)[:channels],
    )
    pixels = _pixels()
    data = _data(pixels, image)
    found = data.to_input(data.items(torch.arange(COUNT))).numpy()
    wanted = np.concatenate([to_tensor(one, _spec(image)) for one in pixels])
    assert found.dtype == np.float32
    assert np.array_equal(found, wanted)


def test_windows_and_texts_on_the_device_are_what_preprocessing_makes_of_them() -> None:
    window = WindowInput(samples=9, channels=2, mean=(1.0, 2.0), scale=(3.0, 4.0))
    samples = np.random.default_rng(0).normal(size=(5, 9, 2)).astype(np.float32)
    data = _data(samples, window)
    wanted = np.concatenate([to_tensor(one, _spec(window)) for one in samples])
    assert np.array_equal(data.to_input(data.items(torch.arange(5))).numpy(), wanted)
    text = TextInput(length=6)
    tokens = np.concatenate([to_tensor(to_bytes(t), _spec(text)) for t in ("abc", "longer text")])
    found = _data(tokens, text)
    assert np.array_equal(found.to_input(found.items(torch.arange(2))).numpy(), tokens)


def test_items_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(ContractError, match="do not fit the model"):
        _data(_pixels(), ImageInput(width=SIDE + 1, height=SIDE))
    with pytest.raises(ContractError, match="do not fit the model"):
        _data(np.zeros((2, 5), np.int64), TextInput(length=6))


@pytest.mark.parametrize("batch", [1, 7, 8, 64])
def test_processes_share_out_every_batch_without_rest(batch: int) -> None:
    for processes in (1, 2, 3):
        slices = [share_of(batch, rank=rank, processes=processes) for rank in range(processes)]
        taken = [i for s in slices for i in range(s.start, s.stop)]
        assert taken == list(range(batch))


def test_an_order_goes_through_every_item_once_and_differs_by_seed() -> None:
    chosen = torch.arange(10, 60)
    first, again, other = (epoch_order(chosen, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first.sort().values, chosen)


def test_a_shift_moves_whole_pixels_and_mirrors_at_the_edge() -> None:
    images = _images()
    found = moved(images, Augmentation(shift=0.25), _draw())
    padded = torch.nn.functional.pad(images.float(), (3, 3, 3, 3), mode="reflect").byte()
    seen = set()
    for item, source in zip(found, padded, strict=True):
        places = [
            (y, x)
            for y in range(7)
            for x in range(7)
            if torch.equal(item, source[:, y : y + SIDE, x : x + SIDE])
        ]
        assert places
        seen.update(places)
    assert len(seen) > 20  # Every item by itself


def test_a_flip_mirrors_about_half_of_the_items() -> None:
    images = _images()
    found = moved(images, Augmentation(has_flip=True), _draw())
    is_flipped = (found == images.flip(-1)).flatten(1).all(1)
    is_same = (found == images).flatten(1).all(1)
    assert bool((is_flipped ^ is_same).all())
    assert 20 < int(is_flipped.sum()) < 44


def test_turning_by_a_right_angle_is_a_turn_of_whole_pixels() -> None:
    class RightAngle(Draw):
        def uniform(self, low: float, high: float, *axes: int) -> Tensor:  # noqa: ARG002
            drawn = torch.full((COUNT,), high)
            return drawn if high == 90.0 else torch.ones(COUNT)

    images = _images().float()
    draw = RightAngle(torch.Generator(), COUNT, slice(0, COUNT), CPU)
    found = turned(images, Augmentation(rotation_degrees=90.0, zoom=0.1), draw)
    one = found.round()
    assert torch.equal(one, images.rot90(1, (2, 3))) or torch.equal(one, images.rot90(-1, (2, 3)))


def test_a_rotation_of_a_wide_picture_does_not_shear() -> None:
    wide = torch.zeros(1, 1, 40, 80)
    wide[:, :, 15:25, 35:45] = 255.0
    draw = Draw(torch.Generator().manual_seed(4), 1, slice(0, 1), CPU)
    found = turned(wide, Augmentation(rotation_degrees=180.0), draw)
    # A square stays of its area about the middle, whatever the angle.
    assert float(found.sum()) == pytest.approx(float(wide.sum()), rel=0.03)


def test_colours_stay_pixel_levels_and_contrast_keeps_the_mean() -> None:
    images = torch.full((COUNT, 1, SIDE, SIDE), 100.0)
    images[:, :, ::2] = 140.0
    found = coloured(images, Augmentation(contrast=0.5), _draw())
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.full((COUNT,), 120.0))
    gains = found.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.5 <= float(gains.min()) < 0.7
    assert 1.3 < float(gains.max()) <= 1.5
    bright = coloured(images, Augmentation(brightness=1.0), _draw())
    assert float(bright.min()) == 0.0
    assert float(bright.max()) == 255.0


def test_erasing_takes_one_square_and_puts_the_mean_there() -> None:
    images = _images().float()
    found = erased(images, 0.5, _draw())
    is_changed = (found != images).any(1)  # (B, H, W)
    sizes = is_changed.flatten(1).sum(1)
    assert int(sizes.max()) <= 36
    assert int(sizes.min()) >= 5
    mean = images[0].mean()
    assert bool((found[0][:, is_changed[0]] == mean).all())


def test_boxes_are_mirrored_with_their_pictures_and_no_box_stays_none() -> None:
    images = _images()
    boxes = torch.tensor([[1.0, 0.1, 0.2, 0.4, 0.9], [-1.0, -1.0, -1.0, -1.0, -1.0]])
    found, moved_boxes = flipped(images, boxes.expand(COUNT, -1, -1), _draw())
    is_flipped = (found != images).flatten(1).any(1)
    assert 20 < int(is_flipped.sum()) < 44
    for is_mirrored, rows in zip(is_flipped, moved_boxes, strict=True):
        corners = [0.6, 0.2, 0.9, 0.9] if is_mirrored else [0.1, 0.2, 0.4, 0.9]
        torch.testing.assert_close(rows[0], torch.tensor([1.0, *corners]))
        assert torch.equal(rows[1], boxes[1])


def test_windows_are_shifted_scaled_and_noised() -> None:
    window = WindowInput(samples=20, channels=2)
    samples = np.random.default_rng(0).normal(size=(COUNT, 20, 2)).astype(np.float32)
    data = _data(samples, window)
    items = data.items(torch.arange(COUNT))
    shifted = augmented(items, data, Augmentation(time_shift=0.2), _draw(), has_boxes=False)
    padded = torch.nn.functional.pad(items, (4, 4), mode="reflect")
    for item, source in zip(shifted, padded, strict=True):
        assert any(torch.equal(item, source[:, x : x + 20]) for x in range(9))
    gained = augmented(items, data, Augmentation(jitter=0.1), _draw(), has_boxes=False) / items
    torch.testing.assert_close(gained.std(2), torch.zeros(COUNT, 2), atol=1e-4, rtol=0)
    assert float(gained[:, :, 0].std()) == pytest.approx(0.1, abs=0.03)
    noised = augmented(items, data, Augmentation(noise=0.3), _draw(), has_boxes=False) - items
    assert float(noised.std()) == pytest.approx(0.3, abs=0.03)


def test_two_processes_see_what_one_sees() -> None:
    data = _data(_pixels(), ImageInput(width=SIDE, height=SIDE))
    wanted = Augmentation(
        shift=0.2, has_flip=True, rotation_degrees=20.0, zoom=0.2, brightness=0.2, noise=0.1
    )
    items = data.items(torch.arange(COUNT))
    one = augmented(items, data, wanted, _draw(), has_boxes=False)
    halves = [
        augmented(items[s], data, wanted, _draw(share=s), has_boxes=False)
        for s in (slice(0, 32), slice(32, COUNT))
    ]
    torch.testing.assert_close(torch.cat(halves), one)
    # Nothing asked for, nothing done:
    plain = augmented(items, data, Augmentation(), _draw(), has_boxes=False)
    assert torch.equal(plain, data.to_input(items))
    boxed = augmented(
        items,
        data,
        msgspec.structs.replace(wanted, noise=0.0, brightness=0.0),
        _draw(),
        has_boxes=True,
    )
    assert torch.equal(boxed, plain)
    assert math.isfinite(float(one.sum()))
