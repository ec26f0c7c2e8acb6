"""Zygote: a process with torch loaded and no thread started, which forks one child per task.

Run as `python -m edge_agent.training.torch_zygote FOLDER DESCRIPTOR`, by warm_training.py only.

1. It is its own process, not the one that talks to the hub: that one has threads (heartbeat), and a
   fork beside threads may inherit a lock that nobody will ever release.
2. A packet "run" with one descriptor (a memory file: task and weights) forks a child; "kill" kills
   it; when it is over, one packet with its Outcome goes back. One child at a time. The first
   packet it sends is "ready".
3. A child runs at nice 10, with its settings' threads, and may map `memory_bytes_max` beyond what
   torch itself maps (measured: 640 MB of addresses, 180 MB of memory).
4. The kernel kills the child when the zygote ends, and the zygote when its starter does.
"""

import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from shared.quick_imports import quick_imports

with quick_imports():
    import msgspec
    import torch

    from edge_agent.training.file_ledger import open_ledger
    from edge_agent.training.node_files import ORDER, NodeOrder
    from edge_agent.training.torch_task import TorchTask
    from edge_agent.training.warm_training import KILL, PACKET_BYTES_MAX, READY, RUN, Outcome
    from shared.errors import ContractError, IsthmusError
    from shared.learning.task import LearningTask, decode_task
    from shared.model.weights import Array, decode_weights
    from shared.process_parent import end_with_thread

NICE = 10
HEAD_BYTES = 8
RESULT_BYTES_MAX = 16 * 1024
TEXT_MAX = 1000


def main() -> None:
    """Serve until the other side closes."""
    folder, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    end_with_thread(os.getppid())  # Where that is gone already, the channel is at its end
    order = msgspec.json.decode((folder / ORDER).read_bytes(), type=NodeOrder)
    torch.set_num_threads(order.settings.threads)
    with socket.socket(fileno=descriptor) as channel:
        _serve(channel, folder, order)


def _serve(channel: socket.socket, folder: Path, order: NodeOrder) -> None:
    child, result = 0, -1
    channel.send(READY)
    while True:
        watched = [channel.fileno()] + ([result] if child else [])
        ready = select.select(watched, [], [])[0]
        if child and result in ready:
            channel.send(msgspec.json.encode(_reap(child, result)))
            child, result = 0, -1
        if channel.fileno() not in ready:
            continue
        packet, descriptors, _, _ = socket.recv_fds(channel, PACKET_BYTES_MAX, 1)
        if not packet:
            return
        if packet == RUN and not child:
            child, result = _fork(channel, descriptors[0], folder, order)
        elif packet == KILL and child:
            os.kill(child, signal.SIGKILL)
        for descriptor in descriptors:
            os.close(descriptor)


def _fork(channel: socket.socket, task: int, folder: Path, order: NodeOrder) -> tuple[int, int]:
    """Return the child's id and the descriptor on which its result comes."""
    parent = os.getpid()
    result, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, result
    code = 70  # EX_SOFTWARE: what is not caught below is a bug, told by its status
    try:
        os.close(result)
        channel.close()
        end_with_thread(parent)
        os.nice(NICE)
        _limit_memory(order.settings.memory_bytes_max)
        os.write(writing, msgspec.json.encode(_work(task, folder, order)))
        code = 0
    finally:
        os._exit(code)


def _work(descriptor: int, folder: Path, order: NodeOrder) -> Outcome:
    """Carry out the task; what came of it is in the folder's replies by then."""
    try:
        task, weights = _read_task(descriptor)
        ledger = open_ledger(folder, Path(order.key_path), order.settings.privacy)
        TorchTask(folder, order.settings, ledger).run(task, weights)
    except IsthmusError as error:
        return Outcome(code=error.code, text=str(error)[:TEXT_MAX])
    except MemoryError:
        return Outcome(code="training.memory", text="The task needs more memory than it may have.")
    except (RuntimeError, ValueError, OSError) as error:
        # Torch has no type of its own for an allocation that failed.
        is_memory = "allocate memory" in str(error)
        code = "training.memory" if is_memory else "training.failed"
        return Outcome(code=code, text=f"{type(error).__name__}: {error}"[:TEXT_MAX])
    return Outcome(code="")


def _read_task(descriptor: int) -> tuple[LearningTask, Mapping[str, Array]]:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        size = int.from_bytes(file.read(HEAD_BYTES), "big")
        task = decode_task(file.read(size).decode())
        weights = decode_weights(file.read())
    if any(array.dtype.kind != "f" for array in weights.values()):
        raise ContractError("task.weights", "Only arrays of float32 are shared.")
    return task, weights


def _reap(child: int, result: int) -> Outcome:
    """Return what a child that closed its result came to."""
    data = b""
    while part := os.read(result, RESULT_BYTES_MAX):
        data += part
    os.close(result)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0 and data:
        return msgspec.json.decode(data, type=Outcome)
    if status < 0:
        name = signal.Signals(-status).name
        return Outcome(code="training.killed", text=f"The training was killed by {name}.")
    return Outcome(code="training.died", text=f"The training ended with status {status}.")


def _limit_memory(bytes_max: int) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = mapped + bytes_max
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
