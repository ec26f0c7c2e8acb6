"""TargetInbox: what comes down from the hub, each message to the one part it is for.

One thread. Every part takes what it gets into a bounded mailbox of its own and returns at once.
"""

import logging
import threading

from edge_agent.telemetry.publisher import Publisher
from edge_agent.updates.transfer import BlockTransfer
from edge_agent.updates.updater import Updater
from edge_agent.uplink.announcer import Announcer
from edge_agent.uplink.renewal import Renewal
from shared.link.link import Arrival, Connected, Delivery, Disconnected, Link, Rejection
from shared.wire.blocks import Block
from shared.wire.certificates import CertificateReply
from shared.wire.records import Watermark
from shared.wire.target import Target
from shared.wire.topics import Message

log = logging.getLogger(__name__)

WAIT_S = 0.5


class TargetInbox:
    """See above."""

    def __init__(
        self,
        link: Link,
        *,
        updater: Updater,
        publisher: Publisher,
        transfer: BlockTransfer,
        renewal: Renewal,
        announcer: Announcer,
    ) -> None:
        """Args: who gets what."""
        self._link = link
        self._updater = updater
        self._publisher = publisher
        self._transfer = transfer
        self._renewal = renewal
        self._announcer = announcer
        self.rejected_count = 0

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set."""
        while not stop.is_set():
            for arrival in self._link.arrivals(wait_s=WAIT_S):
                self._take(arrival)
                if stop.is_set():
                    return

    def _take(self, arrival: Arrival) -> None:
        match arrival:
            case Connected():
                self._announcer.on_connected()
                self._publisher.on_connected()
            case Disconnected():  # The link says so in the log.
                pass
            case Rejection(error=error):
                self.rejected_count += 1
                log.warning("inbox.rejected", extra={"code": error.code, "text": error.message})
            case Delivery(received=received):
                self._route(received.message)
        self._link.acknowledge(arrival)

    def _route(self, message: Message) -> None:
        match message:
            case Target():
                self._updater.set_target(message)
            case Watermark():
                self._publisher.on_watermark(message)
            case Block():
                self._transfer.deliver(message)
            case CertificateReply():
                self._renewal.deliver(message)
            case _:  # The broker lets a device read its own `down/` only.
                log.warning("inbox.unexpected", extra={"message_type": type(message).__name__})
