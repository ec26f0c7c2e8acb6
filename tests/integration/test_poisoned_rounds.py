"""One device of a Job sends poison, over whole Jobs: what that costs in accuracy on real digits.

Everything a real answer goes through is gone through: codec, checks, store, strategy, checkpoint.
"""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from cloud_hub.training import order
from cloud_hub.training.fleet import Answer, AskId, Reply
from cloud_hub.training.rounds import RoundLoop
from shared.learning.task import LearningTask, TaskKind
from shared.learning.update_codec import encode_update
from shared.model.weights import Array, Weights, layout_of
from tests.support.manual_clock import ManualClock
from tests.support.played_fleet import DEVICES, PlayedFleet, make_job

pytestmark = pytest.mark.slow
CLASSES, PIXELS, ROUNDS, STEPS = 10, 64, 10, 40
TRAINED = 1300  # The rest of the digits, on no device, judges
FIRST = {"w": np.zeros((PIXELS + 1, CLASSES), np.float32)}
LIAR = "b"
MEAN = order.MeanStrategy()
ROBUST = [
    order.MedianStrategy(),
    order.TrimmedStrategy(),
    order.KrumStrategy(),
    order.MultiKrumStrategy(),
    order.BulyanStrategy(),
]
TURNED = ("sign", "flipped")  # Of the usual size: they count
# attack: the code by which the liar is refused
REFUSED = {"nan": "update.not_finite", "scaled": "update.norm", "misshapen": "update.shape"}
Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@functools.cache
def digits() -> tuple[Floats, Labels]:
    """Return pixels and a one (n, 65), 0..1, and labels (n,), in an order without meaning."""
    source = load_digits()
    x = np.hstack([source.data / 16.0, np.ones((len(source.data), 1))])
    places = np.random.default_rng(0).permutation(len(x))
    return x[places], source.target[places].astype(np.int64)


def trained(weights: Array, x: Floats, y: Labels) -> NDArray[np.float32]:
    """Return the update (65 * 10,) of STEPS steps of softmax regression."""
    w = weights.astype(np.float64)
    wanted = np.eye(CLASSES)[y]
    for _ in range(STEPS):
        scores = np.exp(x @ w - (x @ w).max(axis=1, keepdims=True))
        w = w - 0.5 * x.T @ (scores / scores.sum(axis=1, keepdims=True) - wanted) / len(x)
    return (w - weights).astype(np.float32).ravel()


class DigitsFleet(PlayedFleet):
    """Its devices train on digits of their own; LIAR sends what the attack makes of that."""

    def __init__(self, clock: ManualClock, devices: tuple[str, ...], attack: str) -> None:
        super().__init__(clock, devices)
        self._attack = attack
        self._parts = dict(
            zip(devices, np.array_split(np.arange(TRAINED), len(devices)), strict=True)
        )

    def _answer(self, ask: AskId, device: str, task: LearningTask, weights: Weights) -> Answer:
        answer = super()._answer(ask, device, task, weights)
        if task.kind is not TaskKind.TRAIN:
            return answer
        assert isinstance(answer, Reply)
        x, y = (each[self._parts[device]] for each in digits())
        attack = self._attack if device == LIAR else ""
        update = trained(weights["w"], x, 9 - y if attack == "flipped" else y)
        arrays: dict[str, Array] = encode_update(update, layout_of(weights), task.encoding).arrays
        match attack:
            case "nan":
                arrays["w"] = np.full_like(arrays["w"], np.nan)
            case "scaled":
                arrays["w"] = arrays["w"] * np.float32(-1000.0)
            case "misshapen":
                arrays["w"] = np.ascontiguousarray(arrays["w"].T)
            case "sign":
                arrays["w"] = -arrays["w"]
            case _:
                pass
        return replace(answer, arrays=arrays)


def accuracy(folder: Path, strategy: order.Strategy, attack: str) -> tuple[float, set[str]]:
    """Return what a Job comes to on held-out digits, and the codes by which LIAR was refused."""
    devices: tuple[str, ...] = DEVICES
    if isinstance(strategy, order.BulyanStrategy):
        devices = (*DEVICES, "f", "g")  # 4f + 3
    wanted: dict[str, Any] = {"strategy": strategy, "rounds": ROUNDS, "devices": devices}
    files = make_job(folder / "job", weights=FIRST, **wanted)
    clock = ManualClock()
    result = RoundLoop(files, DigitsFleet(clock, devices, attack), clock).run()
    assert (result.code, result.rounds_done) == ("job.completed", ROUNDS), result.text
    refused = [event for event in files.read_events() if event.code == "update.refused"]
    assert {event.device for event in refused} <= {LIAR}
    x, y = (each[TRAINED:] for each in digits())
    share = float(((x @ files.read_checkpoint()["w"]).argmax(axis=1) == y).mean())
    return share, {event.text.partition(":")[0] for event in refused}


@functools.cache
def clean_accuracy(strategy: type[order.Strategy]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return accuracy(Path(folder), strategy(), "none")[0]


@pytest.mark.parametrize("attack", [*REFUSED, *TURNED])
@pytest.mark.parametrize("strategy", [MEAN, *ROBUST], ids=lambda s: type(s).__name__)
def test_one_poisoned_device_of_five_costs_at_most_two_points(
    tmp_path: Path, strategy: order.Strategy, attack: str
) -> None:
    clean = clean_accuracy(type(strategy))
    assert clean > 0.9
    found, codes = accuracy(tmp_path, strategy, attack)
    # No check of norms sees a direction: what is turned but of the usual size keeps its fifth of a
    # plain mean. That is what the robust strategies are for.
    is_turned = attack in TURNED
    allowed = 0.05 if strategy == MEAN and is_turned else 0.02
    assert found >= clean - allowed
    if is_turned:  # Once the others have little left to learn, its size may give it away after all.
        assert codes <= {"update.norm"}
    else:
        assert codes == {REFUSED[attack]}
