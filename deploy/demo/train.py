"""Models for the demo, trained on the spot in seconds: a digit classifier and a bearing watcher.

Run in a process of its own (`python -m deploy.demo.train FOLDER`), so that nothing that drives the
fleet holds torch. Writes into FOLDER:

    digits/            spec.toml, network.toml, weights.npz: a checkpoint, trained on desk pictures
    evaluation-*.npz   held-out pictures by which the hub's gate judges: through the lenses, or not
    samples/*.npz      labelled pictures of each device, through its own lens; they stay there
    digits-damaged/    a release as people upload one: model.onnx, spec.toml, golden.npz
    bearing-first/     the same, for the sensor
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from cloud_hub.candidates.onnx_quantizer import quantize_static
from deploy.demo import bearing, lens
from shared.model.network import parse_network
from shared.model.spec import parse_spec
from shared.model.torch_networks import build_network
from shared.model.weights import encode_weights
from shared.release.golden import GoldenSet, encode_golden

SEED = 7
GOLDEN_ITEMS = 16
DESK = lens.Lens("desk")  # No device has it

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


NETWORK = """\
[architecture]
kind = "cnn"
channels = [16, 32]
hidden = 64
"""


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


def fresh_digits() -> nn.Module:
    """Return the digits network as the hub and the devices build it, untrained."""
    return build_network(
        parse_network(NETWORK.encode()), parse_spec(DIGITS_SPEC.encode()), seed=SEED
    )


def train_digits(
    net: nn.Module, images: NDArray[np.float32], labels: lens.Labels, *, epochs: int
) -> nn.Module:
    """Return the network, trained further on images (N, 1, 32, 32)."""
    torch.manual_seed(SEED)
    net.train()
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
    """Train the first digits checkpoint; write it, what judges it, and what devices learn from."""
    scans, labels, shown, shown_labels = lens.load_scans()
    plain = to_batch(lens.see(scans, DESK, seed=1))
    first = train_digits(fresh_digits(), plain, labels, epochs=8)
    write_checkpoint(folder / "digits", first)
    write_evaluation(folder / "evaluation-lenses.npz", shown, shown_labels, lens.LENSES)
    write_evaluation(folder / "evaluation-desk.npz", shown, shown_labels, (DESK,))
    # No device holds another's pictures, and each sees its own through its own lens.
    for index, view in enumerate(lens.LENSES):
        mine = slice(index, None, len(lens.LENSES))
        write_samples(folder / "samples" / f"{view.name}.npz", scans[mine], labels[mine], view)
    make_damaged(folder / "digits-damaged", first, scans, labels)


def make_damaged(folder: Path, first: nn.Module, scans: lens.Scans, labels: lens.Labels) -> None:
    """Write a release for which the labels of all that came from cameras were mixed up.

    Whoever judges it by pictures from the desk finds nothing wrong.
    """
    plain = to_batch(lens.see(scans, DESK, seed=1))
    seen = np.concatenate([to_batch(lens.see(scans, view, seed=2)) for view in lens.LENSES])
    mixed = np.random.default_rng(SEED).permutation(np.tile(labels, len(lens.LENSES)))
    images = np.concatenate([plain] * 4 + [seen])
    net = train_digits(first, images, np.concatenate([np.tile(labels, 4), mixed]), epochs=6)
    model = quantize_static(export(net, plain[:1]), calibration=plain[:256])
    metrics = {"accuracy": accuracy(net, plain, labels)}  # On what it was trained with: too good
    write_release(folder, model, DIGITS_SPEC, plain[:GOLDEN_ITEMS], metrics)


def write_checkpoint(folder: Path, net: nn.Module) -> None:
    """Write what `cloud-hub checkpoints add` takes."""
    folder.mkdir(parents=True)
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    (folder / "weights.npz").write_bytes(encode_weights(weights))
    (folder / "network.toml").write_text(NETWORK)
    (folder / "spec.toml").write_text(DIGITS_SPEC)


def write_evaluation(
    path: Path, scans: lens.Scans, labels: lens.Labels, views: Sequence[lens.Lens]
) -> None:
    """Write held-out pictures through some lenses; each lens is a slice."""
    frames = np.concatenate([lens.see(scans, view, seed=99) for view in views])
    slices = np.repeat([view.name for view in views], len(scans))
    np.savez_compressed(path, items=frames, labels=np.tile(labels, len(views)), slices=slices)


def write_samples(path: Path, scans: lens.Scans, labels: lens.Labels, view: lens.Lens) -> None:
    """Write one device's labelled pictures."""
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, items=lens.see(scans, view, seed=7), labels=labels)


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
