"""A small real task for tests of learning: scikit-learn's 8x8 digits."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from edge_agent.training.settings import LearningSettings, SampleFormat, SampleSettings
from shared.learning.task import LearningTask, LocalMethod, TaskKind
from shared.model.network import ConvolutionNetwork, NetworkSpec
from shared.model.spec import Colour, Decoder, ImageInput, ModelSpec, OutputSpec, Task
from shared.model.torch_networks import build_network
from shared.model.weights import Array, digest_weights

SPEC = ModelSpec(
    model="digits",
    task=Task.CLASSIFICATION,
    input=ImageInput(width=8, height=8, colour=Colour.GRAY, scale=(255.0,)),
    output=OutputSpec(decoder=Decoder.LOGITS, classes=tuple("0123456789")),
)
NETWORK = NetworkSpec(architecture=ConvolutionNetwork(channels=(8, 16), hidden=32))
METHOD = LocalMethod(epochs=8, batch_size=16, learning_rate=0.03, momentum=0.9)


def digits(chosen: slice) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (n, 8, 8), gray, and their labels (n,)."""
    source = load_digits()
    return (source.images[chosen] * 15).astype(np.uint8), source.target[chosen].astype(np.int64)


def write_digits(path: Path, *, count: int = 400, start: int = 0, step: int = 1) -> None:
    """Write some of the first `count` digits as a device's samples."""
    images, labels = digits(slice(start, count, step))
    np.savez(path, items=images, labels=labels)


def write_key(path: Path) -> None:
    """Write a key as a device enrols with."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def settings_for(path: Path, **more: object) -> LearningSettings:
    entry = SampleSettings(model="digits", path=str(path), format=SampleFormat.NPZ)
    return LearningSettings(samples=(entry,), **more)  # type: ignore[arg-type]


def first_weights(network: NetworkSpec = NETWORK) -> dict[str, NDArray[np.float32]]:
    """Return the shared arrays of freshly drawn weights."""
    state = build_network(network, SPEC, seed=1).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    return {n: a for n, a in arrays.items() if a.dtype.kind == "f" and not network.is_personal(n)}


def task_for(weights: Mapping[str, Array], **more: object) -> LearningTask:
    fields: dict[str, object] = {
        "job": "job-1",
        "round": 1,
        "kind": TaskKind.TRAIN,
        "base_digest": digest_weights(weights),
        "spec": SPEC,
        "network": NETWORK,
        "method": METHOD,
    }
    return LearningTask(**(fields | more))  # type: ignore[arg-type]
