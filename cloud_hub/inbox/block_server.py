"""BlockServer: answers devices' block requests, at a pace that leaves room for everything else.

1. `request` only queues (block_queue.py has the limits); `run` is a thread of its own, so reading
   files never holds up telemetry.
2. At most `bytes_per_s` go out in all. What the link has no room for is tried again for a while;
   what cannot be sent or read is dropped and counted: blocks are QoS 0, the device asks again.
"""

import logging
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from cloud_hub.inbox.block_queue import BlockQueue, WantedBlock
from cloud_hub.inbox.log_limit import LogLimit
from cloud_hub.releases.service import ReleaseService
from shared.clock import Clock
from shared.errors import ContractError, IntegrityError, RefusedError, TransientError
from shared.ids import DeviceId
from shared.link.link import Link
from shared.settings import Settings
from shared.wire.blocks import Block, BlockRequest

log = logging.getLogger(__name__)

POLL_S = 0.5
DEBT_S_MIN = 0.01  # Shorter waits than this cost more than they pace
FULL_WAIT_S = 0.05
FULL_TRIES_MAX = 40
LOG_PERIOD_S = 60.0
LOG_KEYS_MAX = 1000


class BlockServerSettings(Settings, frozen=True):
    """How fast releases go out."""

    bytes_per_s: Annotated[int, Meta(ge=1 << 16, le=1 << 40)] = 64 << 20


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """What this process sent since it started."""

    sent: int
    sent_bytes: int
    dropped: int


class BlockServer:
    """See the rules above."""

    def __init__(
        self,
        link: Link,
        releases: ReleaseService,
        clock: Clock,
        settings: BlockServerSettings | None = None,
    ) -> None:
        """Serve what `releases` has over `link`."""
        self._link, self._releases, self._clock = link, releases, clock
        self._settings = settings or BlockServerSettings()
        self._queue = BlockQueue()
        self._queue_lock = threading.Lock()
        self._wake = threading.Event()
        self._log_limit = LogLimit(period_s=LOG_PERIOD_S, keys_max=LOG_KEYS_MAX)
        self._tally: Counter[str] = Counter()
        self._debt_s = 0.0

    @property
    def counts(self) -> BlockCounts:
        """Return what this process sent since it started."""
        return BlockCounts(
            sent=self._tally["sent"],
            sent_bytes=self._tally["sent_bytes"],
            dropped=self._tally["dropped"] + self._queue.dropped_count,
        )

    def request(self, device: DeviceId, request: BlockRequest) -> None:
        """Queue what a device asks for; returns at once."""
        with self._queue_lock:
            self._queue.add(device, request)
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Send blocks until `stop` is set."""
        while not stop.is_set():
            if not self.step(stop):
                self._clock.wait(self._wake, POLL_S)
                self._wake.clear()

    def step(self, stop: threading.Event) -> bool:
        """Send the next block; return whether there was one."""
        with self._queue_lock:
            wanted = self._queue.take()
        if wanted is None:
            return False
        try:
            self._send(wanted, stop)
        except (TransientError, RefusedError, ContractError, IntegrityError) as error:
            self._tally["dropped"] += 1
            if self._log_limit.allows((wanted.device, error.code), self._clock.monotonic_s()):
                log.warning("blocks.dropped", extra={"device": wanted.device, "code": error.code})
        return True

    def _send(self, wanted: WantedBlock, stop: threading.Event) -> None:
        found = self._releases.read_block(wanted.path, wanted.index)
        if found is None:
            block = Block(
                path=wanted.path, index=wanted.index, file_bytes=0, data=b"", is_missing=True
            )
        else:
            block = Block(
                path=wanted.path,
                index=wanted.index,
                file_bytes=found.file_bytes,
                data=found.data,
            )
        self._publish(wanted.device, block, stop)
        self._tally["sent"] += 1
        self._tally["sent_bytes"] += len(block.data)
        self._pace(len(block.data), stop)

    def _publish(self, device: DeviceId, block: Block, stop: threading.Event) -> None:
        for _ in range(FULL_TRIES_MAX):
            try:
                self._link.publish(device, block)
                return
            except TransientError as error:
                if error.code != "link.full" or self._clock.wait(stop, FULL_WAIT_S):
                    raise
        raise TransientError("blocks.no_room", "The link had no room for a block for too long.")

    def _pace(self, size: int, stop: threading.Event) -> None:
        self._debt_s += size / self._settings.bytes_per_s
        if self._debt_s >= DEBT_S_MIN:
            self._clock.wait(stop, self._debt_s)
            self._debt_s = 0.0
