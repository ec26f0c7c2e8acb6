"""Boxes are learned: an SSD finds coloured squares, and what nobody has boxed teaches nothing."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cloud_hub.training.trainer.spec import SupervisedMethod
from cloud_hub.training.trainer.torch_objective import Targets
from shared.model.metrics import mean_average_precision
from shared.model.network import NetworkSpec, SsdNetwork
from shared.model.postprocess import Boxes, detected_boxes
from shared.model.preprocess import place
from shared.model.spec import Colour, Decoder, ImageInput, ModelSpec, OutputSpec, Task
from shared.model.torch_detector import DetectorNetwork
from shared.model.torch_networks import build_network
from tests.support.small_training import objective_for, spec_for, train

SIDE = 48
PICTURE = ImageInput(width=SIDE, height=SIDE, colour=Colour.RGB, scale=(255.0,))
SQUARES = ModelSpec(
    model="squares",
    task=Task.DETECTION,
    input=PICTURE,
    output=OutputSpec(decoder=Decoder.SSD_CORNERS, classes=("red", "green", "blue")),
)
NETWORK = NetworkSpec(
    architecture=SsdNetwork(channels=(8, 24, 32), maps=2, scales=(0.25, 0.4), ratios=(1.0,))
)
SPEC = spec_for(SQUARES, NETWORK, SupervisedMethod())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_coloured_squares_are_found() -> None:
    pictures, boxes = squares(200, seed=0)
    unseen, truth = squares(80, seed=1)
    fresh = build_network(NETWORK, SQUARES).eval()
    targets = Targets(torch.full((200,), -1), boxes, torch.ones(200, dtype=torch.bool))
    net = train(SPEC, pictures, targets, epochs=12, batch=16, learning_rate=0.01)
    before, after = precision(fresh, unseen, truth), precision(net, unseen, truth)
    print(f"mean average precision {before:.3f} -> {after:.3f}")
    assert before < 0.1
    assert after > 0.8


def test_pictures_that_nobody_has_boxed_teach_nothing() -> None:
    pictures, boxes = squares(8, seed=2)
    is_boxed = torch.tensor([True, False] * 4)
    net = build_network(NETWORK, SQUARES).eval()
    objective = objective_for(SPEC, net, torch.full((8,), -1))
    pictures.requires_grad_()
    targets = Targets(torch.full((8,), -1), boxes, is_boxed)
    objective.loss(net, (pictures,), targets, epoch=0.0).backward()  # type: ignore[no-untyped-call]
    assert pictures.grad is not None
    reached = pictures.grad.flatten(1).abs().sum(1) > 0
    assert torch.equal(reached, is_boxed)


def test_pictures_without_boxes_teach_that_nothing_is_there() -> None:
    pictures, boxes = squares(8, seed=2)
    net = build_network(NETWORK, SQUARES).train()
    objective = objective_for(SPEC, net, torch.full((8,), -1))
    nothing = Targets(torch.full((8,), -1), torch.full_like(boxes, -1.0))
    loss = objective.loss(net, (pictures,), nothing, epoch=0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss.detach())
    assert float(loss.detach()) > 0.0
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_a_perfect_detector_has_next_to_no_loss() -> None:
    pictures, boxes = squares(8, seed=3)
    targets = Targets(torch.full((8,), -1), boxes)
    net = build_network(NETWORK, SQUARES).train()
    assert isinstance(net, DetectorNetwork)
    objective = objective_for(SPEC, net, targets.labels)

    class Knows(nn.Module):
        """Answers what the objective itself aims at, found by descending its loss."""

        def __init__(self, like: tuple[Tensor, Tensor]) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros_like(like[0]))
            self.offsets = nn.Parameter(torch.zeros_like(like[1]))

        def forward(self, _: Tensor) -> tuple[Tensor, Tensor]:
            return self.logits, self.offsets

    knows = Knows(net(pictures))
    optimiser = torch.optim.Adam(knows.parameters(), lr=0.3)
    for _ in range(250):
        loss = objective.loss(knows, (pictures,), targets, epoch=0.0)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert float(loss.detach()) < 0.05


def test_the_loss_is_the_same_in_evaluation_mode() -> None:
    pictures, boxes = squares(8, seed=4)
    targets = Targets(torch.full((8,), -1), boxes)
    net = build_network(NETWORK, SQUARES)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # Statistics of the last batch
    objective = objective_for(SPEC, net, targets.labels)
    with torch.no_grad():
        net.train()
        training = objective.loss(net, (pictures,), targets, epoch=0.0)
        evaluated = objective.loss(net.eval(), (pictures,), targets, epoch=0.0)
    torch.testing.assert_close(evaluated, training, rtol=0.05, atol=0.0)


def squares(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy pictures with up to two coloured squares, and their boxes (count, 2, 5)."""
    luck = np.random.default_rng(seed)
    pictures = luck.uniform(0.3, 0.6, (count, 3, SIDE, SIDE)).astype(np.float32)
    boxes = np.full((count, 2, 5), -1.0, np.float32)
    for index in range(count):
        for half in range(luck.integers(0, 3)):
            size, colour = luck.integers(10, 21), luck.integers(3)
            left = luck.integers(0, SIDE // 2 - size + 1) + half * SIDE // 2
            top = luck.integers(0, SIDE - size)
            inside = (slice(top, top + size), slice(left, left + size))
            pictures[index, :, *inside] = 0.1
            pictures[index, colour, *inside] = 0.95
            corners = np.array([left, top, left + size, top + size]) / SIDE
            boxes[index, half] = (colour, *corners)
    return torch.from_numpy(pictures), torch.from_numpy(boxes)


def precision(net: nn.Module, pictures: Tensor, boxes: Tensor) -> float:
    with torch.no_grad():
        scores, corners = net(pictures)
    placement = place(SIDE, SIDE, PICTURE)
    found = [
        detected_boxes(
            (scores[index : index + 1].numpy(), corners[index : index + 1].numpy()),
            SQUARES,
            placement=placement,
            confidence_min=0.05,
        )
        for index in range(len(pictures))
    ]
    there = [rows[rows[:, 0] >= 0] for rows in boxes.numpy()]
    true = [Boxes(r[:, 1:], np.ones(len(r), np.float32), r[:, 0].astype(np.int64)) for r in there]
    return mean_average_precision(found, true, classes_count=3)
