"""WarmTraining: the learning process's hold on its zygote (torch_zygote.py).

What must not live here: torch. The zygote is started with the first task and ended when none came
for IDLE_S: a device that waits for its next Round does not keep torch in memory.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from shared.errors import TransientError
from shared.learning.task import LearningTask, encode_task
from shared.model.weights import Array, encode_weights

MODULE = "edge_agent.training.torch_zygote"
RUN, KILL = b"run", b"kill"
READY = b"ready"  # The zygote's first word, once torch is loaded
PACKET_BYTES_MAX = 32 * 1024
HEAD_BYTES = 8
IDLE_S = 120.0
ENDED_S_MAX = 2.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came of one task: an empty code, or why there is no answer."""

    code: str
    text: str = ""


class WarmTraining:
    """See above. Used by one thread."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: `<state>/learning`, with node.json."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._used_s = 0.0
        self._is_ready = False

    @property
    def is_ready(self) -> bool:
        """Return whether torch is loaded, as far as `wait` has heard: tasks run from then on."""
        return self._is_ready

    def start(self, task: LearningTask, weights: Mapping[str, Array]) -> None:
        """Begin a task in a child. Raises TransientError `training.not_started`."""
        self._used_s = time.monotonic()
        channel = self._open()
        text = encode_task(task).encode()
        descriptor = os.memfd_create("isthmus-task", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(len(text).to_bytes(HEAD_BYTES, "big") + text + encode_weights(weights))
            socket.send_fds(channel, [RUN], [descriptor])
        except OSError as error:
            self.close()
            raise TransientError("training.not_started", str(error)) from error
        finally:
            os.close(descriptor)

    def wait(self, seconds: float) -> Outcome | None:
        """Return what came of the task; None: it is not over yet."""
        assert self._channel is not None
        until_s = time.monotonic() + seconds
        while select.select([self._channel], [], [], max(until_s - time.monotonic(), 0.0))[0]:
            self._used_s = time.monotonic()
            try:
                packet = self._channel.recv(PACKET_BYTES_MAX)
            except OSError:
                packet = b""
            if packet == READY:
                self._is_ready = True
                continue
            if packet:
                return msgspec.json.decode(packet, type=Outcome)
            self.close()
            return Outcome(code="training.died", text="The process that starts trainings ended.")
        return None

    def cancel(self) -> None:
        """Kill the task and wait for its end."""
        if self._channel is not None:
            with suppress(OSError):
                self._channel.send(KILL)
            if self.wait(ENDED_S_MAX) is None:
                self.close()

    def rest(self) -> None:
        """End the zygote if nothing was asked of it for IDLE_S."""
        if self._process and time.monotonic() - self._used_s > IDLE_S:
            self.close()

    def close(self) -> None:
        """End the zygote, and with it the task."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(ENDED_S_MAX)
        if self._channel is not None:
            self._channel.close()
        self._process = self._channel = None
        self._is_ready = False

    def _open(self) -> socket.socket:
        if self._channel is not None:
            return self._channel
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", MODULE, str(self._folder), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=os.environ | ONE_THREAD,
                )
            except OSError as error:
                ours.close()
                raise TransientError("training.not_started", str(error)) from error
        self._channel = ours
        return ours
