"""DeviceItems: a whole dataset on the device that trains, and its batches by index.

1. Images are uint8 planes (N, C, H, W), colours ordered by shared/model/preprocess.py itself;
   `to_input` scales them to what that file makes of them, number for number. Windows are float32
   (N, C, T), scaled already; texts int64 (N, L).
2. A batch is one gather on the device: there is no loader, no worker and no copy in between. What
   does not fit into RESIDENT_SHARE of a GPU's free memory stays in pinned memory of the host, and
   each batch is copied from there while the GPU still computes. Indices lie where the items do:
   to fetch them from the GPU would wait for all that it has still to do.
3. The order of an epoch is the same in every process; each takes its share of each batch, so that
   N processes go through the same batches as one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_hub.datasets.opencv_arrays import Arrays
from cloud_hub.training.trainer.torch_objective import Targets
from shared.errors import ContractError, IsthmusError
from shared.model.postprocess import Boxes
from shared.model.preprocess import to_tensor
from shared.model.spec import ImageInput, ModelSpec, TextInput, WindowInput

RESIDENT_SHARE = 0.6  # Of a GPU's free memory
BOXES_MAX = 200  # Of one picture that are trained on: the largest


@dataclass(frozen=True, slots=True)
class Scale:
    """(value - mean) / scale of images, per channel, on the device."""

    mean: Tensor  # (C, 1, 1)
    scale: Tensor  # (C, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return (B, C, H, W) float32 pixel levels as the model's input."""
        return pixels.sub(self.mean).div_(self.scale)


class DeviceItems:
    """See the rules above."""

    def __init__(self, arrays: Arrays, spec: ModelSpec, device: torch.device) -> None:
        """Bring a dataset's items to the device.

        Raises ContractError `training.items_unfit`, the items are not what the model takes.
        """
        self.device = device
        self.is_image = isinstance(spec.input, ImageInput)
        self.scale = _scale(spec, device) if isinstance(spec.input, ImageInput) else None
        items = _planes(arrays.items, spec)
        self.is_resident = _fits(items, device)
        self._items = items.to(device) if self.is_resident else items.pin_memory()
        self._labels = torch.from_numpy(np.array(arrays.labels)).to(device)  # (N,)
        self._boxes = None if arrays.boxes is None else _padded(arrays.boxes).to(device)
        known = [found is not None for found in arrays.boxes or ()]
        self._is_boxed = None if arrays.boxes is None else torch.tensor(known, device=device)

    def __len__(self) -> int:
        return int(self._items.shape[0])

    def indices(self, chosen: NDArray[np.int64]) -> Tensor:
        """Return (n,) indices where items are picked by them; see rule 2."""
        return torch.from_numpy(chosen).to(self.device if self.is_resident else "cpu")

    @property
    def has_boxes(self) -> bool:
        """Whether these are pictures with boxes on them."""
        return self._boxes is not None

    @property
    def bytes_count(self) -> int:
        """Return what the items take."""
        return self._items.numel() * self._items.element_size()

    def items(self, chosen: Tensor) -> Tensor:
        """Return the items of (B,) indices as they are kept, on the device."""
        if self.is_resident:
            return self._items.index_select(0, chosen)
        picked = self._items.index_select(0, chosen.cpu()).pin_memory()
        return picked.to(self.device, non_blocking=True)

    def to_input(self, items: Tensor) -> Tensor:
        """Return items as the model's input: see rule 1."""
        return items if self.scale is None else self.scale(items.float())

    def targets(self, chosen: Tensor) -> Targets:
        """Return what is known of the items of (B,) indices."""
        at = chosen.to(self.device, non_blocking=True)
        if self._boxes is None or self._is_boxed is None:
            return Targets(self._labels[at])
        return Targets(self._labels[at], self._boxes[at], self._is_boxed[at])


def epoch_order(chosen: Tensor, *, seed: int) -> Tensor:
    """Return (n,) indices in an epoch's order, on their device; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(int(chosen.shape[0]), generator=generator)
    return chosen[order.to(chosen.device)]


def share_of(batch: int, *, rank: int, processes: int) -> slice:
    """Return which of a batch's items a process takes: about as many as every other."""
    return slice(batch * rank // processes, batch * (rank + 1) // processes)


def _planes(items: NDArray[np.generic], spec: ModelSpec) -> Tensor:
    """Return items as they are kept: (N, C, H, W) uint8, (N, C, T) float32 or (N, L) int64."""
    count = items.shape[0]
    if isinstance(spec.input, TextInput):
        if items.shape[1:] != (spec.input.length,) or items.dtype != np.int64:
            raise _unfit(f"texts of {spec.input.length} tokens", items)
        return torch.from_numpy(np.array(items))
    dtype = np.dtype(np.float32 if isinstance(spec.input, WindowInput) else np.uint8)
    kept = np.empty((count, *spec.input_shape[1:]), dtype)
    try:
        for index in range(count):
            to_tensor(items[index], spec, dtype=dtype, out=kept[index : index + 1])
    except IsthmusError as error:
        raise _unfit(error.message, items) from error
    return torch.from_numpy(kept)


def _scale(spec: ModelSpec, device: torch.device) -> Scale:
    channels = spec.channels_count
    assert not isinstance(spec.input, TextInput)

    def column(values: Sequence[float]) -> Tensor:
        whole = np.broadcast_to(np.asarray(values, np.float32), channels)
        return torch.from_numpy(np.array(whole)).to(device).view(-1, 1, 1)

    return Scale(column(spec.input.mean), column(spec.input.scale))


def _fits(items: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return items.numel() * items.element_size() <= RESIDENT_SHARE * free


def _padded(boxes: Sequence[Boxes | None]) -> Tensor:
    """Return (N, M, 5): class, left, top, right, bottom; class -1 where there is no box."""
    most = max((len(found) for found in boxes if found is not None), default=0)
    rows = np.full((len(boxes), min(max(most, 1), BOXES_MAX), 5), -1.0, np.float32)
    for row, found in zip(rows, boxes, strict=True):
        if found is None or not len(found):
            continue
        sizes = (found.corners[:, 2:] - found.corners[:, :2]).prod(axis=1)
        kept = np.argsort(-sizes, kind="stable")[: rows.shape[1]]
        row[: len(kept), 0] = found.classes[kept]
        row[: len(kept), 1:] = found.corners[kept]
    return torch.from_numpy(rows)


def _unfit(wanted: str, items: NDArray[np.generic]) -> ContractError:
    return ContractError(
        "training.items_unfit",
        f"The dataset's items, {items.dtype} {items.shape[1:]}, do not fit the model: {wanted}",
        remedy="Name a dataset of the model's kind, or change the spec's input.",
    )
