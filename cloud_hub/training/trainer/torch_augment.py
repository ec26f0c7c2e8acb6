"""Augmenter: what is done to a batch of training items on the device, all items at once.

1. Every item draws its own numbers, for the whole batch in every process, which then keeps its
   share: N processes see what one would.
2. Images are pixel levels (B, C, H, W) float32, 0..255, until they are scaled; what a shift brings
   in is mirrored. Shift and flip move whole pixels by one gather of bytes; rotation and zoom are
   one bilinear sampling (`affine_grid`).
3. Then brightness and contrast (both around the item's own mean, kept within 0..255), erasing with
   the item's mean, scaling, and noise in the scaled input's unit.
4. Windows (B, C, T): time shift (mirrored), a gain for each channel, noise. Texts are left alone.
5. Pictures with boxes are flipped together with them, and get colour and noise; what moves or
   hides things otherwise is left out: boxes would no longer fit.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cloud_hub.training.trainer.spec import Augmentation
from cloud_hub.training.trainer.torch_data import DeviceItems

LEVEL_MAX = 255.0


@dataclass(frozen=True, slots=True)
class Draw:
    """Random numbers of one batch; see rule 1."""

    generator: torch.Generator
    whole: int  # Items of the whole batch
    share: slice  # Of this process
    device: torch.device

    def uniform(self, low: float, high: float, *axes: int) -> Tensor:
        """Return (B, ...) numbers of [low, high)."""
        shape = (self.whole, *axes)
        drawn = torch.rand(shape, generator=self.generator, device=self.device)
        return drawn[self.share].mul_(high - low).add_(low)

    def normal(self, *axes: int) -> Tensor:
        """Return (B, ...) numbers of the standard normal distribution."""
        shape = (self.whole, *axes)
        return torch.randn(shape, generator=self.generator, device=self.device)[self.share]


def augmented(
    items: Tensor, data: DeviceItems, augmentation: Augmentation, draw: Draw, *, has_boxes: bool
) -> Tensor:
    """Return a batch, as it is kept, as the model's input, augmented; see the rules above."""
    if data.scale is not None:
        return _image(items, data, augmentation, draw, has_boxes=has_boxes)
    if items.dtype == torch.float32 and items.ndim == 3:
        return _window(items, augmentation, draw)
    return items


def flipped(items: Tensor, boxes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Return pictures (B, C, H, W), half of them mirrored, and boxes (B, M, 5) likewise."""
    is_flipped = (draw.uniform(0.0, 1.0) < 0.5)[:, None, None]  # (B, 1, 1)
    kind, left, top, right, bottom = boxes.unbind(2)
    mirrored = torch.stack((kind, 1.0 - right, top, 1.0 - left, bottom), 2)
    boxes = torch.where(is_flipped & (kind >= 0)[..., None], mirrored, boxes)
    return torch.where(is_flipped[..., None], items.flip(-1), items), boxes


def _image(
    items: Tensor, data: DeviceItems, wanted: Augmentation, draw: Draw, *, has_boxes: bool
) -> Tensor:
    if not has_boxes:
        items = moved(items, wanted, draw)
    pixels = items.float()  # (B, C, H, W)
    if not has_boxes and (wanted.rotation_degrees or wanted.zoom):
        pixels = turned(pixels, wanted, draw)
    pixels = coloured(pixels, wanted, draw)
    if not has_boxes and wanted.erased:
        pixels = erased(pixels, wanted.erased, draw)
    scaled = data.to_input(pixels)
    return scaled + wanted.noise * draw.normal(*scaled.shape[1:]) if wanted.noise else scaled


def _window(items: Tensor, wanted: Augmentation, draw: Draw) -> Tensor:
    _, channels, samples = items.shape
    if wanted.time_shift:
        most = round(wanted.time_shift * samples)
        shift = draw.uniform(-most, most + 1).floor().long()  # (B,)
        places = _mirrored(torch.arange(samples, device=items.device) + shift[:, None], samples)
        items = items.gather(2, places[:, None].expand(-1, channels, -1))
    if wanted.jitter:
        items = items * (1.0 + wanted.jitter * draw.normal(channels, 1))
    if wanted.noise:
        items = items + wanted.noise * draw.normal(channels, samples)
    return items


def moved(items: Tensor, wanted: Augmentation, draw: Draw) -> Tensor:
    """Return (B, C, H, W) bytes shifted and flipped, each item by itself."""
    if not wanted.shift and not wanted.has_flip:
        return items
    count, channels, height, width = items.shape
    down, right = round(wanted.shift * height), round(wanted.shift * width)
    rows = torch.arange(height, device=items.device).expand(count, -1)  # (B, H)
    columns = torch.arange(width, device=items.device).expand(count, -1)  # (B, W)
    if wanted.has_flip:
        is_flipped = draw.uniform(0.0, 1.0) < 0.5
        columns = torch.where(is_flipped[:, None], width - 1 - columns, columns)
    if wanted.shift:
        rows = rows + draw.uniform(-down, down + 1).floor().long()[:, None]
        columns = columns + draw.uniform(-right, right + 1).floor().long()[:, None]
    places = _mirrored(rows, height)[:, :, None] * width + _mirrored(columns, width)[:, None]
    flat = places.view(count, 1, height * width).expand(-1, channels, -1)
    return items.flatten(2).gather(2, flat).view_as(items)


def turned(pixels: Tensor, wanted: Augmentation, draw: Draw) -> Tensor:
    """Return (B, C, H, W) pixels rotated and zoomed about their middle, edges mirrored."""
    _, _, height, width = pixels.shape
    angle = draw.uniform(-wanted.rotation_degrees, wanted.rotation_degrees).mul(math.pi / 180.0)
    zoom = draw.uniform(1.0 - wanted.zoom, 1.0 + wanted.zoom)
    cosine, sine = angle.cos() / zoom, angle.sin() / zoom
    zero = torch.zeros_like(cosine)
    # grid_sample counts both sides from -1 to 1: without the ratio a rotation would shear.
    top = torch.stack((cosine, -sine * (height / width), zero), 1)
    bottom = torch.stack((sine * (width / height), cosine, zero), 1)
    grid = functional.affine_grid(
        torch.stack((top, bottom), 1), list(pixels.shape), align_corners=False
    )  # (B, H, W, 2)
    return functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def coloured(pixels: Tensor, wanted: Augmentation, draw: Draw) -> Tensor:
    """Return (B, C, H, W) pixels brighter or darker, and with more or less contrast."""
    if not wanted.brightness and not wanted.contrast:
        return pixels
    if wanted.contrast:
        mean = pixels.mean((1, 2, 3), keepdim=True)
        gain = draw.uniform(1.0 - wanted.contrast, 1.0 + wanted.contrast, 1, 1, 1)
        pixels = (pixels - mean) * gain + mean
    if wanted.brightness:
        most = wanted.brightness * LEVEL_MAX
        pixels = pixels + draw.uniform(-most, most, 1, 1, 1)
    return pixels.clamp(0.0, LEVEL_MAX)


def erased(pixels: Tensor, side_share: float, draw: Draw) -> Tensor:
    """Return pixels with one square each set to the item's mean (DeVries & Taylor 2017, cutout).

    The square lies wholly or partly on the picture: its middle is anywhere on it.
    """
    _, _, height, width = pixels.shape
    side = max(1, round(side_share * min(height, width)))
    top = draw.uniform(0.0, height, 1).floor() - side // 2  # (B, 1)
    left = draw.uniform(0.0, width, 1).floor() - side // 2
    rows = torch.arange(height, device=pixels.device)
    columns = torch.arange(width, device=pixels.device)
    in_rows = (rows >= top) & (rows < top + side)  # (B, H)
    in_columns = (columns >= left) & (columns < left + side)  # (B, W)
    is_erased = (in_rows[:, :, None] & in_columns[:, None])[:, None]  # (B, 1, H, W)
    return torch.where(is_erased, pixels.mean((1, 2, 3), keepdim=True), pixels)


def _mirrored(places: Tensor, count: int) -> Tensor:
    """Return places beyond the edges of 0..count-1 mirrored at them, the edge itself once."""
    if count == 1:
        return torch.zeros_like(places)
    period = 2 * (count - 1)
    places = places.remainder(period)
    return torch.minimum(places, period - places)
