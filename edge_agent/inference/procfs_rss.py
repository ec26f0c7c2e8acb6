"""How much memory this process holds just now, from /proc; 0 where that cannot be told."""

import os
from pathlib import Path

_STATM = Path("/proc/self/statm")
_RESIDENT_INDEX = 1  # proc(5): size resident shared text lib data dt, in pages


def read_rss_bytes() -> int:
    """Return the resident memory of this process."""
    try:
        pages = int(_STATM.read_text().split()[_RESIDENT_INDEX])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
