"""Tunes a network for int8, or after pruning, by distillation from the one it came from.

1. No labels are needed: the student learns to put out what the teacher does on the calibration
   part of the evaluation set (Hinton et al., Distilling the Knowledge in a Neural Network, 2015:
   temperature 2 for logits; the squared error for anything else).
2. For int8, BatchNorm is folded first and each weight goes through the grid that onnxruntime's
   per-channel int8 has, forward only (straight-through estimator: Jacob et al., CVPR 2018). What
   comes out lies on the grid, and is quantized by onnxruntime as any other model.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cloud_hub.candidates.export_files import ExportSettings
from shared.errors import RefusedError
from shared.model.spec import Decoder, ModelSpec

TEMPERATURE = 2.0
LEVELS = 127.0  # Signed 8 bits, symmetric
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def tune_for_int8(
    teacher: nn.Module, inputs: Tensor, spec: ModelSpec, settings: ExportSettings, *, seed: int
) -> nn.Module:
    """Return a copy of `teacher` whose weights lie on int8's grid.

    Raises RefusedError `tuning.unsupported` where nothing in it is quantized.
    """
    student = fold_norms(copy.deepcopy(teacher))
    layers = [m for m in student.modules() if isinstance(m, (*_CONVOLUTIONS, nn.Linear))]
    if spec.output.decoder is Decoder.SSD_CORNERS:
        raise RefusedError("tuning.unsupported", "Detectors are not tuned without their labels.")
    if not layers or any(isinstance(m, nn.GRU) for m in student.modules()):
        raise RefusedError("tuning.unsupported", "Recurrent networks are not quantized.")
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Grid())
    distil(student, teacher, inputs, spec, settings, seed=seed)
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return student.eval()


def distil(
    student: nn.Module,
    teacher: nn.Module,
    inputs: Tensor,
    spec: ModelSpec,
    settings: ExportSettings,
    *,
    seed: int,
) -> None:
    """Make `student` put out what `teacher` does on `inputs`, (n, ...); both stay in eval mode."""
    with torch.no_grad():
        wanted = teacher(inputs)  # (n, outputs...)
    optimiser = torch.optim.Adam(student.parameters(), lr=settings.tuning_learning_rate)
    steps = settings.tuning_steps
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for chosen in _batches(inputs.shape[0], settings, seed=seed):
        loss = _loss(student(inputs[chosen]), wanted[chosen], spec)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        schedule.step()


def fold_norms(module: nn.Module) -> nn.Module:
    """Return the network with every BatchNorm folded into the convolution before it."""
    children = list(module.named_children())
    for index, (name, child) in enumerate(children):
        before = children[index - 1][1] if index else None
        if isinstance(child, _NORMS) and isinstance(before, _CONVOLUTIONS):
            setattr(module, children[index - 1][0], fuse_conv_bn_eval(before, child))
            setattr(module, name, nn.Identity())
        else:
            fold_norms(child)
    return module


class _Grid(nn.Module):
    """Rounds a weight, (outputs, ...), to its row's int8 grid; gradients pass unchanged."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weight."""
        largest = weight.detach().flatten(1).abs().amax(1).clamp_min(1e-12)  # (outputs,)
        step = (largest / LEVELS).reshape(-1, *[1] * (weight.dim() - 1))
        rounded = torch.round(weight / step) * step
        return weight + (rounded - weight).detach()


def _batches(count: int, settings: ExportSettings, *, seed: int) -> Iterator[Tensor]:
    random = torch.Generator().manual_seed(seed)
    for _ in range(settings.tuning_steps):
        yield torch.randint(count, (min(settings.tuning_batch, count),), generator=random)


def _loss(got: Tensor, wanted: Tensor, spec: ModelSpec) -> Tensor:
    if spec.output.decoder is not Decoder.LOGITS:
        return nn.functional.mse_loss(got, wanted)
    soft = torch.log_softmax(got / TEMPERATURE, 1)  # (n, classes)
    target = torch.softmax(wanted / TEMPERATURE, 1)
    return nn.functional.kl_div(soft, target, reduction="batchmean") * TEMPERATURE**2
