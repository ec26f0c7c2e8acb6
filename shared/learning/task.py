"""LearningTask and LearningReply: what a hub asks of one device in one Round, and its answer.

1. A task is JSON in the ConfigRecord "task" of a Flower message, its weights the ArrayRecord
   "weights" (float32, by name; personal parameters and counters are not in it).
2. A reply is JSON in the ConfigRecord "reply", its update the ArrayRecord "update"
   (update_codec.py); an evaluation's reply has none. Measurements are the MetricRecord "metrics",
   by the names of Measurement; those the device's owner forbids are left out.
3. The same task (job, round, kind, base digest) asked twice is answered twice with the same bytes:
   a device computes, and spends privacy, once.
"""

from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from shared.errors import ContractError
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec
from shared.settings import Settings
from shared.wire.limits import Code, Count, Digest, LongText, Name, Share

TASK_BYTES_MAX = 128 * 1024
ROUNDS_MAX = 10_000
TASK_RECORD = "task"
WEIGHTS_RECORD = "weights"
REPLY_RECORD = "reply"
UPDATE_RECORD = "update"
METRICS_RECORD = "metrics"

Round = Annotated[int, Meta(ge=1, le=ROUNDS_MAX)]
T = TypeVar("T")


class TaskKind(StrEnum):
    """What is asked."""

    TRAIN = "train"
    EVALUATE = "evaluate"  # The weights as they come, with the device's own personal parameters


class Encoding(StrEnum):
    """How an update travels; see update_codec.py."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Measurement(StrEnum):
    """Numbers about its samples that a device may tell; its owner can forbid each."""

    SAMPLES = "samples_count"
    LOSS = "loss"  # Mean over the last local epoch
    ACCURACY_BEFORE = (
        "accuracy_before"  # Of the weights as they came, on the device's held-out part
    )
    ACCURACY_AFTER = "accuracy_after"  # After local training, on the same part
    HELD_OUT = "held_out_count"  # Samples of that part
    RUNTIME = "runtime_s"
    CPU = "cpu_s"


class OptimiserName(StrEnum):
    """Local optimisers."""

    SGD = "sgd"
    ADAM = "adam"


class LocalMethod(Settings, frozen=True):
    """How a device trains within one Round."""

    epochs: Annotated[int, Meta(ge=1, le=1000)] = 1
    batch_size: Annotated[int, Meta(ge=1, le=4096)] = 32
    optimiser: OptimiserName = OptimiserName.SGD
    learning_rate: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.05
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    weight_decay: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    # FedProx (Li et al. 2020): pulls towards the weights that came; 0 is FedAvg.
    proximal_mu: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.0
    samples_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    seed: Count = 0


class LocalPrivacy(Settings, frozen=True):
    """Local differential privacy: the update is clipped and noised before it leaves the device.

    Gaussian mechanism on the whole update: norm at most `clip_norm`, noise of standard deviation
    `noise_multiplier * clip_norm` on every number. One Round is one release in the RDP accountant
    (shared/learning/rdp.py); neighbours differ in the device's whole data.
    """

    clip_norm: Annotated[float, Meta(gt=0.0, le=1e6)]
    noise_multiplier: Annotated[float, Meta(gt=0.0, le=1000.0)]
    delta: Annotated[float, Meta(gt=0.0, lt=1.0)] = 1e-5


class LearningTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device's part of one Round."""

    schema: Annotated[int, Meta(ge=1, le=1)] = 1
    job: Name
    round: Round
    kind: TaskKind
    base_digest: Digest  # digest_weights of what came with it
    spec: ModelSpec
    network: NetworkSpec
    method: LocalMethod
    encoding: Encoding = Encoding.FP32
    clip_norm: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None  # Central DP: clip, no noise
    privacy: LocalPrivacy | None = None
    seconds_max: Annotated[float, Meta(gt=0.0, le=1e6)] = 3600.0  # The Round's deadline from now


class LearningReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device did. `refusal` is why it did not: then there is no update."""

    schema: Annotated[int, Meta(ge=1, le=1)] = 1
    job: Name
    round: Round
    kind: TaskKind
    base_digest: Digest
    encoding: Encoding = Encoding.FP32
    update_norm: Annotated[float, Meta(ge=0.0, le=1e18)] = 0.0  # L2, after clipping, before noise
    is_noised: bool = False
    epsilon_spent: Annotated[float, Meta(ge=0.0, le=1e9)] | None = None  # Lifetime, for this model
    is_repeated: bool = False  # Answered from what was computed before
    samples_share: Share = 1.0  # Of the device's samples that fitted `samples_max`
    refusal_code: Code | None = None
    refusal_text: LongText = ""


def encode_task(task: LearningTask) -> str:
    """Return a task as JSON text."""
    return msgspec.json.encode(task, order="deterministic").decode()


def decode_task(text: str) -> LearningTask:
    """Return a task from JSON text. Raises ContractError `task.invalid`."""
    return _decode(text, LearningTask, "task.invalid")


def encode_reply(reply: LearningReply) -> str:
    """Return a reply as JSON text."""
    return msgspec.json.encode(reply, order="deterministic").decode()


def decode_reply(text: str) -> LearningReply:
    """Return a reply from JSON text. Raises ContractError `reply.invalid`."""
    return _decode(text, LearningReply, "reply.invalid")


def _decode(text: str, shape: type[T], code: str) -> T:
    if len(text) > TASK_BYTES_MAX:
        raise ContractError(code, f"It is over {TASK_BYTES_MAX} characters.")
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ContractError(code, f"Not understood: {error}") from error
