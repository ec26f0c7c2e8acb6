"""TensorRunner: one session on one item after another, to raw outputs; its buffer allocated once.

1. `prepare` brings an item into the buffer, `infer` runs it. What comes back lies in buffers that
   the next run overwrites: a runner takes the next item once its last one is concluded.
2. A batch of windows is run BATCH_WINDOWS_MAX at a time where the model takes several at once, else
   one by one; what is found out at the first batch.
3. A frame goes through a FrameStage, which may say that the model need not be asked.

What must not live here: which session, what the outputs mean, what becomes of the result.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.inference.opencv_tensor import TensorWriter
from edge_agent.inference.session import ModelSession
from edge_agent.sources.item import Frame, Item, TextItem, Window, WindowBatch
from edge_agent.sources.opencv_frames import FrameStage, Held
from shared.errors import RefusedError
from shared.model.preprocess import Placement, Tokenize, compared_with, to_bytes, to_tensor
from shared.model.spec import ImageInput, ModelSpec, TextInput, WindowInput

BATCH_WINDOWS_MAX = 64

Array = NDArray[np.generic]
Outputs = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class RawRow:
    """What a model said of one item, or of one sensor's window of a batch."""

    sensor: str
    batch: Array  # Of the model's input shape; or what it is to foretell (compared_with)
    outputs: Outputs


@dataclass(frozen=True, slots=True)
class Ready:
    """An item that is in the buffer."""

    item: Item
    placement: Placement | None


class TensorRunner:
    """See the rules above. One thread at a time."""

    def __init__(
        self, session: ModelSession, stage: FrameStage | None, tokenize: Tokenize = to_bytes
    ) -> None:
        """Args: stage is of a picture's input, tokenize of a text's (load_tokenizer)."""
        self._tokenize = tokenize
        self.session = session
        self._stage = stage
        self._spec = session.spec
        self._tensor = session.new_input()
        image = self._spec.input
        self._writer = (
            TensorWriter(self._spec, image, self._tensor) if isinstance(image, ImageInput) else None
        )
        self._takes_batches = True  # Until it is found out that it does not

    def prepare(self, item: Item, *, is_gated: bool = False) -> Ready | Held:
        """Bring `item` into the buffer.

        Args:
            item: the next one.
            is_gated: whether the FrameStage may say that the model need not be asked; it must then
                be called in the order of frames.

        Raises:
            RefusedError: `inference.input`.
        """
        match item, self._spec.input:
            case Frame(), ImageInput() if self._writer is not None and self._stage is not None:
                ask = self._stage.prepare if is_gated else self._stage.resize
                prepared = ask(item, self._writer.target)
                if isinstance(prepared, Held):
                    return prepared
                self._writer.write()
                return Ready(item, prepared.placement)
            case Window(samples=samples), WindowInput():
                self._fill(samples)
            case TextItem(text=text), TextInput():
                self._fill(self._tokenize(text))
            case WindowBatch(), WindowInput():
                pass  # Row by row, or into a batch of its own
            case _:
                raise _wrong_item(self._spec)
        return Ready(item, None)

    def infer(self, ready: Ready) -> tuple[RawRow, ...]:
        """Return raw outputs: one row, or one for each window of a batch.

        Raises:
            RefusedError: `inference.failed` or `inference.input`.
            TransientError: `worker.lost`.
        """
        if isinstance(ready.item, WindowBatch):
            return tuple(self._infer_batch(ready.item))
        outputs = self.session.run(self._tensor)
        batch = self._tensor
        if isinstance(ready.item, Window):
            batch = compared_with(ready.item.samples, batch, self._spec)
        return (RawRow("", batch, outputs),)

    def _fill(self, samples: Array) -> None:
        to_tensor(samples, self._spec, dtype=self.session.input_dtype, out=self._tensor)

    def _infer_batch(self, item: WindowBatch) -> Iterator[RawRow]:
        for start in range(0, len(item.sensors), BATCH_WINDOWS_MAX):
            sensors = item.sensors[start : start + BATCH_WINDOWS_MAX]
            samples = item.samples[start : start + BATCH_WINDOWS_MAX]
            yield from self._infer_windows(sensors, samples)

    def _infer_windows(
        self, sensors: tuple[str, ...], samples: NDArray[np.float32]
    ) -> Iterator[RawRow]:
        batch = np.empty((len(sensors), *self._spec.input_shape[1:]), self.session.input_dtype)
        for index in range(len(sensors)):
            to_tensor(samples[index], self._spec, dtype=batch.dtype, out=batch[index : index + 1])
        if self._takes_batches and len(sensors) > 1:
            try:
                outputs = _owned(self.session.run(batch))
            except RefusedError:  # Or each of them fails, and says why
                self._takes_batches = False
            else:
                for index, sensor in enumerate(sensors):
                    row = slice(index, index + 1)
                    wanted = compared_with(samples[index], batch[row], self._spec)
                    yield RawRow(sensor, wanted, tuple(output[row] for output in outputs))
                return
        for index, sensor in enumerate(sensors):
            row = slice(index, index + 1)
            wanted = compared_with(samples[index], batch[row], self._spec)
            yield RawRow(sensor, wanted, _owned(self.session.run(batch[row])))


def _owned(outputs: Outputs) -> Outputs:
    """Return outputs that the next run cannot overwrite."""
    return tuple(output if output.base is None else output.copy() for output in outputs)


def _wrong_item(spec: ModelSpec) -> RefusedError:
    return RefusedError(
        "inference.input",
        f"The model {spec.model} takes {_kind(spec)}; the source gives others.",
        remedy="Give the pipeline a source of the model's kind.",
    )


def _kind(spec: ModelSpec) -> str:
    match spec.input:
        case ImageInput():
            return "images"
        case WindowInput():
            return "windows of samples"
        case TextInput():
            return "texts"
