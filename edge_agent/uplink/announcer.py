"""Announcer: tells the hub that the device is there, and what it runs.

1. On every connect: the birth (retained), then the Report whether or not it is news.
2. Every HEARTBEAT_S a heartbeat.
3. A Report as soon as it says something new (updates/reporting.py says what is new).
4. What cannot be sent now is sent at the next step: the newest Report is the only one that counts.
"""

import logging
import threading

from edge_agent.telemetry.sql_outbox import SqlOutbox
from edge_agent.updates.updater import Updater
from shared.clock import Clock
from shared.errors import ContractError, TransientError
from shared.ids import DeviceId
from shared.link.link import Link
from shared.wire.presence import Heartbeat, Presence

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
STEP_S = 0.25


class Announcer:
    """See the rules above. `on_connected` from any thread, the rest by one worker."""

    def __init__(
        self,
        link: Link,
        device: DeviceId,
        *,
        birth: Presence,
        updater: Updater,
        outbox: SqlOutbox,
        clock: Clock,
    ) -> None:
        """Args: `birth` is what is said of the device on every connect."""
        self._link = link
        self._device = device
        self._birth = birth
        self._updater = updater
        self._outbox = outbox
        self._clock = clock
        self._started_s = clock.monotonic_s()
        self._heartbeat_s = clock.monotonic_s()
        self._must_announce = threading.Event()
        self._must_report = True

    def on_connected(self) -> None:
        """Take notice that the link came up."""
        self._must_announce.set()

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set."""
        while not stop.is_set():
            self.step()
            self._clock.wait(stop, STEP_S)

    def step(self) -> None:
        """Say what is due, if the link is up."""
        if not self._link.is_connected:
            return
        try:
            self._announce()
            self._report()
            self._beat()
        except TransientError as error:
            log.debug("announcer.waits", extra={"code": error.code})

    def _announce(self) -> None:
        if self._must_announce.is_set():
            self._must_announce.clear()
            self._must_report = True
            try:
                self._link.publish(self._device, self._birth)
            except TransientError:
                self._must_announce.set()
                raise

    def _report(self) -> None:
        report = self._updater.take_report(again=self._must_report)
        if report is None:
            return
        self._must_report = True  # Until it is out
        try:
            self._link.publish(self._device, report)
        except ContractError as error:
            log.error("report.refused", extra={"code": error.code, "text": error.message})
        self._must_report = False

    def _beat(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._heartbeat_s < HEARTBEAT_S:
            return
        self._heartbeat_s = now_s
        self._link.publish(
            self._device,
            Heartbeat(
                uptime_s=int(now_s - self._started_s),
                outbox_rows=self._outbox.rows_count,
                outbox_dropped=self._outbox.dropped_count,
            ),
        )
