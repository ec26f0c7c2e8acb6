"""One run over a lane: the agent's side of the protocol."""

import mmap
import os
import socket

from edge_agent.inference import worker_messages as words
from edge_agent.inference.engine import Array
from edge_agent.inference.process_slots import Slot
from edge_agent.inference.shared_arrays import views
from shared.errors import RefusedError


def run_on(
    lane: socket.socket, worker: int, slot: Slot, rows: int
) -> tuple[Array, ...] | RefusedError:
    """Return the outputs for the first `rows` of `slot`, or why the engine refused them.

    Args: worker: its number; a worker is told of a slot before the first run on it.

    Raises BlockingIOError when no answer came in time, another OSError when the worker is gone;
    the lane is of no use then.
    """
    if slot.attached_to != worker:
        _attach(lane, worker, slot)
    packet = slot.packets.get(rows)
    if packet is None:
        packet = slot.packets[rows] = words.run_packet(slot.index, rows)
    lane.send(packet)
    answer = lane.recv(words.PACKET_BYTES_MAX)
    match answer[:1]:
        case words.OUTPUTS:
            return slot.outputs(answer)
        case words.FAILED:
            return refusal_in(answer)
        case words.OVERFLOW:
            return _outputs_apart(lane, answer)
    raise ConnectionResetError


def refusal_in(packet: bytes) -> RefusedError:
    """Return the error in a FAILED or REFUSED packet."""
    code, message, remedy = words.parse_json(packet)
    return RefusedError(str(code), str(message), remedy=str(remedy))


def _attach(lane: socket.socket, worker: int, slot: Slot) -> None:
    lane.send(slot.attach_packet())
    socket.send_fds(lane, [words.ATTACH], [slot.descriptor])
    if lane.recv(words.PACKET_BYTES_MAX) != words.ATTACHED:
        raise ConnectionResetError
    slot.attached_to = worker


def _outputs_apart(lane: socket.socket, answer: bytes) -> tuple[Array, ...]:
    """Return outputs that came in a block of their own."""
    _, descriptors, _, _ = socket.recv_fds(lane, 1, 1)
    if not descriptors:
        raise ConnectionResetError
    try:
        block = mmap.mmap(descriptors[0], 0)
    finally:
        os.close(descriptors[0])
    layout = words.parse_layout(answer)
    offsets, _ = words.place_outputs(layout)
    return tuple(views(block, layout, offsets, 0))
