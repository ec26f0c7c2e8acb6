"""Slots: the memory that the agent and its inference worker share, as the agent sees it.

1. A slot is a memfd: no name that a killed process could leave behind, gone with its last user.
2. A slot outlives the worker: a new one is given the same blocks, so that buffers stay good.
3. `new_input` lends a slot until the array over it is collected; a batch from elsewhere is copied
   into a spare one. A slot of more rows is made when more are asked for.
4. Memory is taken when it is first written: room for outputs that never come costs nothing.
"""

import mmap
import os
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.inference import worker_messages as words
from edge_agent.inference.shared_arrays import views
from shared.errors import RefusedError, TransientError

Array = NDArray[np.generic]

SLOTS_MAX = 256
SLOT_BYTES_MAX = 512 << 20  # The input of one run
OUTPUT_ROOM_BYTES = 1 << 20  # For outputs of the first run, whose size nobody knows
OUTPUT_ROOM_FACTOR = 2  # Outputs whose size depends on what is seen


class Slot:
    """One block; used by one thread at a time."""

    def __init__(
        self, index: int, shape: tuple[int, ...], dtype: np.dtype[Any], *, output_bytes: int
    ) -> None:
        """Args: shape: of the whole input, rows first."""
        self.index = index
        self.rows = shape[0]
        self.shape = shape
        self.dtype = dtype
        self.attached_to = 0  # The worker that knows it
        input_bytes = int(np.prod(shape)) * dtype.itemsize
        self.output_offset = -(-max(input_bytes, 1) // words.PAGE_BYTES) * words.PAGE_BYTES
        self.descriptor = os.memfd_create("isthmus-slot", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, self.output_offset + output_bytes)
        self.block = mmap.mmap(self.descriptor, 0)
        self.packets: dict[int, bytes] = {}
        self._outputs: dict[bytes, tuple[Array, ...]] = {}

    def input(self, rows: int) -> Array:
        """Return a new array over the first `rows` of the input."""
        return np.ndarray((rows, *self.shape[1:]), self.dtype, self.block)

    def outputs(self, packet: bytes) -> tuple[Array, ...]:
        """Return the outputs that an OUTPUTS packet tells of: arrays over this block."""
        found = self._outputs.get(packet)
        if found is None:
            layout = words.parse_layout(packet)
            offsets, _ = words.place_outputs(layout)
            found = tuple(views(self.block, layout, offsets, self.output_offset))
            if len(self._outputs) < words.OUTPUTS_MAX:
                self._outputs[packet] = found
        return found

    def attach_packet(self) -> bytes:
        """Return what a worker must know of it."""
        return words.json_packet(
            words.ATTACH,
            {
                "slot": self.index,
                "dtype": self.dtype.str,
                "shape": self.shape[1:],
                "output_offset": self.output_offset,
            },
        )

    def __del__(self) -> None:
        """Close what is not closed with the last array: the descriptor."""
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class Slots:
    """All slots of one session. Thread-safe."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Args: shape: of one item's input, batch axis included."""
        self._shape = shape
        self.dtype = dtype
        self._output_bytes_per_row = 0
        self._lock = threading.RLock()  # A finalizer may run in whatever thread allocates
        self._spare: list[Slot] = []
        self._lent: dict[int, tuple[weakref.ref[Array], Slot]] = {}  # By id of the array
        self._made_count = 0
        self._last_index = 0  # Never used again: a worker may still know the old block

    def learn_output_bytes(self, per_row: int) -> None:
        """Make room for as much in slots from now on; drops those that were made before."""
        with self._lock:
            self._output_bytes_per_row = per_row
            self._made_count -= len(self._spare)
            self._spare.clear()

    def lend_input(self) -> Array:
        """Return an array over a slot, which is the array's until it is collected."""
        slot = self.take(self._shape[0])
        array = slot.input(self._shape[0])
        key = id(array)
        with self._lock:
            self._lent[key] = (weakref.ref(array), slot)
        weakref.finalize(array, self._return, key).atexit = False
        return array

    def find(self, batch: Array) -> Slot | None:
        """Return the slot that `batch` lies over; None if it is from elsewhere."""
        found = self._lent.get(id(batch))
        return found[1] if found is not None and found[0]() is batch else None

    def take(self, rows: int) -> Slot:
        """Return a spare slot of `rows` or more.

        Raises RefusedError `worker.slots` (too many, too large), TransientError `worker.slots` (the
        system gives none).
        """
        with self._lock:
            for position, slot in enumerate(self._spare):
                if slot.rows >= rows:
                    return self._spare.pop(position)
            if self._made_count >= SLOTS_MAX and self._spare:
                self._spare.pop()  # Too small, all of them
                self._made_count -= 1
            return self._made(rows)

    def give_back(self, slot: Slot) -> None:
        """Keep a slot for the next one."""
        with self._lock:
            self._spare.append(slot)

    def _return(self, key: int) -> None:
        with self._lock:
            _, slot = self._lent.pop(key)
            self._spare.append(slot)

    def _made(self, rows: int) -> Slot:
        shape = (rows, *self._shape[1:])
        if (
            self._made_count >= SLOTS_MAX
            or int(np.prod(shape)) * self.dtype.itemsize > SLOT_BYTES_MAX
        ):
            raise RefusedError(
                "worker.slots",
                f"No more than {SLOTS_MAX} inputs of at most {SLOT_BYTES_MAX} bytes at a time.",
                remedy="Run smaller batches.",
            )
        room = max(OUTPUT_ROOM_BYTES, self._output_bytes_per_row * rows * OUTPUT_ROOM_FACTOR)
        try:
            slot = Slot(self._last_index + 1, shape, self.dtype, output_bytes=room)
        except OSError as error:
            raise TransientError(
                "worker.slots",
                f"There is no memory to be shared with the model's process: {error.strerror}.",
                remedy="Look at the limits of open files, file sizes and memory of the agent.",
            ) from error
        self._made_count += 1
        self._last_index += 1
        return slot
