"""How fast the trainer is: Fashion-MNIST to 93 %, beside a plain PyTorch loop with a DataLoader.

    ours    the trainer's own step, data and evaluation (cloud_hub/training/trainer)
    plain   what a tutorial does: a Dataset that gives one augmented item after the other, a
            DataLoader (WORKERS processes), fp32, optimisers that step one parameter after the other

The same network from the same first weights, the same batch, augmentation, optimiser, schedule and
epochs; each epoch of one is followed by the same epoch of the other, so that a busy machine is as
busy for both, and items are counted for each second of processor time too. Both count training
only; seconds to the goal are training until the evaluation that first reached it. On a GPU the
share of the measured bf16 matrix peak is told too.

    --quick     a tenth of the items, two epochs: under a minute
    --ours      leaves the plain loop out
    --data      the folder with Fashion-MNIST's IDX files; else ISTHMUS_DATA says where

Prints one JSON object as its last line.
"""

import argparse
import gzip
import json
import os
import platform
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from cloud_hub.datasets.opencv_arrays import Arrays
from cloud_hub.training.trainer.schedule import make_plan, rate_factor
from cloud_hub.training.trainer.spec import (
    Augmentation,
    DataSource,
    OptimiserName,
    Precision,
    Recipe,
    SupervisedMethod,
    TrainSpec,
)
from cloud_hub.training.trainer.torch_data import DeviceItems
from cloud_hub.training.trainer.torch_device import choose_device, choose_precision, device_name
from cloud_hub.training.trainer.torch_objectives import make_objective
from cloud_hub.training.trainer.torch_optimisers import Optimiser, orthogonalised
from cloud_hub.training.trainer.torch_processes import Processes
from cloud_hub.training.trainer.torch_scores import evaluate
from cloud_hub.training.trainer.torch_step import Stepper
from shared.model.network import ConvolutionNetwork, NetworkSpec
from shared.model.spec import Colour, Decoder, ImageInput, ModelSpec, OutputSpec, Task
from shared.model.torch_networks import build_network, head_prefix

GOAL = 0.93
MEAN, DEVIATION = 72.94, 90.02  # Of the training items' pixels
WORKERS = 2
SIDE = 28
PEAK_SIDE = 8192
PEAK_TIMES = 20
QUICK_SHARE = 10
MODEL = ModelSpec(
    model="fashion",
    task=Task.CLASSIFICATION,
    input=ImageInput(width=SIDE, height=SIDE, colour=Colour.GRAY, mean=(MEAN,), scale=(DEVIATION,)),
    output=OutputSpec(decoder=Decoder.LOGITS, classes=tuple("0123456789")),
)


@dataclass(slots=True)
class Arm:
    """What one of the two took, and what came of it."""

    name: str
    items: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # Of this process and its loader's: what a busy machine leaves alone
    accuracies: list[float] = field(default_factory=list)
    goal_s: float | None = None

    def told(self) -> dict[str, Any]:
        """Return its part of the result."""
        return {
            "items_per_s": round(self.items / self.seconds, 1),
            "items_per_cpu_s": round(self.items / self.cpu_seconds, 1),
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(self.cpu_seconds, 1),
            "accuracy": round(self.accuracies[-1], 4),
            "accuracy_best": round(max(self.accuracies), 4),
            "seconds_to_goal": None if self.goal_s is None else round(self.goal_s, 1),
            "epochs": len(self.accuracies),
        }


def main() -> None:
    """See the module's docstring."""
    arguments = _arguments()
    folder = arguments.data or Path(os.environ["ISTHMUS_DATA"]) / "data" / "fashion-mnist"
    train, test = read_part(folder, "train"), read_part(folder, "t10k")
    epochs = 2.0 if arguments.quick else arguments.epochs
    if arguments.quick:
        train = (train[0][::QUICK_SHARE], train[1][::QUICK_SHARE])
        test = (test[0][::QUICK_SHARE], test[1][::QUICK_SHARE])
    spec = make_spec(arguments, epochs)
    device = choose_device(spec, {})
    arms = [Ours(spec, train, test, device)]
    loops: list[Ours | Plain] = [*arms]
    if not arguments.ours:
        loops.append(Plain(spec, train, test, device, workers=arguments.workers))
    for epoch in range(int(epochs)):
        for loop in loops:
            loop.epoch(epoch)
            arm = loop.arm
            print(
                f"{arm.name} epoch {epoch + 1}: {arm.accuracies[-1]:.4f}, "
                f"{arm.items / arm.seconds:.0f} items/s, {arm.seconds:.1f} s, "
                f"{arm.cpu_seconds:.1f} CPU s",
                flush=True,
            )
    print(json.dumps(_result(spec, device, loops, arms[0])))


def _result(
    spec: TrainSpec, device: torch.device, loops: "list[Ours | Plain]", ours: "Ours"
) -> dict[str, Any]:
    told: dict[str, Any] = {loop.arm.name: loop.arm.told() for loop in loops}
    if len(loops) > 1:
        rates = [loop.arm.items / loop.arm.seconds for loop in loops]
        told["times_faster"] = round(rates[0] / rates[1], 2)
        rates = [loop.arm.items / loop.arm.cpu_seconds for loop in loops]
        told["times_faster_by_cpu"] = round(rates[0] / rates[1], 2)
    result = {
        "bench": "train",
        "goal": GOAL,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "device": device_name(device),
        "torch": torch.__version__,
        "precision": ours.precision,
        "batch": spec.recipe.batch,
        "parameters": sum(p.numel() for p in ours.network.parameters()),
        **told,
    }
    if device.type == "cuda":
        per_item = step_operations(ours.network, device)
        peak = matrix_peak(device)
        used = per_item * ours.arm.items / ours.arm.seconds
        result |= {
            "peak_bf16_tflops": round(peak / 1e12, 1),
            "share_of_peak": round(used / peak, 5),
        }
    return result


class Ours:
    """The trainer's own parts, driven epoch by epoch."""

    def __init__(self, spec: TrainSpec, train: "Part", test: "Part", device: torch.device) -> None:
        self.arm = Arm("ours")
        self._spec, self._device = spec, device
        self._count = len(train[1])
        pictures = np.concatenate([train[0], test[0]])
        arrays = Arrays(
            np.repeat(pictures[..., None], 3, axis=3),
            np.concatenate([train[1], test[1]]),
            None,
            np.arange(len(pictures)),
        )
        self._data = DeviceItems(arrays, MODEL, device)
        chosen = torch.arange(self._count, device=device)
        self._test = torch.arange(self._count, len(pictures), device=device)
        self.network = build_network(spec.network, MODEL, seed=spec.seed).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        counts = torch.bincount(torch.from_numpy(train[1]), minlength=10)
        self._objective = make_objective(
            spec, self.network, Path(), class_counts=counts, device=device
        )
        probe = self._data.to_input(self._data.items(chosen[:64]))
        self.precision = choose_precision(spec, self.network, probe)
        self._processes = Processes(device, {})
        self._plan = make_plan(self._count, spec.recipe, processes=1)
        head = head_prefix(spec.network, MODEL)
        optimiser = Optimiser((self.network,), spec.recipe, head_prefix=head)
        stepped = self.network
        if spec.recipe.is_compiled:
            stepped = torch.compile(self.network)  # type: ignore[assignment]  # Still a module
        self._stepper = Stepper(
            spec,
            stepped,
            self._objective,
            self._data,
            chosen,
            optimiser,
            self._plan,
            self._processes,
            self.precision,
        )

    def epoch(self, epoch: int) -> None:
        """Train one epoch and evaluate."""
        _synchronise(self._device)
        start_s, start_cpu_s = time.perf_counter(), _cpu_s()
        self._stepper.prepare()
        first = epoch * self._plan.steps_per_epoch
        for step in range(first, first + self._plan.steps_per_epoch):
            _, count = self._stepper.take(step)
            self.arm.items += count
        _synchronise(self._device)
        self.arm.seconds += time.perf_counter() - start_s
        self.arm.cpu_seconds += _cpu_s() - start_cpu_s
        found = evaluate(
            self.network,
            self._objective,
            self._data,
            self._test,
            MODEL,
            self._processes,
            batch=self._spec.recipe.batch,
        )
        _note_accuracy(self.arm, found.value)


Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Items(Dataset[tuple[Tensor, int]]):
    """One item after the other, augmented if wanted."""

    def __init__(self, part: Part, shift: float, *, is_augmented: bool) -> None:
        self._pictures, self._labels = part
        self._most = round(shift * SIDE)
        self._is_augmented = is_augmented

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = torch.from_numpy(self._pictures[index])[None].float()  # (1, 28, 28)
        picture = (picture - MEAN) / DEVIATION
        if self._is_augmented:
            if torch.rand(()) < 0.5:
                picture = picture.flip(-1)
            if self._most:
                padded = functional.pad(picture, (self._most,) * 4, mode="reflect")
                down, right = torch.randint(0, 2 * self._most + 1, (2,)).tolist()
                picture = padded[:, down : down + SIDE, right : right + SIDE]
        return picture, int(self._labels[index])


class Plain:
    """The tutorial's loop."""

    def __init__(
        self, spec: TrainSpec, train: Part, test: Part, device: torch.device, *, workers: int
    ) -> None:
        self.arm = Arm("plain")
        self._device, self._recipe = device, spec.recipe
        shift = spec.recipe.augmentation.shift
        self._train = DataLoader(
            Items(train, shift, is_augmented=True),
            batch_size=spec.recipe.batch,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator().manual_seed(spec.seed),
        )
        self._test = DataLoader(Items(test, shift, is_augmented=False), batch_size=512)
        self._network = build_network(spec.network, MODEL, seed=spec.seed).to(device)
        self._plan = make_plan(len(train[1]), spec.recipe, processes=1)
        assert isinstance(spec.method, SupervisedMethod)
        self._smoothing = spec.method.label_smoothing
        self._optimisers = list(plain_optimisers(self._network, spec))
        self._step = 0

    def epoch(self, _: int) -> None:
        """Train one epoch and evaluate."""
        _synchronise(self._device)
        start_s, start_cpu_s = time.perf_counter(), _cpu_s()
        self._network.train()
        for pictures, labels in self._train:
            pictures, labels = pictures.to(self._device), labels.to(self._device)
            factor = rate_factor(self._step, self._plan.steps_total, self._recipe)
            for optimiser, rate in self._optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = rate * factor
                optimiser.zero_grad()
            loss = functional.cross_entropy(
                self._network(pictures), labels, label_smoothing=self._smoothing
            )
            loss.backward()  # type: ignore[no-untyped-call]
            for optimiser, _rate in self._optimisers:
                optimiser.step()
            self._step += 1
            self.arm.items += len(labels)
        _synchronise(self._device)
        self.arm.seconds += time.perf_counter() - start_s
        self.arm.cpu_seconds += _cpu_s() - start_cpu_s
        _note_accuracy(self.arm, self._accuracy())

    @torch.no_grad()
    def _accuracy(self) -> float:
        self._network.eval()
        right = 0
        for pictures, labels in self._test:
            answers = self._network(pictures.to(self._device)).argmax(1).cpu()
            right += int((answers == labels).sum())
        return right / len(self._test.dataset)  # type: ignore[arg-type]


class PlainMuon(torch.optim.Optimizer):
    """Muon as its authors' repository has it: one parameter after the other."""

    def __init__(self, parameters: list[nn.Parameter], recipe: Recipe) -> None:
        super().__init__(parameters, {"lr": recipe.matrix_learning_rate})
        self._recipe = recipe

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                momentum.lerp_(parameter.grad, 1.0 - self._recipe.momentum)
                update = parameter.grad.lerp(momentum, self._recipe.momentum)
                update = orthogonalised(update.flatten(1)[None])[0]
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.mul_(1.0 - group["lr"] * self._recipe.weight_decay)
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)


def plain_optimisers(
    network: nn.Module, spec: TrainSpec
) -> Iterator[tuple[torch.optim.Optimizer, float]]:
    """Yield torch's optimisers for the same recipe, each with its learning rate."""
    recipe, head = spec.recipe, head_prefix(spec.network, MODEL)
    named = list(network.named_parameters())
    is_muon = recipe.optimiser is OptimiserName.MUON
    matrices = [p for n, p in named if is_muon and p.ndim > 1 and not n.startswith(head)]
    matrices = [p for p in matrices if min(p.shape[0], p[0].numel()) > 1]
    by_muon = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in by_muon]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    yield (
        torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True),
        recipe.learning_rate,
    )
    if matrices:
        yield PlainMuon(matrices, recipe), recipe.matrix_learning_rate


def read_part(folder: Path, name: str) -> Part:
    """Return (n, 28, 28) pictures and (n,) labels of Fashion-MNIST's IDX files."""
    with gzip.open(folder / f"{name}-images-idx3-ubyte.gz") as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, SIDE, SIDE)
    with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return pictures.copy(), labels


def step_operations(network: nn.Module, device: torch.device) -> float:
    """Return the floating point operations of an item's step: forward once, backward twice."""
    total = 0

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d | nn.Linear):
            places = output[0, 0].numel() if output.ndim == 4 else 1
            total += 2 * places * layer.weight.numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules()]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 1, SIDE, SIDE, device=device))
    for hook in hooks:
        hook.remove()
    return 3.0 * total


def matrix_peak(device: torch.device) -> float:
    """Return the operations a second of a large bf16 matrix product, measured."""
    a = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(PEAK_TIMES):
        _synchronise(device)
        start_s = time.perf_counter()
        torch.mm(a, a)
        _synchronise(device)
        best = max(best, 2.0 * PEAK_SIDE**3 / (time.perf_counter() - start_s))
    return best


def make_spec(arguments: argparse.Namespace, epochs: float) -> TrainSpec:
    """Return the run both loops carry out."""
    architecture = ConvolutionNetwork(
        channels=tuple(arguments.channels), hidden=arguments.hidden, has_batch_norm=True
    )
    return TrainSpec(
        run_id="bench",
        model=MODEL,
        network=NetworkSpec(architecture=architecture),
        data=DataSource(objects="memory", manifest="0" * 64),
        method=SupervisedMethod(label_smoothing=arguments.smoothing),
        recipe=Recipe(
            epochs=epochs,
            batch=arguments.batch,
            optimiser=OptimiserName(arguments.optimiser),
            learning_rate=arguments.rate,
            matrix_learning_rate=arguments.matrix_rate,
            momentum=arguments.momentum,
            weight_decay=arguments.decay,
            warmup_share=0.1,
            precision=Precision(arguments.precision),
            is_compiled=arguments.compiled,
            augmentation=Augmentation(shift=arguments.shift, has_flip=True),
            threads=arguments.threads,
        ),
        seed=arguments.seed,
    )


def _note_accuracy(arm: Arm, accuracy: float) -> None:
    arm.accuracies.append(accuracy)
    if arm.goal_s is None and accuracy >= GOAL:
        arm.goal_s = arm.seconds


def _cpu_s() -> float:
    """Return processor seconds of this process and of loaders that have ended."""
    own, ended = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=float, default=9.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--optimiser", default="muon")
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--matrix-rate", type=float, default=0.02)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--decay", type=float, default=5e-4)
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--shift", type=float, default=0.07)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
