"""Memory that this process got and no longer needs, handed back to the system (Linux, glibc).

1. `limit_arenas`: glibc gives every thread a heap of its own, and each keeps its own free pages.
   The agent's dozen threads share ARENAS_MAX of them.
2. `pad_heap`: frames come and go some hundred times a second. glibc would give many of their pages
   back to the system and have them cleared for the next ones, 10 to 50 page faults a frame; up to
   HEAP_PAD_BYTES of what is free stay. What is in use at the same time bounds what that costs.
3. `hand_back_memory`: free heap pages, and the pages of program files that only starting or loading
   needed (75 MB of code and constants are mapped then, 30 MB are in use while frames are decided).
   The kernel would take the latter back under pressure, one by one; they are read-only copies of
   files, and one that is needed again is mapped again out of the page cache.
4. Only read-only mappings that hold no private page are let go: what a loader or a debugger wrote
   into one is in no file.
5. Measured on FastestDet int8 over 768x432 video: handing back takes 3 to 6 ms, the items after it
   1 ms more in all.

What must not live here: when. Whoever has just loaded something big calls it.
"""

import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ARENAS_MAX = 2
HEAP_PAD_BYTES = 64 << 20  # Ten frames of 1080p, more than are ever under way
SMAPS = Path("/proc/self/smaps")
MEMINFO = Path("/proc/meminfo")
SMAPS_BYTES_MAX = 8 << 20
_M_ARENA_MAX = -8  # malloc.h
_M_TOP_PAD = -2
_MADV_DONTNEED = 4  # sys/mman.h
_HEADER = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ +(/.*)")

_LIBC = ctypes.CDLL(None)
_HAS_MALLOC_TRIM = hasattr(_LIBC, "malloc_trim")
_HAS_MALLOPT = hasattr(_LIBC, "mallopt")
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def limit_arenas() -> None:
    """Let all threads share a few heaps, see rule 1; of use before they are started."""
    if _HAS_MALLOPT:
        _LIBC.mallopt(_M_ARENA_MAX, ARENAS_MAX)


def pad_heap() -> None:
    """Keep the memory of frames for the next ones, see rule 2; before threads are started."""
    if _HAS_MALLOPT:
        _LIBC.mallopt(_M_TOP_PAD, HEAP_PAD_BYTES)


def hand_back_memory() -> None:
    """Hand back what is free or can be had again from a file; see rules 3 and 4."""
    if sys.is_finalizing():  # A session that lived to the end of the process
        return
    if _HAS_MALLOC_TRIM:
        _LIBC.malloc_trim(0)
    for start, end in _unwritten_mappings():
        _LIBC.madvise(start, end - start, _MADV_DONTNEED)


def memory_total_bytes() -> int:
    """Return how much memory this machine has; 0 where it does not tell."""
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("MemTotal:")]
    return int(found[0]) * 1024 if found else 0


def _unwritten_mappings() -> Iterator[tuple[int, int]]:
    """Yield the read-only address ranges of files in which no page is private to this process."""
    try:
        with SMAPS.open("rb") as file:
            lines = file.read(SMAPS_BYTES_MAX).splitlines()
    except OSError:  # No procfs: nothing is handed back
        return
    found: tuple[int, int] | None = None
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header:
            start, end, rights, _ = header.groups()
            is_read_only = rights in (b"r-xp", b"r--p")
            found = (int(start, 16), int(end, 16)) if is_read_only else None
        elif line.startswith(b"Anonymous:") and found is not None:
            if int(line.split()[1]) == 0:
                yield found
            found = None
