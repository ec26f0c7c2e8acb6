"""What a RoundStore and a ServerStep make of replies is what Flower's own classes make of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
)

from cloud_hub.training import order
from cloud_hub.training.aggregation.checks import UpdateChecks
from cloud_hub.training.aggregation.entry import Aggregate, UpdateEntry
from cloud_hub.training.aggregation.file_round_store import RoundStore
from cloud_hub.training.aggregation.flwr_strategies import ServerStep, reply_of
from shared.errors import ContractError
from shared.model.weights import Field, Layout, Vector, flatten, unflatten

LAYOUT = Layout((Field("a", (7, 5), 0), Field("b", (), 35), Field("c", (2, 3, 4), 36)))
DEVICES = 9
ROUNDS = 3
# Nothing is capped or refused: the comparison is of the arithmetic.
OPEN = order.CheckSettings(norm_max=1e9, weight_share_max=1.0)
PAIRS: list[tuple[order.Strategy, FedAvg]] = [
    (order.MeanStrategy(), FedAvg()),
    (order.MomentumStrategy(server_learning_rate=0.7), FedAvgM(
        server_learning_rate=0.7, server_momentum=0.9)),
    (order.AdaptiveStrategy(), FedAdam()),
    (order.YogiStrategy(), FedYogi(eta=0.1, beta_1=0.9, beta_2=0.99)),
    (order.AdagradStrategy(), FedAdagrad()),
    (order.MedianStrategy(), FedMedian()),
    (order.TrimmedStrategy(), FedTrimmedAvg(beta=0.2)),
    (order.KrumStrategy(malicious_count=2), Krum(num_malicious_nodes=2)),
    (order.MultiKrumStrategy(malicious_count=2, selected_count=4), MultiKrum(
        num_malicious_nodes=2, num_nodes_to_select=4)),
    (order.BulyanStrategy(malicious_count=1), Bulyan(num_malicious_nodes=1)),
    (order.FairStrategy(), QFedAvg(client_learning_rate=0.1, q=0.2)),
]  # fmt: skip


def _name(value: object) -> str:
    return type(value).__name__


def _entries(round_number: int) -> list[UpdateEntry]:
    rng = np.random.default_rng(round_number)
    return [
        UpdateEntry(
            f"d{i}",
            (rng.standard_normal(LAYOUT.size) * 0.1).astype(np.float32),
            samples_count=int(rng.integers(1, 500)),
            loss=float(rng.uniform(0.1, 3.0)),
        )
        for i in range(DEVICES)
    ]


def _record(vector: Vector) -> ArrayRecord:
    return ArrayRecord({name: Array(np.array(a)) for name, a in unflatten(vector, LAYOUT).items()})


def _replies(weights: Vector, entries: Sequence[UpdateEntry]) -> list[Message]:
    return [
        reply_of(
            RecordDict(
                {
                    "arrays": _record(weights + e.vector),
                    "metrics": MetricRecord(
                        {"num-examples": e.samples_count or 0, "train_loss": e.loss or 0.0}
                    ),
                }
            )
        )
        for e in entries
    ]


def _flower(strategy: Any, number: int, weights: Vector, replies: list[Message]) -> Vector:
    """Return Flower's weights after a Round; what `configure_train` would set is set first."""
    if isinstance(strategy, FedAvgM | QFedAvg):
        strategy.current_arrays = _record(weights)
    elif hasattr(strategy, "current_arrays"):
        strategy.current_arrays = dict(unflatten(weights, LAYOUT))
    arrays, _ = strategy.aggregate_train(number, replies)
    assert arrays is not None
    return flatten({name: array.numpy() for name, array in arrays.items()}, LAYOUT)


def _aggregate(folder: Path, strategy: order.Strategy, entries: Sequence[UpdateEntry]) -> Aggregate:
    store = RoundStore(
        folder, LAYOUT, strategy, checks=UpdateChecks(OPEN), late=order.LateSettings()
    )
    store.restore()
    for entry in entries:
        store.add(entry)
    return store.close()


@pytest.mark.parametrize(("ours", "flowers"), PAIRS, ids=_name)
def test_every_strategy_gives_what_flower_gives(
    tmp_path: Path, ours: order.Strategy, flowers: FedAvg
) -> None:
    weights = np.random.default_rng(99).standard_normal(LAYOUT.size).astype(np.float32)
    step = ServerStep.for_strategy(ours, LAYOUT)
    for number in range(1, ROUNDS + 1):
        entries = _entries(number)
        expected = _flower(flowers, number, weights, _replies(weights, entries))
        aggregate = _aggregate(tmp_path / str(number), ours, entries)
        weights = step.apply(weights, aggregate)
        np.testing.assert_allclose(weights, expected, atol=3e-5)
        assert weights.dtype == np.float32
        weights = expected


@pytest.mark.parametrize("strategy", [pair[0] for pair in PAIRS], ids=_name)
def test_a_restored_step_goes_on_bit_for_bit(strategy: order.Strategy) -> None:
    weights = np.ones(LAYOUT.size, np.float32)
    straight = ServerStep.for_strategy(strategy, LAYOUT)
    resumed = ServerStep.for_strategy(strategy, LAYOUT)
    one = other = weights
    for number in range(1, 5):
        vector = _entries(number)[0].vector
        aggregate = Aggregate(vector, ("d",), 1.0, 1.0)
        one = straight.apply(one, aggregate)
        other = resumed.apply(other, aggregate)
        assert one.tobytes() == other.tobytes()
        state = {name: array.copy() for name, array in resumed.state().items()}
        resumed = ServerStep.for_strategy(strategy, LAYOUT)
        resumed.restore(state)


def test_the_state_matters() -> None:
    aggregate = Aggregate(np.ones(LAYOUT.size, np.float32), ("d",), 1.0, 1.0)
    weights = np.zeros(LAYOUT.size, np.float32)
    for strategy, _ in PAIRS[1:5]:
        step = ServerStep.for_strategy(strategy, LAYOUT)
        first = step.apply(weights, aggregate)
        assert step.apply(weights, aggregate).tobytes() != first.tobytes()


def test_a_state_of_another_model_is_refused() -> None:
    step = ServerStep.for_strategy(order.AdaptiveStrategy(), LAYOUT)
    step.apply(
        np.zeros(LAYOUT.size, np.float32), Aggregate(np.ones(LAYOUT.size, np.float32), (), 1, 1)
    )
    state = step.state()
    del state["step.m.a"]
    with pytest.raises(ContractError, match="not of this model"):
        ServerStep.for_strategy(order.AdaptiveStrategy(), LAYOUT).restore(state)
    with pytest.raises(ContractError, match="counts no steps"):
        step.restore({})
