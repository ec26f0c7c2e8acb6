"""How long a thread of another process has computed, from /proc."""

import os
from pathlib import Path

_PROC = Path("/proc")
_USER_INDEX, _SYSTEM_INDEX = 11, 12  # proc(5), stat: utime and stime, counted after the name


def thread_cpu_s(pid: int, thread: int) -> float | None:
    """Return the seconds that it has computed, in steps of a clock tick; None: /proc says none."""
    try:
        text = (_PROC / str(pid) / "task" / str(thread) / "stat").read_text()
        fields = text.rpartition(")")[2].split()
        ticks = int(fields[_USER_INDEX]) + int(fields[_SYSTEM_INDEX])
    except (OSError, ValueError, IndexError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")
