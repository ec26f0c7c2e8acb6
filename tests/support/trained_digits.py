"""A small convolutional network that knows scikit-learn's digits, trained in a few seconds."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

from cloud_hub.candidates.checkpoint import Checkpoint, CheckpointId
from shared.ids import LineageId, ModelName
from shared.model.network import parse_network
from shared.model.preprocess import to_tensor
from shared.model.spec import parse_spec
from shared.model.torch_networks import build_network
from shared.model.weights import digest_weights, encode_weights

SPEC = b"""
model = "digits"
task = "classification"
[input]
kind = "image"
width = 32
height = 32
colour = "gray"
scale = [255.0]
[output]
decoder = "logits"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
"""
NETWORK = b"""
[architecture]
kind = "cnn"
channels = [8, 16]
hidden = 32
has_batch_norm = true
"""
TRAINED = 900  # The rest judges
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Digits:
    """Frames (n, 32, 32, 3) with labels (n,), in two parts, and weights trained on the first."""

    frames: Images
    labels: NDArray[np.int64]
    held_frames: Images
    held_labels: NDArray[np.int64]
    weights: dict[str, NDArray[Any]]


def train_digits(*, epochs: int = 6) -> Digits:
    """Return digits and a network that knows about 97 of 100."""
    torch.set_num_threads(1)
    source = load_digits()
    gray = (source.images * 15.9).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    frames = np.repeat(gray[..., None], 3, axis=3)  # (n, 32, 32, 3)
    labels = source.target.astype(np.int64)
    spec = parse_spec(SPEC)
    module = build_network(parse_network(NETWORK), spec, seed=1)
    inputs = torch.from_numpy(np.concatenate([to_tensor(one, spec) for one in frames[:TRAINED]]))
    wanted = torch.from_numpy(labels[:TRAINED])
    optimiser = torch.optim.Adam(module.parameters(), lr=2e-3)
    random = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for chosen in torch.randperm(TRAINED, generator=random).split(32):
            loss = nn.functional.cross_entropy(module(inputs[chosen]), wanted[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    weights = {n: t.detach().numpy().copy() for n, t in module.state_dict().items()}
    return Digits(frames[:TRAINED], labels[:TRAINED], frames[TRAINED:], labels[TRAINED:], weights)


def evaluation_npz(frames: Images, labels: NDArray[np.int64], slices: Any = None) -> bytes:
    """Return an evaluation set's file."""
    buffer = BytesIO()
    arrays = {"items": frames, "labels": labels}
    if slices is not None:
        arrays["slices"] = np.asarray(slices)
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def weights_npz(weights: dict[str, NDArray[Any]]) -> bytes:
    """Return weights' file."""
    return encode_weights(weights)


def checkpoint_of(weights: dict[str, NDArray[Any]]) -> Checkpoint:
    """Return weights as a checkpoint that is in no store."""
    return Checkpoint(
        checkpoint_id=CheckpointId("ckpt-digits"),
        model=ModelName("digits"),
        spec=parse_spec(SPEC),
        network=parse_network(NETWORK),
        weights_digest=digest_weights(weights),
        parameters_count=sum(array.size for array in weights.values()),
        lineage_id=LineageId("line-digits"),
        origin="uploaded",
        created_ms=1,
    )
