"""What smaller updates cost: whole Jobs of real training that differ only in how updates travel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.job_folder import JobPlan
from cloud_hub.training.order import JobOrder
from cloud_hub.training.rounds import RoundLoop
from edge_agent.training.torch_trainer import measure
from shared.learning.task import Encoding, LocalMethod
from shared.learning.update_codec import decode_update, encode_update
from shared.model.preprocess import to_tensor
from shared.model.torch_networks import build_network
from shared.model.weights import Field, Layout, Vector, encode_weights
from tests.support.learning_digits import (
    NETWORK,
    SPEC,
    digits,
    first_weights,
    settings_for,
    write_digits,
)
from tests.support.manual_clock import ManualClock
from tests.support.torch_fleet import TorchFleet

pytestmark = pytest.mark.slow
torch.set_num_threads(1)
DEVICES = ("a", "b", "c")
TRAINED = 1200  # The rest of the digits, on no device, judges
ROUNDS = 10
METHOD = LocalMethod(epochs=1, batch_size=16, learning_rate=0.05, momentum=0.9)


def learn(folder: Path, encoding: Encoding) -> tuple[float, float]:
    """Return the accuracy that a Job comes to, and the bytes that devices sent for it."""
    folder.mkdir()
    settings = {}
    for number, device in enumerate(DEVICES):
        path = folder / f"{device}.npz"
        write_digits(path, count=TRAINED, start=number, step=len(DEVICES))
        settings[device] = settings_for(path)
    files = JobFiles(folder / "job")
    order = JobOrder(
        model="digits", devices=DEVICES, rounds=ROUNDS, encoding=encoding, method=METHOD
    )
    plan = JobPlan(
        job="job-1",
        order=order,
        spec=SPEC,
        network=NETWORK,
        devices=DEVICES,
        standing_path=str(folder / "standing.json"),
    )
    files.create(plan, encode_weights(first_weights()))
    clock = ManualClock()
    result = RoundLoop(files, TorchFleet(folder, settings, clock), clock).run()
    assert (result.code, result.rounds_done) == ("job.completed", ROUNDS), result.text
    closed = [event for event in files.read_events() if event.code == "round.closed"]
    assert [event.numbers["devices_counted"] for event in closed] == [len(DEVICES)] * ROUNDS
    return accuracy_of(files), sum(event.numbers["bytes_up"] for event in closed)


def accuracy_of(files: JobFiles) -> float:
    weights, _ = files.read_round(ROUNDS)
    network = build_network(NETWORK, SPEC)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    images, labels = digits(slice(TRAINED, None))
    tensors = [torch.from_numpy(to_tensor(image[..., None].repeat(3, 2), SPEC)) for image in images]
    accuracy = measure(network, torch.cat(tensors), torch.from_numpy(labels), spec=SPEC).accuracy
    assert accuracy is not None
    return accuracy


def test_int8_updates_cost_a_quarter_of_the_bytes_and_less_than_a_point(tmp_path: Path) -> None:
    full, full_bytes = learn(tmp_path / "fp32", Encoding.FP32)
    small, small_bytes = learn(tmp_path / "int8", Encoding.INT8)
    assert full > 0.85, "it has learned"
    assert small > full - 0.01
    assert full != small, "rounding was there"
    assert 0.25 <= small_bytes / full_bytes < 0.26


# ---- What error feedback is for: a convex task, on which rounding is all that differs ------------

SKEWED_DEVICES, SKEWED_ROUNDS, STEPS = 5, 100, 5
REGRESSION = Layout((Field("w", (65, 10), 0),))


def regressed(encoding: Encoding, *, has_feedback: bool) -> Vector:
    """Return softmax weights that devices with two digits each come to, by FedAvg."""
    images, labels = digits(slice(0, TRAINED))
    pixels = images.reshape(len(images), 64).astype(np.float64) / 240.0
    x = np.hstack([pixels, np.ones((len(pixels), 1))])
    parts = np.array_split(np.argsort(labels, kind="stable"), SKEWED_DEVICES)
    residuals = [np.zeros(REGRESSION.size, np.float32) for _ in parts]
    weights = np.zeros(REGRESSION.size, np.float32)
    for _ in range(SKEWED_ROUNDS):
        total = np.zeros(REGRESSION.size, np.float64)
        for device, part in enumerate(parts):
            update = softmax_update(weights, x[part], labels[part])
            if has_feedback:
                update = update + residuals[device]
            encoded = encode_update(update, REGRESSION, encoding)
            residuals[device] = encoded.residual
            total += decode_update(encoded.arrays, REGRESSION, encoding)
        weights = (weights + total / len(parts)).astype(np.float32)
    return weights


def softmax_update(weights: Vector, x: NDArray[np.float64], labels: NDArray[np.int64]) -> Vector:
    w = weights.astype(np.float64).reshape(65, 10)
    wanted = np.eye(10)[labels]
    for _ in range(STEPS):
        scores = np.exp(x @ w - (x @ w).max(axis=1, keepdims=True))
        w = w - 0.5 * x.T @ (scores / scores.sum(axis=1, keepdims=True) - wanted) / len(x)
    return (w.ravel() - weights).astype(np.float32)


def test_error_feedback_keeps_int8_on_the_way_that_fp32_takes() -> None:
    full = regressed(Encoding.FP32, has_feedback=False)
    with_it, without = (
        float(np.linalg.norm(regressed(Encoding.INT8, has_feedback=has) - full))
        / float(np.linalg.norm(full))
        for has in (True, False)
    )
    assert with_it < 0.001
    assert without > 10 * with_it
