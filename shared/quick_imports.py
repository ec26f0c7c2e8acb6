"""quick_imports: what a program imports at its start is not looked through for garbage.

1. While thousands of objects come and none goes, Python looks through all of them again and again:
   a sixth of the start of a hub. Within the block it does not.
2. What was imported stays as long as the process: it is taken out of the later rounds too, and of
   those at the end, which cost a small command as much again.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import within it what a program needs; at module level only. Blocks may nest."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
    gc.freeze()
