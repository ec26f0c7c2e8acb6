"""Processes with limits: how the hub starts one to its end, and how one limits itself.

What such a process puts into temporary files lies in the folder that it was given, and goes with
it: one that is killed tidies up nothing.
"""

import errno
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.durable_file import write_failed
from shared.process_parent import under_parent

STDERR_CHARS_MAX = 300
_MEMORY_SIGNS = ("MemoryError", "can't allocate memory", "bad_alloc")  # numpy's, torch's, C++'s
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
START_S = 30  # Given to a process on top of its own limit, to start and to write


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Lend a folder for a process's files, gone afterwards.

    Raises TransientError `disk.write_failed` if the disk has no room for what goes there.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as name:
            yield Path(name)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise write_failed(Path(tempfile.gettempdir()), error) from error


def run_to_end(module: str, folder: Path, *, seconds_max: float) -> str:
    """Run `python -m module folder` to its end; return how it died, or "". It ends with the hub."""
    try:
        done = subprocess.run(
            under_parent(module, str(folder)),
            check=False,
            timeout=seconds_max,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(folder)},
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {seconds_max:.0f} s"
    return how_it_died(done.returncode, done.stderr)


def how_it_died(exit_code: int, stderr: bytes) -> str:
    """Return in words how a process ended; "" if well."""
    if exit_code == 0:
        return ""
    if exit_code == -signal.SIGXCPU:
        return "it used all the processor time it may"
    if exit_code < 0:
        return f"the process died of {signal.Signals(-exit_code).name}"
    told = stderr.decode(errors="replace")
    if any(sign in told for sign in _MEMORY_SIGNS):  # What came of it may be told last.
        return "it used all the memory it may"
    lines = told.strip().splitlines() or ["no reason given"]
    return lines[-1][:STDERR_CHARS_MAX]


def limit_this_process(memory_bytes_max: int, seconds_max: int) -> None:
    """Limit this process's address space and processor time; it leaves no core file."""
    limit_memory(memory_bytes_max)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds_max, seconds_max + 1))


def limit_memory(memory_bytes_max: int) -> None:
    """Limit this process's address space; it leaves no core file."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes_max, memory_bytes_max))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
