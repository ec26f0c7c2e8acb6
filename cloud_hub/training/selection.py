"""Who is asked in a Round: a sample that is the same whenever it is drawn again. Pure.

1. Mandatory devices always; of the others as many as make `fraction` of those there, and never
   fewer than `devices_min` in all.
2. A device still busy with an earlier Round is asked only where the free ones do not suffice: its
   late update is worth more than a second question in its queue.
3. The draw depends on job, seed, Round, repetition and the names, on nothing else.
"""

import hashlib
import math
from collections.abc import Collection

from cloud_hub.training.order import JobOrder


def choose(
    order: JobOrder,
    *,
    job: str,
    number: int,
    repeat: int,
    there: Collection[str],
    busy: Collection[str] = (),
) -> tuple[str, ...]:
    """Return whom to ask in Round `number`, in order of name."""
    mandatory = set(order.mandatory) & set(there)
    wanted = max(math.ceil(order.fraction * len(there) - 1e-9), order.devices_min)
    draw = f"{job}\0{order.seed}\0{number}\0{repeat}\0"
    others = sorted(
        set(there) - mandatory, key=lambda device: _rank(draw, device, is_busy=device in busy)
    )
    free = [device for device in others if device not in busy]
    enough = max(order.devices_min - len(mandatory), 0)
    pool = free if len(free) >= enough else others[:enough]
    return tuple(sorted(mandatory | set(pool[: max(wanted - len(mandatory), 0)])))


def _rank(draw: str, device: str, *, is_busy: bool) -> tuple[bool, bytes]:
    return is_busy, hashlib.sha256((draw + device).encode()).digest()
