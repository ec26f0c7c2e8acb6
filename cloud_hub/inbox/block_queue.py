"""BlockQueue: which block of which file is sent next, and to whom. Pure; not thread-safe.

1. Devices take turns, one block each: one that asks for much does not delay the others.
2. A device has at most BLOCKS_PER_DEVICE_MAX blocks waiting, all together BLOCKS_MAX. Past either
   the oldest go: that device's own, or those of the device whose turn is next. It asks again.
3. A block that already waits for a device is not added twice.
"""

from collections import OrderedDict
from dataclasses import dataclass

from shared.ids import DeviceId
from shared.wire.blocks import WINDOW_BLOCKS_MAX, BlockRequest

BLOCKS_PER_DEVICE_MAX = 4 * WINDOW_BLOCKS_MAX
BLOCKS_MAX = 16_384


@dataclass(frozen=True, slots=True)
class WantedBlock:
    """One block that one device waits for."""

    device: DeviceId
    path: str
    index: int


class BlockQueue:
    """See the rules above."""

    def __init__(self) -> None:
        self.dropped_count = 0
        self._by_device: OrderedDict[DeviceId, OrderedDict[WantedBlock, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, device: DeviceId, request: BlockRequest) -> None:
        """Add what `request` asks for."""
        indices = wanted_indices(request)
        if not indices:
            return
        waiting = self._by_device.setdefault(device, OrderedDict())
        for index in indices:
            block = WantedBlock(device, request.path, index)
            if block not in waiting:
                waiting[block] = None
                self._count += 1
        while len(waiting) > BLOCKS_PER_DEVICE_MAX:
            self._drop_oldest(device)
        while self._count > BLOCKS_MAX:
            self._drop_oldest(next(iter(self._by_device)))

    def take(self) -> WantedBlock | None:
        """Return the next block; its device goes to the end of the row."""
        if not self._by_device:
            return None
        device, waiting = self._by_device.popitem(last=False)
        block, _ = waiting.popitem(last=False)
        self._count -= 1
        if waiting:
            self._by_device[device] = waiting
        return block

    def _drop_oldest(self, device: DeviceId) -> None:
        waiting = self._by_device[device]
        waiting.popitem(last=False)
        if not waiting:
            del self._by_device[device]
        self._count -= 1
        self.dropped_count += 1


def wanted_indices(request: BlockRequest) -> tuple[int, ...]:
    """Return the blocks that a request's bitmap names: bit 0 of byte 0 is `first` itself."""
    return tuple(
        request.first + bit
        for bit in range(len(request.wanted) * 8)
        if request.wanted[bit // 8] >> (bit % 8) & 1
    )
