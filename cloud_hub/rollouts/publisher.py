"""TargetPublisher: Targets from the database to the broker, retained. Repeats until handed over.

1. Composing, handing to the link and marking as published is one transaction that holds the
   devices' rows: two hub processes publish a device's Targets in the order of their revisions. The
   link never blocks, so neither does the transaction.
2. A hub killed in between publishes again; a device ignores a revision it has taken up.
3. When the link is down or full the rest stays pending, until the next call.
"""

import logging
from collections.abc import Sequence

from cloud_hub.devices.service import DeviceService
from cloud_hub.rollouts import sql_targets
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import ContractError, TransientError
from shared.ids import DeviceId
from shared.link.link import Link
from shared.wire.target import Target

log = logging.getLogger(__name__)

CHUNK_DEVICES = 100  # In one transaction
CHUNKS_MAX = 5  # In one call: well under the link's OUTGOING_MAX


class TargetPublisher:
    """See the rules above. Thread-safe."""

    def __init__(
        self, database: Database, devices: DeviceService, link: Link, clock: Clock
    ) -> None:
        self._database = database
        self._devices = devices
        self._link = link
        self._clock = clock

    def publish_pending(self) -> int:
        """Publish Targets that are pending; return how many. Never raises for a link that is down.

        Raises TransientError `database.unavailable`.
        """
        total = 0
        for _ in range(CHUNKS_MAX):
            with self._database.read() as connection:
                pending = sql_targets.read_pending(connection, limit=CHUNK_DEVICES)
            if not pending or not self._link.is_connected:
                break
            published, is_blocked = self._publish(pending)
            total += published
            if is_blocked:
                break
        if total:
            log.info("targets.published", extra={"targets_count": total})
        return total

    def republish_all(self) -> int:
        """Publish every device's Target again, as far as the link takes them now; the rest later.

        For a broker that may have lost what it retained. Returns how many devices have a Target.
        Raises TransientError `database.unavailable`.
        """
        with self._database.begin() as connection:
            count = sql_targets.forget_published(connection)
        self.publish_pending()
        return count

    def count_pending(self) -> int:
        """Return how many devices' newest Target was not handed to the link yet."""
        with self._database.read() as connection:
            return sql_targets.count_pending(connection)

    def _publish(self, devices: Sequence[DeviceId]) -> tuple[int, bool]:
        """Publish the Targets of `devices`; return how many, and whether the link took no more."""
        active = {device_id for device_id in devices if self._devices.is_active(device_id)}
        at_ms = now_ms(self._clock)
        done: list[tuple[DeviceId, int]] = []
        published, is_blocked = 0, False
        with self._database.begin() as connection:
            for device_id, target in sql_targets.lock_pending(connection, devices, now_ms=at_ms):
                if device_id in active:
                    try:
                        published += self._hand_over(device_id, target)
                    except TransientError as error:
                        log.info("targets.delayed", extra={"code": error.code})
                        is_blocked = True
                        break
                done.append((device_id, target.revision))
            sql_targets.mark_published(connection, done, now_ms=at_ms)
        return published, is_blocked

    def _hand_over(self, device_id: DeviceId, target: Target) -> int:
        try:
            self._link.publish(device_id, target)
        except ContractError as error:
            # Trying again cannot help; the device stays UNKNOWN, which holds its rollout.
            log.error("targets.refused", extra={"device": device_id, "code": error.code})
            return 0
        return 1
