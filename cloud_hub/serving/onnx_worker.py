"""One served model, in a process of its own: `python -m cloud_hub.serving.onnx_worker FOLDER HUB`.

1. One thread reads Asks, one runs batches; an item that cannot be read is answered alone and spoils
   nobody's batch.
2. The process limits its own memory; one that dies takes no request of other models with it.
3. It ends when the hub closes the socket, and at once when the hub is gone (HUB: its process id),
   also within a run that never ends. The thread that started it may be gone before.
4. Its folder is deleted once the model is loaded: a killed hub could not do it.
"""

import os
import shutil
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cloud_hub.process_limits import limit_memory
from cloud_hub.serving.answering import answer_of
from cloud_hub.serving.batching import Batcher
from cloud_hub.serving.messages import Ask, Ready, Told, receive, send
from cloud_hub.serving.onnx_batches import OnnxBatches
from cloud_hub.serving.opencv_items import ItemReader
from cloud_hub.serving.prepared import Prepared
from cloud_hub.serving.worker_files import MODEL, SOCKET_NAME, TASK, TOKENIZER, ServingTask
from shared.errors import ContractError, IsthmusError, RefusedError
from shared.model.preprocess import Tokenize, to_bytes
from shared.model.spec import TextInput
from shared.model.tokenizers_text import load_tokenizer
from shared.process_parent import end_with_process

MS_OF_SECOND = 1000.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    ask: Ask
    since_s: float


class ServedModel:
    """Loads a model and answers Asks until the socket ends."""

    def __init__(self, folder: Path, connection: socket.socket) -> None:
        """Raises RefusedError `serving.model`."""
        task = msgspec.json.decode((folder / TASK).read_bytes(), type=ServingTask)
        self._spec = task.spec
        self._connection = connection
        self._model = OnnxBatches(folder / MODEL, task.spec, threads=task.settings.threads)
        tokenize: Tokenize = to_bytes
        if isinstance(task.spec.input, TextInput):
            tokenize = load_tokenizer(folder / TOKENIZER, task.spec)
        self._reader = ItemReader(task.spec, self._model.dtype, tokenize)
        settings = task.settings
        self._batcher: Batcher[_Waiting] = Batcher(
            batch_max=settings.batch_max, wait_s=settings.wait_ms / MS_OF_SECOND
        )

    def serve(self) -> None:
        """Answer until the hub ends it."""
        send(self._connection, Ready(is_batched=self._model.is_batched))
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        while batch := self._batcher.take():
            self._answer(batch)

    def _listen(self) -> None:
        try:
            while isinstance(message := receive(self._connection), Ask):
                self._batcher.put(_Waiting(message, time.monotonic()))
        except OSError:
            pass  # The hub let go of it in the middle of something
        finally:
            self._batcher.close()

    def _answer(self, batch: list[_Waiting]) -> None:
        started_s = time.monotonic()
        prepared: list[tuple[_Waiting, Prepared]] = []
        for waiting in batch:
            try:
                prepared.append((waiting, self._reader.read(waiting.ask.item)))
            except (ContractError, RefusedError) as error:
                self._refuse(waiting, error)
        if not prepared:
            return
        try:
            outputs = self._model.run([each.tensor for _, each in prepared])
        except RefusedError as error:
            for waiting, _ in prepared:
                self._refuse(waiting, error)
            return
        run_ms = (time.monotonic() - started_s) * MS_OF_SECOND
        for (waiting, item), own in zip(prepared, outputs, strict=True):
            try:
                answer = answer_of(own, item, self._spec)
            except RefusedError as error:
                self._refuse(waiting, error)
                continue
            told = Told(
                number=waiting.ask.number,
                answer=answer,
                batch=len(prepared),
                wait_ms=(started_s - waiting.since_s) * MS_OF_SECOND,
                run_ms=run_ms,
            )
            send(self._connection, told)

    def _refuse(self, waiting: _Waiting, error: IsthmusError) -> None:
        told = Told(
            number=waiting.ask.number,
            answer=None,
            code=error.code,
            text=error.message,
            remedy=error.remedy,
        )
        send(self._connection, told)


def main(arguments: list[str]) -> int:
    """Serve the model of a folder over the socket that was inherited."""
    folder = Path(arguments[0])
    end_with_process(int(arguments[1]))
    task = msgspec.json.decode((folder / TASK).read_bytes(), type=ServingTask)
    limit_memory(task.settings.memory_bytes_max)
    with socket.socket(fileno=int(os.environ[SOCKET_NAME])) as connection:
        try:
            served = ServedModel(folder, connection)
        except RefusedError as error:
            send(connection, Ready(code=error.code, text=error.message))
            return 1
        shutil.rmtree(folder, ignore_errors=True)
        try:
            served.serve()
        except (BrokenPipeError, ConnectionResetError):
            return 0  # The hub is gone; nobody is left to answer
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
