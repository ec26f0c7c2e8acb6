"""One task with real torch and real files: what leaves, what stays, and that it is done once."""

import itertools
import os
import signal
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import torch

from edge_agent.training.file_ledger import open_ledger
from edge_agent.training.file_replies import FileReplies
from edge_agent.training.node_files import ORDER, REPLIES, NodeOrder
from edge_agent.training.torch_task import TorchTask, clip_update
from edge_agent.training.torch_trainer import measure, train
from edge_agent.training.warm_training import WarmTraining
from shared.learning.task import Encoding, LocalMethod, LocalPrivacy, OptimiserName
from shared.learning.update_codec import decode_update
from shared.model.network import ConvolutionNetwork, NetworkSpec
from shared.model.torch_networks import build_network
from shared.model.weights import encode_weights, flatten, layout_of, unflatten
from tests.support.killed_rounds import Instants, in_child
from tests.support.learning_digits import (
    NETWORK,
    SPEC,
    first_weights,
    settings_for,
    task_for,
    write_digits,
    write_key,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
torch.set_num_threads(1)


def _task(folder: Path, **more: object) -> TorchTask:
    if not (folder / "digits.npz").exists():
        write_digits(folder / "digits.npz")
        write_key(folder / "device.key")
    settings = settings_for(folder / "digits.npz", **more)
    ledger = open_ledger(folder / "learning", folder / "device.key", settings.privacy)
    return TorchTask(folder / "learning", settings, ledger)


@pytest.mark.parametrize("name", OptimiserName)
def test_the_local_optimisers_do_what_torch_does(name: OptimiserName) -> None:
    method = LocalMethod(
        epochs=3, batch_size=8, optimiser=name, learning_rate=0.01, momentum=0.9, weight_decay=0.01
    )
    items, labels = torch.rand(24, 1, 8, 8), torch.arange(24) % 10
    ours, theirs = build_network(NETWORK, SPEC, seed=3), build_network(NETWORK, SPEC, seed=3)
    train(ours, items, labels, method, spec=SPEC, seed=5)
    if name is OptimiserName.SGD:
        optimiser: torch.optim.Optimizer = torch.optim.SGD(
            theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01
        )
    else:
        optimiser = torch.optim.Adam(theirs.parameters(), lr=0.01, weight_decay=0.01)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        for chosen in torch.randperm(24, generator=generator).split(8):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(theirs(items[chosen]), labels[chosen]).backward()
            optimiser.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_a_proximal_term_holds_the_weights_back() -> None:
    moved = []
    for mu in (0.0, 10.0):
        network = build_network(NETWORK, SPEC, seed=3)
        before = [p.detach().clone() for p in network.parameters()]
        method = LocalMethod(epochs=5, batch_size=8, learning_rate=0.05, proximal_mu=mu)
        train(network, torch.rand(24, 1, 8, 8), torch.arange(24) % 10, method, spec=SPEC)
        after = network.parameters()
        moved.append(
            sum(float((p.detach() - q).norm()) for p, q in zip(after, before, strict=True))
        )
    assert moved[1] < moved[0] / 2


def test_training_makes_it_better_and_asking_again_costs_nothing(tmp_path: Path) -> None:
    weights = first_weights()
    answer = _task(tmp_path).run(task_for(weights), weights)
    assert answer.metrics["accuracy_after"] > answer.metrics["accuracy_before"] + 0.2
    again = _task(tmp_path).run(task_for(weights), weights)  # As another process would
    assert again.reply == answer.reply
    assert again.metrics == answer.metrics
    assert all(np.array_equal(again.update[n], a) for n, a in answer.update.items())


def test_what_the_owner_forbids_is_not_told(tmp_path: Path) -> None:
    weights = first_weights()
    forbidden = ("samples_count", "loss")
    metrics = _task(tmp_path, measurements_forbidden=forbidden).run(task_for(weights), weights)
    assert set(metrics.metrics) & set(forbidden) == set()
    assert "accuracy_after" in metrics.metrics


def test_with_local_privacy_only_noised_numbers_leave(tmp_path: Path) -> None:
    weights = first_weights()
    privacy = LocalPrivacy(clip_norm=0.5, noise_multiplier=1.0)
    answer = _task(tmp_path).run(task_for(weights, privacy=privacy), weights)
    assert not {"loss", "accuracy_before", "accuracy_after"} & set(answer.metrics)
    assert answer.residual is None
    assert answer.reply.is_noised
    assert answer.reply.epsilon_spent is not None
    assert answer.reply.epsilon_spent > 0
    layout = layout_of(weights)
    vector = decode_update(answer.update, layout, Encoding.FP32)
    deviation = float(vector.std())  # Clipped to 0.5 in all, the update itself hardly counts
    assert deviation == pytest.approx(0.5, rel=0.05)


def test_what_int8_lost_is_in_the_next_update(tmp_path: Path) -> None:
    weights = first_weights()
    task = _task(tmp_path)
    first = task.run(task_for(weights, encoding=Encoding.INT8), weights)
    assert first.residual is not None
    assert float(np.abs(first.residual).max()) > 0
    second = task.run(task_for(weights, encoding=Encoding.INT8, round=2), weights)
    (tmp_path / "fresh").mkdir()
    exact = _task(tmp_path / "fresh").run(task_for(weights, round=2), weights)
    layout = layout_of(weights)
    assert second.residual is not None
    carried = decode_update(second.update, layout, Encoding.INT8) + second.residual
    trained = decode_update(exact.update, layout, Encoding.FP32)
    assert np.allclose(carried, trained + first.residual, atol=1e-6)
    assert not np.allclose(carried, trained, atol=1e-6)


def test_personal_parameters_stay_and_are_used_again(tmp_path: Path) -> None:
    network = NetworkSpec(
        architecture=ConvolutionNetwork(channels=(8, 16), hidden=32, has_batch_norm=True),
        personal=("1.",),
    )
    weights = first_weights(network)
    task = _task(tmp_path)
    answer = task.run(task_for(weights, network=network), weights)
    assert set(answer.update) == set(weights)
    assert not any(name.startswith("1.") or "num_batches" in name for name in answer.update)
    layout = layout_of(weights)
    moved = flatten(weights, layout) + decode_update(answer.update, layout, Encoding.FP32)
    base = {name: array.copy() for name, array in unflatten(moved, layout).items()}
    second = task.run(task_for(base, network=network, round=2), base)
    assert answer.metrics["accuracy_after"] > answer.metrics["accuracy_before"]
    assert second.metrics["accuracy_before"] == answer.metrics["accuracy_after"]


def test_a_kill_at_any_instant_of_a_task_pays_once_and_lets_one_answer_leave(
    tmp_path: Path,
) -> None:
    write_digits(tmp_path / "digits.npz", count=40)
    write_key(tmp_path / "device.key")
    weights = first_weights()
    asked = task_for(
        weights,
        method=LocalMethod(epochs=1),
        privacy=LocalPrivacy(clip_norm=1.0, noise_multiplier=2.0),
    )
    settings = settings_for(tmp_path / "digits.npz")

    def run(state: Path, kill_at: int) -> bool:
        def work() -> None:
            ledger = open_ledger(state / "learning", state / "device.key", settings.privacy)
            task = TorchTask(state / "learning", settings, ledger)
            Instants(kill_at)
            task.run(asked, weights)

        return in_child(work)

    killed_with: list[bool] = []
    for instant in itertools.count(1):
        state = tmp_path / f"{instant}"
        state.mkdir()
        (state / "device.key").write_bytes((tmp_path / "device.key").read_bytes())
        replies = FileReplies(state / "learning" / REPLIES)
        if run(state, instant):
            break
        ledger = open_ledger(state / "learning", state / "device.key", settings.privacy)
        left = replies.find(asked)
        if left is not None:
            assert ledger.content().count == 1, f"{instant}: it may leave, and is not paid for"
        killed_with.append(left is not None)
        assert run(state, 0), instant
        after = replies.find(asked)
        assert after is not None
        assert ledger.content().count == 1, f"{instant}: paid for twice"
        if left is not None:
            assert encode_weights(after.update) == encode_weights(left.update), instant
            assert after.reply == left.reply
        assert not list((state / "learning").rglob(".*.tmp")), instant
    assert len(killed_with) > 15
    assert killed_with.count(True) >= 1


def test_a_norm_is_clipped() -> None:
    update = np.full(100, 3.0, np.float32)
    assert float(np.linalg.norm(clip_update(update, 2.0))) == pytest.approx(2.0)
    assert np.array_equal(clip_update(update, 1000.0), update)


def test_measuring_leaves_the_network_as_it_is() -> None:
    network = build_network(NETWORK, SPEC, seed=3)
    measured = measure(network, torch.rand(10, 1, 8, 8), torch.arange(10), spec=SPEC)
    assert network.training
    assert measured.items_count == 10


def _warm(folder: Path) -> WarmTraining:
    _task(folder)
    learning = folder / "learning"
    learning.mkdir(exist_ok=True)
    order = NodeOrder(
        device="device-1",
        jobs=("job-1",),
        address="127.0.0.1:1",
        ca_path="",
        key_path=str(folder / "device.key"),
        settings=settings_for(folder / "digits.npz"),
        until_ms=2**50,
    )
    (learning / ORDER).write_bytes(msgspec.json.encode(order))
    return WarmTraining(learning)


def test_a_child_that_is_killed_is_told_with_its_cause_and_the_next_one_works(
    tmp_path: Path,
) -> None:
    warm, weights = _warm(tmp_path), first_weights()
    try:
        long = task_for(weights, method=LocalMethod(epochs=1000))
        warm.start(long, weights)
        assert warm._process is not None
        zygote = psutil.Process(warm._process.pid)
        child = wait_until(zygote.children, seconds_max=20)[0]
        os.kill(child.pid, signal.SIGKILL)
        outcome = wait_until(lambda: warm.wait(0.1), seconds_max=2)
        assert (outcome.code, "SIGKILL" in outcome.text) == ("training.killed", True)
        warm.start(task_for(weights), weights)
        outcome = wait_until(lambda: warm.wait(0.1), seconds_max=20)
        assert outcome.code == "", outcome.text
        assert list((tmp_path / "learning" / "replies").glob("job-1.train.npz"))
        warm.start(task_for(weights, job="job-2", method=LocalMethod(epochs=1000)), weights)
        child = wait_until(zygote.children, seconds_max=20)[0]
        os.kill(zygote.pid, signal.SIGKILL)
        wait_until(lambda: not child.is_running() or child.status() == "zombie", seconds_max=5)
    finally:
        warm.close()


@pytest.mark.slow
def test_a_task_is_told_apart_from_the_loading_of_torch_before_it(tmp_path: Path) -> None:
    warm, weights = _warm(tmp_path), first_weights()
    try:
        for is_loaded in (False, True):
            warm.start(task_for(weights, method=LocalMethod(epochs=1)), weights)
            assert warm.is_ready is is_loaded
            outcome = warm.wait(60.0)
            assert outcome is not None
            assert outcome.code == ""
            assert warm.is_ready
        warm.close()
        assert not warm.is_ready
    finally:
        warm.close()
