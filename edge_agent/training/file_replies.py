"""Replies: the device's last answer for each Job and kind, on the disk before it is sent.

1. The same task (job, round, kind, base digest) is answered from here: it costs no second training
   and no second privacy, also after a kill between computing and sending.
2. What rounding lost lies in the same file as the answer: the two are one fact, and cannot part.
3. At most FILES_MAX files; the oldest go first. Each is written whole.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.durable_file import make_private_folder, write_durably
from shared.errors import ContractError, TransientError
from shared.learning.task import LearningReply, LearningTask, TaskKind, decode_reply, encode_reply
from shared.model.weights import Array, Vector

FILES_MAX = 16
MODE = 0o600
_REPLY, _METRICS, _RESIDUAL = "!reply", "!metrics", "!residual"
_FORMAT_ERRORS = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply with its update and measurements."""

    reply: LearningReply
    update: Mapping[str, Array]  # Encoded; empty for an evaluation
    metrics: Mapping[str, float]
    residual: Vector | None = None  # Never leaves


class FileReplies:
    """See the rules above. One writer at a time."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: made when it is first written to."""
        self._folder = folder

    def find(self, task: LearningTask) -> Answer | None:
        """Return what was answered to this very task."""
        answer = self._read(task.job, task.kind)
        if answer is None:
            return None
        reply = answer.reply
        is_same = (reply.round, reply.base_digest) == (task.round, task.base_digest)
        return answer if is_same and reply.encoding is task.encoding else None

    def residual(self, job: str, size: int) -> Vector | None:
        """Return what rounding lost in the Job's last update, if it is of this size."""
        answer = self._read(job, TaskKind.TRAIN)
        if answer is None or answer.residual is None or answer.residual.shape != (size,):
            return None
        return answer.residual

    def write(self, answer: Answer) -> None:
        """Keep an answer; when it returns it is on the disk. Raises TransientError."""
        arrays: dict[str, Array] = dict(answer.update)
        arrays[_REPLY] = np.frombuffer(encode_reply(answer.reply).encode(), np.uint8)
        arrays[_METRICS] = np.frombuffer(json.dumps(dict(answer.metrics)).encode(), np.uint8)
        if answer.residual is not None:
            arrays[_RESIDUAL] = answer.residual
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # stub takes allow_pickle by keyword
        make_private_folder(self._folder)
        self._sweep()
        path = self._path(answer.reply.job, answer.reply.kind)
        write_durably(path, buffer.getvalue(), mode=MODE)

    def _read(self, job: str, kind: TaskKind) -> Answer | None:
        """Return an answer; a damaged file is as none."""
        try:
            with np.load(self._path(job, kind), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            reply = decode_reply(arrays.pop(_REPLY).tobytes().decode())
            metrics = json.loads(arrays.pop(_METRICS).tobytes())
            residual = arrays.pop(_RESIDUAL, None)
        except (*_FORMAT_ERRORS, ContractError):
            return None
        return Answer(reply, arrays, {str(k): float(v) for k, v in metrics.items()}, residual)

    def _path(self, job: str, kind: TaskKind) -> Path:
        return self._folder / f"{job}.{kind.value}.npz"

    def _sweep(self) -> None:
        """Remove temporary files of a crash, and the oldest answers beyond the limit."""
        try:
            for leftover in self._folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            files = sorted(self._folder.glob("*.npz"), key=lambda path: path.stat().st_mtime)
            for old in files[: max(0, len(files) - FILES_MAX + 1)]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise TransientError("disk.write_failed", f"Cannot tidy {self._folder}.") from error
