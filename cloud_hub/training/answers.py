"""What a device answers, held against what it was asked. Pure.

1. A reply counts for the task it names: job, Round, kind and digest are those that were asked.
2. A measurement that cannot be (half a sample, accuracy above 1, NaN) refuses the whole reply: who
   reports nonsense about its samples is not believed about its update. Names not known are left
   out.
3. Nothing of a device gets past here but an UpdateEntry whose numbers are finite and in the
   model's shapes; how large they may be is for aggregation/checks.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_hub.training.aggregation.entry import UpdateEntry
from cloud_hub.training.fleet import Reply
from cloud_hub.training.order import FairStrategy, JobOrder
from shared.errors import ContractError
from shared.learning.task import LearningReply, Measurement, TaskKind, decode_reply
from shared.learning.update_codec import decode_update
from shared.model.weights import Layout

COUNT_MAX = 10**9
LOSS_MAX = 1e12
SECONDS_MAX = 1e7
_COUNTS = frozenset({Measurement.SAMPLES, Measurement.HELD_OUT})
_LARGEST: Mapping[str, float] = {
    Measurement.SAMPLES: COUNT_MAX,
    Measurement.HELD_OUT: COUNT_MAX,
    Measurement.LOSS: LOSS_MAX,
    Measurement.ACCURACY_BEFORE: 1.0,
    Measurement.ACCURACY_AFTER: 1.0,
    Measurement.RUNTIME: SECONDS_MAX,
    Measurement.CPU: SECONDS_MAX,
}


@dataclass(frozen=True, slots=True)
class Question:
    """What an answer must be the answer to."""

    job: str
    round: int
    kind: TaskKind
    base_digest: str


def read_reply(text: str, question: Question) -> LearningReply:
    """Return what a device says. Raises ContractError `reply.invalid`, `reply.misfit`."""
    said = decode_reply(text)
    if Question(said.job, said.round, said.kind, said.base_digest) != question:
        raise ContractError("reply.misfit", "It answers what it was not asked.")
    return said


def read_measurements(measurements: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers that are known by name. Raises ContractError `reply.measurement`."""
    told = {}
    for name, largest in _LARGEST.items():
        if name not in measurements:
            continue
        value = float(measurements[name])
        is_whole = name not in _COUNTS or value.is_integer()
        if not (0.0 <= value <= largest and is_whole):  # Not NaN either
            raise ContractError("reply.measurement", f"{name} cannot be {value:.6g}.")
        told[str(name)] = value
    return told


def read_update(
    reply: Reply,
    said: LearningReply,
    *,
    order: JobOrder,
    layout: Layout,
    rounds_late: int,
    details: Mapping[str, float],
) -> UpdateEntry:
    """Return the update in a reply, with `details` for its event.

    Raises ContractError `reply.misfit`, `update.no_loss`, or what decode_update does.
    """
    if said.encoding is not order.encoding:
        raise ContractError("reply.misfit", f"It is encoded as {said.encoding}.")
    loss = details.get(Measurement.LOSS)
    if loss is None and isinstance(order.strategy, FairStrategy):
        raise ContractError("update.no_loss", "This strategy needs the device's loss.")
    samples_count = details.get(Measurement.SAMPLES)
    return UpdateEntry(
        reply.device,
        decode_update(reply.arrays, layout, order.encoding),
        None if samples_count is None else int(samples_count),
        loss,
        rounds_late,
        details,
    )
