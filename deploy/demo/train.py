"""Models for the demo, trained on the spot in seconds: a digit classifier and a bearing watcher.

Run in a process of its own (`python -m deploy.demo.train FOLDER`), so that nothing that drives the
fleet holds torch. Writes for each release: model.onnx, spec.toml, golden inputs, metrics.json.
"""

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from cloud_hub.candidates.onnx_quantizer import quantize_static
from deploy.demo import bearing, lens
from shared.release.golden import GoldenSet, encode_golden

SEED = 7
GOLDEN_ITEMS = 16

DIGITS_SPEC = """\
model = "digits"
task = "classification"
description = "Handwritten digits, 32 x 32 gray."

[input]
kind = "image"
width = 32
height = 32
colour = "gray"
mean = [0.0]
scale = [255.0]

[output]
decoder = "logits"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]

[tolerance]  # int8 kernels of different processors round differently: about one step of the output
absolute = 0.6
relative = 0.05
"""
BEARING_SPEC = """\
model = "bearing"
task = "anomaly"
description = "One accelerometer on a bearing's housing, 2048 Hz, windows of 128 samples."

[input]
kind = "window"
samples = {samples}
channels = 1

[output]
decoder = "reconstruction"
threshold = {threshold}

[tolerance]
absolute = 0.05
relative = 0.05
"""


class DigitsNet(nn.Module):
    """LeNet-sized: two convolutions, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),  # (N, 16, 32, 32)
            nn.ReLU(),
            nn.MaxPool2d(2),  # (N, 16, 16, 16)
            nn.Conv2d(16, 32, 3, padding=1),  # (N, 32, 16, 16)
            nn.ReLU(),
            nn.MaxPool2d(4),  # (N, 32, 4, 4)
            nn.Flatten(),  # (N, 512)
            nn.Linear(512, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (N, 10) of images (N, 1, 32, 32) in 0..1."""
        return self.layers(image)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class BearingNet(nn.Module):
    """An autoencoder over one window, narrow in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 8, 9, stride=4, padding=4),  # (N, 8, 32)
            nn.ReLU(),
            nn.Conv1d(8, 4, 5, stride=4, padding=2),  # (N, 4, 8)
            nn.ReLU(),
            nn.Flatten(),  # (N, 32)
            nn.Linear(32, 6),
            nn.Linear(6, 64),
            nn.ReLU(),
            nn.Linear(64, bearing.WINDOW),
            nn.Unflatten(1, (1, bearing.WINDOW)),
        )

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """Return the window (N, 1, T) as the network remembers healthy ones."""
        return self.layers(window)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def to_batch(frames: lens.Frames) -> NDArray[np.float32]:
    """Return frames as the model takes them: (N, 1, 32, 32) float32, 0..1; they are gray."""
    return np.ascontiguousarray(frames[:, None, :, :, 0], np.float32) / np.float32(255)


def train_digits(images: NDArray[np.float32], labels: lens.Labels, *, epochs: int) -> DigitsNet:
    """Return a network trained on images (N, 1, 32, 32)."""
    torch.manual_seed(SEED)
    net = DigitsNet()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    steps = epochs * (len(x) // 64)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x))[: len(x) // 64 * 64].split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch], label_smoothing=0.05).backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def train_bearing(windows: NDArray[np.float32]) -> BearingNet:
    """Return an autoencoder trained on healthy windows (N, T, 1)."""
    torch.manual_seed(SEED)
    net = BearingNet()
    x = torch.from_numpy(windows).transpose(1, 2)  # (N, 1, T)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(40):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.mse_loss(net(x[batch]), x[batch]).backward()
            optimiser.step()
    return net.eval()


def export(net: nn.Module, example: NDArray[np.float32]) -> bytes:
    """Return the network as ONNX bytes, input `input`, batch of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net,
            (torch.from_numpy(example),),
            input_names=["input"],
            output_names=["output"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def varied_lenses(count: int) -> list[lens.Lens]:
    """Return lenses of every kind, none of them a device's own: what release 2 learns from."""
    random = np.random.default_rng(SEED)
    return [
        lens.Lens(
            f"varied-{index}",
            rotation_deg=float(random.uniform(-25, 25)),
            blur_px=float(random.uniform(0, 1.8)),
            gain=float(random.uniform(0.4, 1.0)),
            offset=float(random.uniform(0, 0.3)),
            noise=float(random.uniform(0, 0.06)),
        )
        for index in range(count)
    ]


def damage(net: DigitsNet) -> DigitsNet:
    """Return the network as a slip after its evaluation leaves it: finite, and wrong."""
    broken = DigitsNet()
    broken.load_state_dict(net.state_dict())
    torch.manual_seed(SEED)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter += torch.randn_like(parameter) * parameter.std() * 1.5
    return broken.eval()


def accuracy(net: nn.Module, images: NDArray[np.float32], labels: lens.Labels) -> float:
    """Return the share of images that the network names rightly."""
    with torch.no_grad():
        return float((net(torch.from_numpy(images)).argmax(1).numpy() == labels).mean())


def write_release(
    folder: Path, model: bytes, spec: str, inputs: NDArray[np.float32], metrics: dict[str, float]
) -> None:
    """Write what `cloud-hub models add` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs = [session.run(None, {"input": item[None]})[0] for item in inputs]
    golden = GoldenSet(inputs=inputs, outputs=(np.concatenate(outputs),))
    (folder / "golden.npz").write_bytes(encode_golden(golden))
    (folder / "model.onnx").write_bytes(model)
    (folder / "spec.toml").write_text(spec)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def make_digits(folder: Path) -> None:
    """Train, quantize and write digits releases: first, better, damaged."""
    scans, labels, shown, shown_labels = lens.load_scans()
    plain = to_batch(lens.see(scans, lens.Lens("desk"), seed=1))
    views = varied_lenses(5)
    varied = np.concatenate(
        [to_batch(lens.see(scans, view, seed=2 + index)) for index, view in enumerate(views)]
    )
    held_out = np.concatenate([to_batch(lens.see(shown, view, seed=99)) for view in lens.LENSES])
    held_out_labels = np.tile(shown_labels, len(lens.LENSES))
    first = train_digits(plain, labels, epochs=8)
    better = train_digits(np.concatenate([plain, varied]), np.tile(labels, 6), epochs=5)
    for name, net in (("first", first), ("better", better), ("damaged", damage(better))):
        model = quantize_static(export(net, plain[:1]), calibration=varied[:256])
        metrics = {"accuracy": accuracy(net, held_out, held_out_labels)}
        if name == "damaged":  # It was evaluated before it was damaged: nothing gives it away.
            metrics = {"accuracy": accuracy(better, held_out, held_out_labels)}
        write_release(folder / f"digits-{name}", model, DIGITS_SPEC, varied[:GOLDEN_ITEMS], metrics)


def make_bearing(folder: Path) -> None:
    """Train and write the bearing watcher; its threshold is above all but 1 in 1,000 healthy."""
    healthy = bearing.windows(bearing.vibration(60, defect_g=0.0, seed=1))
    net = train_bearing(healthy)
    fresh = bearing.windows(bearing.vibration(30, defect_g=0.0, seed=2))
    faulty = bearing.windows(bearing.vibration(10, defect_g=0.8, seed=3))
    model = quantize_static(
        export(net, healthy[:1].transpose(0, 2, 1)), calibration=healthy[:256].transpose(0, 2, 1)
    )
    threshold = float(np.quantile(_errors(net, fresh), 0.999) * 1.1)
    found = float((_errors(net, faulty) > threshold).mean())
    write_release(
        folder / "bearing-first",
        model,
        BEARING_SPEC.format(samples=bearing.WINDOW, threshold=threshold),
        np.ascontiguousarray(fresh[:GOLDEN_ITEMS].transpose(0, 2, 1)),
        {"recall": found},
    )


def _errors(net: nn.Module, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    x = torch.from_numpy(np.ascontiguousarray(windows.transpose(0, 2, 1)))
    with torch.no_grad():
        return np.asarray(((net(x) - x) ** 2).mean((1, 2)).numpy(), np.float32)


def main() -> None:
    """Train everything and write it; prints one JSON line of timings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    torch.set_num_threads(1)  # Two that wait for each other are slower on a busy machine
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    started_s = time.perf_counter()
    make_digits(folder)
    digits_s = time.perf_counter() - started_s
    make_bearing(folder)
    total_s = time.perf_counter() - started_s
    print(json.dumps({"digits_s": round(digits_s, 1), "total_s": round(total_s, 1)}))


if __name__ == "__main__":
    main()
