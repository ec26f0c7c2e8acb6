"""ServingProcess: the hub's side of one served model: asks, and gets answers as futures.

1. `ask` never blocks: a thread of its own writes, another reads. More than `queue_max` unanswered
   items are refused.
2. A process that dies, or leaves an item unanswered for `answer_s_max`, is ended, and everything
   that waits is answered with how it died. It is not started again here: the service makes another.
3. `retire` lets it answer what it has, then end.
"""

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue

import msgspec

from cloud_hub.process_limits import how_it_died
from cloud_hub.serving import worker_files as files
from cloud_hub.serving.messages import Ask, Ready, Told, receive, send
from cloud_hub.serving.settings import ServingSettings
from shared.errors import ContractError, RefusedError, TransientError
from shared.model.spec import ModelSpec

log = logging.getLogger(__name__)

STOP_S_MAX = 5.0
STDERR_BYTES_MAX = 64 << 10


class ServingProcess:
    """See the rules above. Safe to share between threads."""

    def __init__(
        self,
        model_bytes: bytes,
        spec: ModelSpec,
        settings: ServingSettings,
        *,
        tokenizer_bytes: bytes | None = None,
    ) -> None:
        """Start the process and wait until it is ready.

        Raises RefusedError `serving.model`, TransientError `serving.start`.
        """
        self._settings = settings
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[Future[Told], float]] = {}
        self._number = 0
        self._is_closed = False
        self._to_send: SimpleQueue[Ask | None] = SimpleQueue()
        self.used_s = time.monotonic()  # When it was last asked
        self._folder = Path(tempfile.mkdtemp(prefix="isthmus-serving-"))
        (self._folder / files.MODEL).write_bytes(model_bytes)
        if tokenizer_bytes is not None:
            (self._folder / files.TOKENIZER).write_bytes(tokenizer_bytes)
        task = files.ServingTask(spec=spec, settings=settings)
        (self._folder / files.TASK).write_bytes(msgspec.json.encode(task))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        self._process, self._connection = self._launch()
        try:
            self.is_batched = self._await_ready().is_batched
        except (RefusedError, TransientError):
            self._end()
            raise
        for run, name in ((self._read_all, "serving-read"), (self._write_all, "serving-write")):
            threading.Thread(target=run, name=name, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Whether it takes items."""
        return not self._is_closed

    @property
    def waiting_count(self) -> int:
        """Return how many items are unanswered."""
        return len(self._waiting)

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    def ask(self, items: list[bytes]) -> list[Future[Told]]:
        """Return the answers to come. Raises TransientError `serving.busy`, `serving.ended`."""
        with self._lock:
            if self._is_closed:
                raise TransientError("serving.ended", "The model's process ended; ask again.")
            if len(self._waiting) + len(items) > self._settings.queue_max:
                raise TransientError(
                    "serving.busy",
                    f"{len(self._waiting)} items of this model wait already.",
                    remedy="Ask again later, or raise serving.queue_max.",
                )
            self.used_s = time.monotonic()
            futures = []
            for item in items:
                self._number += 1
                future: Future[Told] = Future()
                self._waiting[self._number] = (future, self.used_s)
                self._to_send.put(Ask(number=self._number, item=item))
                futures.append(future)
            return futures

    def retire(self) -> None:
        """Take nothing more, answer what is there, then end; returns at once."""
        with self._lock:
            self._is_closed = True
        self._to_send.put(None)

    def check(self) -> None:
        """End a process that leaves an item unanswered; call it every second or so."""
        with self._lock:
            oldest_s = min((since for _, since in self._waiting.values()), default=None)
        if oldest_s is not None and time.monotonic() - oldest_s > self._settings.answer_s_max:
            log.warning("serving.hung", extra={"pid": self.pid})
            self._process.kill()  # The reader sees the end and answers those who wait

    def stop(self) -> None:
        """End it, whatever waits."""
        self.retire()
        self._process.terminate()
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _launch(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", files.MODULE, str(self._folder), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=(theirs.fileno(),),
                env=os.environ
                | {
                    files.SOCKET_NAME: str(theirs.fileno()),
                    "OPENCV_IO_MAX_IMAGE_PIXELS": str(files.PIXELS_MAX),
                },
                start_new_session=True,
            )
        return process, ours

    def _await_ready(self) -> Ready:
        self._connection.settimeout(self._settings.start_s_max)
        try:
            message = receive(self._connection)
        except (OSError, ContractError) as error:
            raise TransientError("serving.start", f"The model did not start: {error}.") from error
        self._connection.settimeout(None)
        if not isinstance(message, Ready):
            raise TransientError("serving.start", f"The model did not start: {self._death()}.")
        if message.code:
            raise RefusedError(message.code, message.text, remedy="Release the model again.")
        return message

    def _write_all(self) -> None:
        try:
            while (ask := self._to_send.get()) is not None:
                send(self._connection, ask)
            self._connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # It died; the reader says so to those who wait

    def _read_all(self) -> None:
        try:
            while isinstance(message := receive(self._connection), Told):
                with self._lock:
                    future, _ = self._waiting.pop(message.number, (None, 0.0))
                if future is not None and future.set_running_or_notify_cancel():
                    future.set_result(message)
        except (OSError, ContractError) as error:
            log.warning("serving.broken", extra={"pid": self.pid, "text": str(error)})
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._is_closed = True
            left, self._waiting = self._waiting, {}
        self._to_send.put(None)
        text = self._death()
        if left:
            log.warning("serving.died", extra={"pid": self.pid, "text": text})
        for future, _ in left.values():
            if future.set_running_or_notify_cancel():
                remedy = "Ask again. If it goes on, look at the item: it may be what ends it."
                future.set_exception(
                    TransientError(
                        "serving.ended", f"The model's process ended: {text}.", remedy=remedy
                    )
                )
        self._connection.close()
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _death(self) -> str:
        """Return how the process ended; it is ended if it did not."""
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - STDERR_BYTES_MAX))
        return how_it_died(self._process.returncode, self._errors.read()) or "it was told to end"
