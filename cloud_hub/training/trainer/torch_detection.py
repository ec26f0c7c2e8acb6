"""Detection: boxes learned as SSD does (Liu et al. 2016, section 2.2).

What must not live here: the detector's layers, how boxes are coded (shared/model/torch_detector).

1. An anchor belongs to the box it overlaps most, if by IOU_MIN or more; and each box has the anchor
   that overlaps it most, however little. All other anchors are background.
2. The loss is the classes' cross-entropy over anchors with a box and the hardest background ones
   (NEGATIVES for each with a box, at least NEGATIVES_MIN on every picture: a picture where nothing
   is to be seen teaches too), and smooth L1 of the offsets of anchors with a box; both by the
   number of anchors with a box in the batch.
3. Pictures nobody has boxed never count. Losses are fp32, also in autocast.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_hub.training.trainer.torch_objective import Targets
from shared.model.torch_detector import DetectorNetwork, encode_boxes

IOU_MIN = 0.5
NEGATIVES = 3
NEGATIVES_MIN = 6


class Detection:
    """See the rules above."""

    views: int = 1
    takes_unlabelled: bool = False

    def __init__(self, detector: DetectorNetwork) -> None:
        """Args: detector: tells where anchors are; `loss` may be given another of the same spec."""
        self.extra: nn.Module = nn.Module()
        self._anchors = detector.anchors
        self._variances = detector.variances

    def loss(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets, *, epoch: float
    ) -> Tensor:
        """Return rule 2's loss."""
        del epoch
        assert targets.boxes is not None, "detection learns from boxes"
        logits, offsets = _raw(network, views[0])
        boxes = targets.boxes.float()
        owners = match_anchors(self._anchors, boxes)  # (B, n) index of a box, or -1
        is_boxed = targets.is_boxed
        if is_boxed is None:
            is_boxed = torch.ones_like(owners[:, 0], dtype=torch.bool)
        has_box = (owners >= 0) & is_boxed[:, None]
        own = boxes.gather(1, owners.clamp(min=0)[:, :, None].expand(-1, -1, 5))  # (B, n, 5)
        wanted = torch.where(has_box, own[..., 0].long() + 1, 0)  # (B, n)
        losses = functional.cross_entropy(
            logits.float().flatten(0, 1), wanted.flatten(), reduction="none"
        ).view(wanted.shape)
        counted = has_box | hardest(losses.detach(), has_box, is_boxed)
        of_classes = torch.where(counted, losses, 0.0).sum()
        aims = encode_boxes(own[..., 1:], self._anchors, self._variances)
        distances = functional.smooth_l1_loss(offsets.float(), aims, reduction="none").sum(dim=2)
        of_places = torch.where(has_box, distances, 0.0).sum()
        return (of_classes + of_places) / has_box.sum().clamp(min=1)

    def metrics(self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets) -> None:
        """The task's own scores are what counts."""


def _raw(network: nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (B, n, 1 + classes) and offsets (B, n, 4)."""
    if network.training:  # Then it answers so by itself, compiled or not
        logits, offsets = network(pictures)
        return logits, offsets
    assert isinstance(network, DetectorNetwork), "what is evaluated is the network itself"
    return network.raw(pictures)


def match_anchors(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return (B, n) int64 which box each anchor belongs to, -1: none; see rule 1.

    Args:
        anchors: (n, 4) centre x, y, width, height.
        boxes: (B, M, 5) class, left, top, right, bottom; class -1: no box there.
    """
    is_there = boxes[..., 0] >= 0  # (B, M)
    batch, count = is_there.shape
    none = torch.full((batch, anchors.shape[0]), -1, device=boxes.device)
    if not count:
        return none
    overlap = overlaps(_corners(anchors), boxes[..., 1:])  # (B, n, M)
    overlap = torch.where(is_there[:, None], overlap, -1.0)
    most, owners = overlap.max(dim=2)  # (B, n) each
    owners = torch.where(most >= IOU_MIN, owners, none)
    # One more column takes the best anchors of boxes that are not there.
    best = torch.where(is_there, overlap.argmax(dim=1), anchors.shape[0])  # (B, M)
    index = torch.arange(count, device=boxes.device).expand(batch, count)
    forced = torch.cat((none, none[:, :1]), dim=1).scatter_reduce(1, best, index, "amax")[:, :-1]
    return torch.where(forced >= 0, forced, owners)


def hardest(losses: Tensor, has_box: Tensor, is_boxed: Tensor) -> Tensor:
    """Return (B, n) bool: the background anchors that count; see rule 2."""
    wanted = (NEGATIVES * has_box.sum(dim=1)).clamp(min=NEGATIVES_MIN)  # (B,)
    of_background = losses.masked_fill(has_box, -torch.inf)
    rank = of_background.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < wanted[:, None]) & ~has_box & is_boxed[:, None]


def overlaps(corners: Tensor, boxes: Tensor) -> Tensor:
    """Return the intersection over union of (n, 4) with each of (B, M, 4) corners: (B, n, M)."""
    one, other = corners[None, :, None], boxes[:, None]  # (1, n, 1, 4), (B, 1, M, 4)
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(
        one[..., :2], other[..., :2]
    )
    both = sides.clamp(min=0.0).prod(dim=-1)
    union = _area(one) + _area(other) - both
    return both / union.clamp(min=1e-12)


def _area(corners: Tensor) -> Tensor:
    return (corners[..., 2:] - corners[..., :2]).clamp(min=0.0).prod(dim=-1)


def _corners(anchors: Tensor) -> Tensor:
    centres, halves = anchors[:, :2], anchors[:, 2:] / 2
    return torch.cat((centres - halves, centres + halves), dim=1)
