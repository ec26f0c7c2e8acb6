"""What smaller updates cost: whole Jobs of real training that differ only in how updates travel."""

from pathlib import Path

import pytest
import torch

from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.job_folder import JobPlan
from cloud_hub.training.order import JobOrder
from cloud_hub.training.rounds import RoundLoop
from edge_agent.training.torch_trainer import measure
from shared.learning.task import Encoding, LocalMethod
from shared.model.preprocess import to_tensor
from shared.model.torch_networks import build_network
from shared.model.weights import encode_weights
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
