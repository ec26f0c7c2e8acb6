"""Flower's messages as tasks, and answers as Flower's messages (shared/learning/task.py).

What must not live here: the connection, processes, files.
"""

import msgspec
import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from edge_agent.training.file_replies import Answer
from edge_agent.training.warm_training import Outcome
from shared.errors import ContractError, IsthmusError
from shared.learning.task import (
    METRICS_RECORD,
    REPLY_RECORD,
    TASK_RECORD,
    UPDATE_RECORD,
    WEIGHTS_RECORD,
    LearningReply,
    LearningTask,
    decode_task,
    encode_reply,
)
from shared.model.weights import Array

ERROR_CODE = 100  # Of a Flower error: a message that is no LearningTask has no LearningReply
TEXT_MAX = 1500
ARRAY_TYPES = frozenset({"numpy.ndarray"})


def read_task(message: Message) -> tuple[LearningTask, dict[str, Array]]:
    """Return what a message asks. Raises ContractError `task.invalid`."""
    content = message.content if message.has_content() else RecordDict()
    config = content.config_records.get(TASK_RECORD)
    text = config.get(TASK_RECORD) if config is not None else None
    if not isinstance(text, str):
        raise ContractError("task.invalid", "The message is no LearningTask.")
    task = decode_task(text)
    record = content.array_records.get(WEIGHTS_RECORD, ArrayRecord())
    weights: dict[str, Array] = {}
    for name, array in record.items():
        if array.stype not in ARRAY_TYPES or array.dtype != "float32":
            raise ContractError("task.weights", f"{name[:80]!r} is not an array of float32.")
        try:
            weights[name] = np.asarray(array.numpy())
        except (ValueError, OSError, EOFError) as error:
            raise ContractError("task.weights", f"{name[:80]!r} is not readable.") from error
    return task, weights


def success(message: Message, answer: Answer, *, is_repeated: bool) -> Message:
    """Return a reply with an update, or with what was measured."""
    reply = msgspec.structs.replace(answer.reply, is_repeated=is_repeated)
    content = RecordDict({REPLY_RECORD: ConfigRecord({REPLY_RECORD: encode_reply(reply)})})
    if answer.update:
        arrays = {n: FlowerArray(np.asarray(a)) for n, a in answer.update.items()}
        content[UPDATE_RECORD] = ArrayRecord(arrays)
    content[METRICS_RECORD] = MetricRecord(dict(answer.metrics))
    return Message(content, reply_to=message)


def refusal(message: Message, task: LearningTask, outcome: Outcome) -> Message:
    """Return a reply that says why there is no update."""
    reply = LearningReply(
        job=task.job,
        round=task.round,
        kind=task.kind,
        base_digest=task.base_digest,
        encoding=task.encoding,
        refusal_code=outcome.code,
        refusal_text=outcome.text[:TEXT_MAX],
    )
    content = RecordDict({REPLY_RECORD: ConfigRecord({REPLY_RECORD: encode_reply(reply)})})
    return Message(content, reply_to=message)


def failure(message: Message, error: IsthmusError) -> Message:
    """Return the answer to what is no task: there is nothing to name in a LearningReply."""
    reason = f"{error.code}: {error}"[:TEXT_MAX]
    return Message(Error(code=ERROR_CODE, reason=reason), reply_to=message)
