"""ServerStep: how an aggregate changes the common weights, by Flower's own server optimisers.

1. FedAvgM, FedAdam, FedYogi and FedAdagrad are Flower's classes: each gets one synthetic reply that
   holds the weights plus the streamed mean, and does its step. The other strategies have nothing to
   do here but to add the aggregate.
2. Flower counts Rounds from 1 for FedAdam's bias correction; here the steps are counted, so that a
   Round that came to nothing does not move it.
3. Weights are float32 after every step. Flower's FedAdam lets float64 slip in and keep growing the
   record from Round to Round; up to that rounding the results are Flower's.
4. The state (momentum, second moment, steps) is arrays, in the type Flower keeps them in: what is
   restored goes on bit for bit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, Message, MessageType, Metadata, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi

from cloud_hub.training.aggregation.entry import Aggregate
from cloud_hub.training.order import (
    AdagradStrategy,
    AdaptiveStrategy,
    MomentumStrategy,
    Strategy,
    YogiStrategy,
)
from shared.errors import ContractError
from shared.model.weights import Array, Layout, Vector, flatten, unflatten

_PREFIX = "step."
_STEPS = "step.count"
_WEIGHT = "num-examples"
_Optimiser = FedAvgM | FedAdam | FedYogi | FedAdagrad


class ServerStep:
    """The server's optimiser of one Job, with its state."""

    def __init__(self, optimiser: _Optimiser | None, layout: Layout) -> None:
        """Args: optimiser: None adds the aggregate and does no more. See `for_strategy`."""
        self._optimiser = optimiser
        self._layout = layout
        self._steps_count = 0

    @classmethod
    def for_strategy(cls, strategy: Strategy, layout: Layout) -> "ServerStep":
        """Return the step of a strategy, with fresh state."""
        return cls(_optimiser_of(strategy), layout)

    def apply(self, weights: Vector, aggregate: Aggregate) -> Vector:
        """Return the weights after this Round (a new array). `weights` (N,) are as sent."""
        self._steps_count += 1
        moved = weights + aggregate.vector
        if self._optimiser is None:
            return moved
        self._set_current(weights)
        reply = self._reply(moved)
        arrays, _ = self._optimiser.aggregate_train(self._steps_count, [reply])
        assert arrays is not None
        return flatten({name: array.numpy() for name, array in arrays.items()}, self._layout)

    def state(self) -> dict[str, Array]:
        """Return all that a resumed Job needs, as arrays to put into one .npz."""
        state: dict[str, Array] = {_STEPS: np.array([self._steps_count], np.int64)}
        for kind, arrays in self._moments().items():
            state |= {f"{_PREFIX}{kind}.{name}": array for name, array in arrays.items()}
        return state

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take up a state; other names in it are ignored. Raises ContractError `step.misfit`."""
        steps = state.get(_STEPS)
        if steps is None or steps.shape != (1,):
            raise ContractError("step.misfit", "The state counts no steps.")
        moments = {kind: self._part(state, kind) for kind in self._kinds()}
        self._steps_count = int(steps[0])
        match self._optimiser:
            case None:
                pass
            case FedAvgM():
                momentum = moments["momentum"]
                self._optimiser.momentum_vector = list(momentum.values()) if momentum else None
            case _:
                self._optimiser.m_t = moments["m"] or None
                self._optimiser.v_t = moments["v"] or None

    def _kinds(self) -> tuple[str, ...]:
        match self._optimiser:
            case None:
                return ()
            case FedAvgM():
                return ("momentum",)
            case _:
                return ("m", "v")

    def _moments(self) -> dict[str, dict[str, Any]]:
        optimiser = self._optimiser
        if optimiser is None:
            return {}
        if not isinstance(optimiser, FedAvgM):
            return {"m": optimiser.m_t or {}, "v": optimiser.v_t or {}}
        if optimiser.momentum_vector is None:
            return {}
        names = [field.name for field in self._layout.fields]
        return {"momentum": dict(zip(names, optimiser.momentum_vector, strict=True))}

    def _part(self, state: Mapping[str, Array], kind: str) -> dict[str, Any]:
        found = {}
        for field in self._layout.fields:
            array = state.get(f"{_PREFIX}{kind}.{field.name}")
            if array is not None and array.shape == field.shape and array.dtype.kind == "f":
                found[field.name] = array
        if found and len(found) < len(self._layout.fields):
            raise ContractError("step.misfit", f"The state's {kind!r} is not of this model.")
        return found

    def _set_current(self, weights: Vector) -> None:
        """Tell Flower's class what the Round began with, as its `configure_train` would."""
        current = unflatten(weights, self._layout)
        if isinstance(self._optimiser, FedAvgM):
            self._optimiser.current_arrays = _record(current)
        elif self._optimiser is not None:
            self._optimiser.current_arrays = dict(current)

    def _reply(self, moved: Vector) -> Message:
        content = RecordDict(
            {
                "arrays": _record(unflatten(moved, self._layout)),
                "metrics": MetricRecord({_WEIGHT: 1.0}),
            }
        )
        return reply_of(content)


def reply_of(content: RecordDict) -> Message:
    """Return a reply of no node, for Flower's classes; theirs can be made only within a run."""
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1.0,
        message_type=MessageType.TRAIN,
    )
    return make_message(metadata, content)


def _optimiser_of(strategy: Strategy) -> _Optimiser | None:
    match strategy:
        case MomentumStrategy():
            return FedAvgM(
                server_learning_rate=strategy.server_learning_rate,
                server_momentum=strategy.server_momentum,
            )
        case AdaptiveStrategy():
            make = FedYogi if isinstance(strategy, YogiStrategy) else FedAdam
            return make(
                eta=strategy.eta,
                beta_1=strategy.beta_1,
                beta_2=strategy.beta_2,
                tau=strategy.tau,
            )
        case AdagradStrategy():
            return FedAdagrad(eta=strategy.eta, tau=strategy.tau)
        case _:
            return None


def _record(arrays: Mapping[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: FlowerArray(np.asarray(array)) for name, array in arrays.items()})
