"""Masked reconstruction: windows filled in where spans of time were hidden, no labels.

What must not live here: labels, images.

1. Spans of `span` samples are hidden in all channels together; `mask_share` of the spans of each
   window, at least one and never all. Hidden is 0, the scaled input's usual mean.
2. Only hidden samples count in the loss (as He et al. 2022 do for images).
3. A network with a head fills in from its features, through a decoder of two linear layers that is
   trained beside it and thrown away. A reconstructing network fills in by itself: then its own
   scores are what counts.
4. In evaluation the same samples are hidden each time, so that values can be compared.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cloud_hub.training.trainer.spec import MaskedMethod
from cloud_hub.training.trainer.torch_features import Features
from cloud_hub.training.trainer.torch_objective import Targets
from shared.model.spec import WindowInput

DECODER_WIDTH = 128


class Masked:
    """See the rules above."""

    views: int = 1
    takes_unlabelled: bool = True

    def __init__(
        self,
        method: MaskedMethod,
        window: WindowInput,
        features: Features | None,
        *,
        device: torch.device,
    ) -> None:
        """Args: features: of the network that is trained; None: it reconstructs by itself."""
        self._method = method
        self._features = features
        self._decoder: nn.Module = nn.Module()
        if features is not None:
            self._decoder = nn.Sequential(
                nn.Linear(features.width, DECODER_WIDTH),
                nn.ReLU(),
                nn.Linear(DECODER_WIDTH, window.channels * window.samples),
                nn.Unflatten(1, (window.channels, window.samples)),
            ).to(device)
        self.extra: nn.Module = self._decoder

    def loss(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets, *, epoch: float
    ) -> Tensor:
        """Return the mean squared error over hidden samples."""
        del targets, epoch
        return self._loss(network, views[0], None)

    def metrics(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets
    ) -> Mapping[str, Tensor] | None:
        """Return the batch's loss, times its items, and their count; None by rule 3."""
        del targets
        if self._features is None:
            return None
        windows = views[0]
        count = torch.tensor(float(windows.shape[0]), device=windows.device)
        always_same = torch.Generator(device=windows.device).manual_seed(0)
        return {"loss": self._loss(network, windows, always_same) * count, "count": count}

    def _loss(
        self, network: nn.Module, windows: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        hidden = hide(windows, self._method, generator=generator)  # (B, 1, T)
        seen = windows.masked_fill(hidden, 0.0)
        filled, zero = self._filled(network, seen)
        errors = (filled.float() - windows.float()).square()
        counted = hidden.expand_as(errors)
        return torch.where(counted, errors, 0.0).sum() / counted.sum().clamp(min=1) + zero

    def _filled(self, network: nn.Module, seen: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return (B, C, T) windows as they might be, and what to add to the loss (see Features)."""
        if self._features is None:
            return network(seen), 0.0
        features, zero = self._features.of(network, seen)
        return self._decoder(features), zero


def hide(
    windows: Tensor, method: MaskedMethod, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return (B, 1, T) bool: which samples of (B, C, T) windows are hidden; see rule 1."""
    batch, _, samples = windows.shape
    span = min(method.span, max(1, samples // 2))
    device = windows.device
    # Where the first span begins is drawn too: no sample is always at a span's edge.
    start = torch.randint(span, (1,), device=device, generator=generator)  # (1,)
    span_of = (torch.arange(samples, device=device) + start) // span  # (T,)
    count = (samples + span - 1) // span  # Spans of a window that begins with one
    span_of = span_of % count  # What is cut off at one end belongs to the span at the other
    wanted = min(max(1, round(method.mask_share * count)), count - 1)
    draws = torch.rand(batch, count, device=device, generator=generator)
    is_hidden = draws.argsort(dim=1).argsort(dim=1) < wanted  # (B, spans)
    return is_hidden[:, span_of][:, None]
