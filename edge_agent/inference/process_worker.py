"""The worker's side: a process that runs one model for an agent, until the agent lets go of it.

1. It ends when the agent does: by the end of its sockets, and by the kernel's word
   (PR_SET_PDEATHSIG), whatever a model is doing.
2. Its private memory is limited by RLIMIT_DATA to what the runtime had taken before the model came
   and the bytes that the model may take. A run that gets no memory is refused, not killed.
3. It dumps no core, opens no file but the model, and holds nothing that must be saved: killing it
   is how it is stopped.
4. One thread for each lane, all on one engine; this one answers pings, so that a stopped process is
   known from one that runs a model.

Arguments: control descriptor, lane descriptors with commas, the agent's process id, bytes, the
model's name and its file.
"""

import mmap
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import numpy as np

from edge_agent.inference import worker_messages as words
from edge_agent.inference.engine import Array, Engine, LoadEngine
from edge_agent.inference.procfs_memory import hand_back_memory, limit_arenas
from edge_agent.inference.shared_arrays import views
from shared.errors import RefusedError
from shared.process_parent import end_with_thread


class _Slot:
    """A block of memory that the agent shares, and the arrays over it that runs have asked for."""

    def __init__(self, order: dict[str, object], descriptor: int) -> None:
        self._dtype = np.dtype(str(order["dtype"]))
        shape = order["shape"]
        assert isinstance(shape, list), "the agent says it so"
        self._shape = tuple(int(size) for size in shape)  # Of one row
        self._output_offset = int(str(order["output_offset"]))
        self._block = mmap.mmap(descriptor, 0)
        self._inputs: dict[int, Array] = {}
        self._outputs: dict[bytes, list[Array]] = {}

    def input(self, rows: int) -> Array:
        """Return the first `rows` of the input."""
        found = self._inputs.get(rows)
        if found is None:
            found = np.ndarray((rows, *self._shape), self._dtype, self._block)
            self._inputs[rows] = found
        return found

    def outputs(self, packet: bytes, layout: words.Layout) -> list[Array] | None:
        """Return where outputs go; None: they do not fit."""
        found = self._outputs.get(packet)
        if found is None:
            offsets, size = words.place_outputs(layout)
            if self._output_offset + size > len(self._block):
                return None
            found = views(self._block, layout, offsets, self._output_offset)
            if len(self._outputs) < words.OUTPUTS_MAX:  # Shapes may differ with every run
                self._outputs[packet] = found
        return found


class _Lane:
    """One socket and the thread that serves it."""

    def __init__(self, descriptor: int, engine: Engine, slots: dict[int, _Slot]) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._engine = engine
        self._slots = slots  # Of all lanes
        self._packets: dict[object, tuple[bytes, words.Layout]] = {}

    def serve(self) -> None:
        """Answer until the agent is gone; ends the process then."""
        try:
            while packet := self._socket.recv(words.PACKET_BYTES_MAX):
                if packet[:1] == words.RUN:
                    self._run(*words.parse_run(packet))
                else:
                    self._attach(words.parse_json(packet))
        except OSError as error:
            _end_saying(f"A lane ended: {error}")
        finally:
            os._exit(0)  # See rule 1: other threads may be within a model

    def _attach(self, order: dict[str, object]) -> None:
        _, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        self._slots[int(str(order["slot"]))] = _Slot(order, descriptors[0])
        os.close(descriptors[0])  # The mapping holds it
        self._socket.send(words.ATTACHED)

    def _run(self, index: int, rows: int) -> None:
        slot = self._slots[index]
        try:
            outputs = self._engine.run(slot.input(rows))
            packet, layout = self._described(outputs)
        except RefusedError as error:
            self._socket.send(_refusal(words.FAILED, error))
            return
        places = slot.outputs(packet, layout)
        if places is None:
            self._send_apart(outputs, packet, layout)
            return
        for place, output in zip(places, outputs, strict=True):
            np.copyto(place, output)
        self._socket.send(packet)

    def _described(self, outputs: Sequence[Array]) -> tuple[bytes, words.Layout]:
        key = tuple([(getattr(one, "dtype", None), getattr(one, "shape", ())) for one in outputs])
        found = self._packets.get(key)
        if found is None:
            _check(outputs)
            layout = tuple((one.dtype.str, one.shape) for one in outputs)
            found = (words.json_packet(words.OUTPUTS, layout), layout)
            if len(self._packets) < words.OUTPUTS_MAX:  # Shapes may differ with every run
                self._packets[key] = found
        return found

    def _send_apart(self, outputs: Sequence[Array], packet: bytes, layout: words.Layout) -> None:
        """Send outputs that the slot has no room for, in a block of their own."""
        offsets, size = words.place_outputs(layout)
        descriptor = os.memfd_create("isthmus-outputs")
        os.ftruncate(descriptor, max(size, 1))
        block = mmap.mmap(descriptor, 0)
        for place, output in zip(views(block, layout, offsets, 0), outputs, strict=True):
            np.copyto(place, output)
        self._socket.send(words.OVERFLOW + packet[1:])
        socket.send_fds(self._socket, [words.OVERFLOW], [descriptor])
        os.close(descriptor)


def serve(load: LoadEngine, arguments: Sequence[str]) -> None:
    """Run the model that the arguments name until the agent is gone; does not return."""
    control_text, lanes_text, parent, bytes_max, model, path = arguments
    control = socket.socket(fileno=int(control_text))
    end_with_thread(int(parent))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _data_bytes() + int(bytes_max)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    limit_arenas()
    try:
        engine = load(Path(path), model)
    except RefusedError as error:
        control.send(_refusal(words.REFUSED, error))
        sys.exit(1)
    slots: dict[int, _Slot] = {}
    threads = []
    for text in lanes_text.split(","):
        lane = _Lane(int(text), engine, slots)
        threads.append(threading.Thread(target=lane.serve, daemon=True))
        threads[-1].start()
    nodes = [(node.name, node.dtype, node.shape) for node in engine.inputs]
    told = {
        "runtime": engine.runtime,
        "inputs": nodes,
        "threads": [thread.native_id for thread in threads],  # Of the lanes, in order
    }
    control.send(words.json_packet(words.READY, told))
    _answer(control, {words.PING: lambda: None, words.READY: hand_back_memory})


def _answer(control: socket.socket, actions: dict[bytes, Callable[[], None]]) -> None:
    """Answer pings until the agent is gone; READY back means that loading and warming are over."""
    try:
        while packet := control.recv(words.PACKET_BYTES_MAX):
            actions[packet[:1]]()
            control.send(words.PONG)
    except OSError:
        pass
    os._exit(0)


def _end_saying(text: str) -> NoReturn:
    """End the process, with last words for the agent's log if it is still there."""
    with suppress(OSError):
        os.write(sys.stderr.fileno(), text.encode())
    os._exit(1)


def _data_bytes() -> int:
    """Return what RLIMIT_DATA counts of this process by now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def _check(outputs: Sequence[Array]) -> None:
    """Raise RefusedError `inference.output` for what is no tensor of numbers, or too much."""
    is_plain = len(outputs) <= words.OUTPUTS_MAX and all(
        isinstance(one, np.ndarray) and one.dtype.kind in "biuf" for one in outputs
    )
    if not is_plain or sum(one.nbytes for one in outputs) > words.OUTPUT_BYTES_MAX:
        raise RefusedError(
            "inference.output",
            f"The model gives something else than up to {words.OUTPUTS_MAX} tensors of numbers "
            f"of {words.OUTPUT_BYTES_MAX} bytes together.",
            remedy="Export it without sequences, maps and texts among its outputs.",
        )


def _refusal(kind: bytes, error: RefusedError) -> bytes:
    return words.json_packet(
        kind, (error.code, error.message[: words.TEXT_CHARS_MAX], error.remedy)
    )
