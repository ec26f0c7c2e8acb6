"""The plainest loop that trains with an Objective, and small real tasks to train on."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from cloud_hub.training.trainer.spec import Augmentation, DataSource, Method, Recipe, TrainSpec
from cloud_hub.training.trainer.torch_low_rank import training_mode
from cloud_hub.training.trainer.torch_objective import Objective, Targets
from cloud_hub.training.trainer.torch_objectives import make_objective
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec
from shared.model.torch_networks import build_network

CPU = torch.device("cpu")
NOWHERE = Path("nowhere")
View = Callable[[Tensor], Tensor]


def spec_for(model: ModelSpec, network: NetworkSpec, method: Method, **recipe: object) -> TrainSpec:
    """Return a training run's spec; its data are the test's own."""
    fields: dict[str, object] = {"augmentation": Augmentation(shift=0.1), **recipe}
    return TrainSpec(
        run_id="run-1",
        model=model,
        network=network,
        data=DataSource(objects="objects", manifest="0" * 64),
        method=method,
        recipe=Recipe(**fields),  # type: ignore[arg-type]
    )


def objective_for(
    spec: TrainSpec, net: nn.Module, labels: Tensor, folder: Path = NOWHERE
) -> Objective:
    """Return the spec's objective, class counts taken from the labels."""
    counts = labels[labels >= 0].bincount(minlength=max(1, len(spec.model.output.classes)))
    return make_objective(spec, net, folder, class_counts=counts, device=CPU)


def train(
    spec: TrainSpec,
    items: Tensor,
    targets: Targets,
    *,
    epochs: int,
    net: nn.Module | None = None,
    batch: int = 64,
    learning_rate: float = 0.003,
    view: View | None = None,
    folder: Path = NOWHERE,
) -> nn.Module:
    """Return a network trained by the spec's method, in evaluation mode."""
    torch.manual_seed(spec.seed)
    if net is None:
        net = build_network(spec.network, spec.model, seed=spec.seed)
    objective = objective_for(spec, net, targets.labels, folder)
    trained = [p for p in (*net.parameters(), *objective.extra.parameters()) if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=learning_rate)
    steps = epochs * max(1, len(items) // batch)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, total_iters=steps)
    training_mode(net)
    for epoch in range(epochs):
        for chosen in torch.split(torch.randperm(len(items)), batch):
            if len(chosen) < batch and len(items) > batch:
                continue
            seen = items[chosen]
            views = tuple(view(seen) if view else seen for _ in range(objective.views))
            loss = objective.loss(net, views, pick(targets, chosen), epoch=float(epoch))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            optimiser.step()
            schedule.step()
    return net.eval()


def pick(targets: Targets, chosen: Tensor) -> Targets:
    """Return the targets of some items."""
    boxes = None if targets.boxes is None else targets.boxes[chosen]
    is_boxed = None if targets.is_boxed is None else targets.is_boxed[chosen]
    return Targets(targets.labels[chosen], boxes, is_boxed)


@torch.no_grad()
def accuracy(net: nn.Module, items: Tensor, labels: Tensor) -> float:
    """Return the share of items whose class is right."""
    return float((net.eval()(items).argmax(1) == labels).float().mean())


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return 1,000 digits to train on and 797 to test on, (N, 1, 8, 8) 0..1, with their classes."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    images: NDArray[np.float32] = (data.images[order] * 15 / 255.0).astype(np.float32)
    items = torch.from_numpy(images)[:, None]
    labels = torch.from_numpy(data.target[order].astype(np.int64))
    return items[:1000], labels[:1000], items[1000:], labels[1000:]


def moved(items: Tensor) -> Tensor:
    """Return pictures, each shifted by up to one pixel, brighter or darker, with noise."""
    padded = nn.functional.pad(items, (1, 1, 1, 1))
    size = items.shape[2]
    out = torch.empty_like(items)
    for index, (row, column) in enumerate(torch.randint(3, (len(items), 2)).tolist()):
        out[index] = padded[index, :, row : row + size, column : column + size]
    gain = 1.0 + 0.4 * (torch.rand(len(items), 1, 1, 1) - 0.5)
    return out * gain + 0.05 * torch.randn_like(items)
