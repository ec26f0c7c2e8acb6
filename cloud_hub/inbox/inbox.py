"""Inbox: one thread that takes what devices send, each message to the one service that owns it.

1. Presence, Heartbeat and CertificateRequest -> devices; RecordBatch -> telemetry, whose Watermark
   is the answer; Report -> rollouts; BlockRequest -> the BlockServer, which has its own thread.
2. A device that is not enrolled, or is revoked, is not heard.
3. What breaks a contract or a rule is counted by code, logged once per device and code per
   LOG_PERIOD_S, and done with: one broken device never stops the ingest of all others.
4. A TransientError (the database is busy or gone) concerns everybody: the message is tried again,
   with everything behind it waiting, TRIES_MAX times. Then records are given up (the device sends
   them again by itself), and anything else is left unacknowledged, so that the broker sends it
   again on the next connection; UNACKNOWLEDGED_MAX of those make one, before the broker's window
   of messages in flight is full of them.
5. The acknowledgement comes last: a crash before it makes the broker send the message again, and
   every service takes a repeated message for what it is.
6. A Watermark that the link had no room for is kept, the newest per stream, and sent later.
"""

import logging
import threading
from collections import Counter, OrderedDict
from typing import assert_never

from cloud_hub.devices.service import DeviceService
from cloud_hub.inbox.block_server import BlockServer
from cloud_hub.inbox.log_limit import LogLimit
from cloud_hub.rollouts.controller import RolloutController
from cloud_hub.telemetry.service import TelemetryService
from shared.backoff import Backoff
from shared.clock import Clock
from shared.errors import ContractError, IntegrityError, IsthmusError, RefusedError, TransientError
from shared.ids import DeviceId
from shared.link.link import Arrival, Connected, Delivery, Disconnected, Link, Rejection
from shared.wire.blocks import Block, BlockRequest
from shared.wire.certificates import CertificateReply, CertificateRequest
from shared.wire.codec import Received
from shared.wire.presence import Heartbeat, Presence
from shared.wire.records import RecordBatch, Watermark
from shared.wire.report import Report
from shared.wire.target import Target

log = logging.getLogger(__name__)

POLL_S = 0.5
IDLE_WAIT_S = 0.02
TRIES_MAX = 8
RETRY_S_MIN = 0.05
RETRY_S_MAX = 2.0
UNACKNOWLEDGED_MAX = 10  # mosquitto has 20 in flight by default
UNSENT_MAX = 10_000
LOG_PERIOD_S = 60.0
LOG_KEYS_MAX = 10_000
PATH_CHARS_MAX = 120


class Inbox:
    """See the rules above."""

    def __init__(
        self,
        link: Link,
        *,
        devices: DeviceService,
        telemetry: TelemetryService,
        rollouts: RolloutController,
        blocks: BlockServer,
        clock: Clock,
    ) -> None:
        """Route what comes over `link`, which somebody else starts and stops."""
        self._link, self._clock = link, clock
        self._devices, self._telemetry = devices, telemetry
        self._rollouts, self._blocks = rollouts, blocks
        self._log_limit = LogLimit(period_s=LOG_PERIOD_S, keys_max=LOG_KEYS_MAX)
        self._unacknowledged_count = 0
        self._unsent: OrderedDict[tuple[DeviceId, str], Watermark] = OrderedDict()
        self.received: Counter[str] = Counter()  # By topic
        self.rejected: Counter[str] = Counter()  # By the error's code

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set."""
        while not stop.is_set():
            if not self.step(stop, wait_s=POLL_S):
                # A link that was stopped answers at once.
                self._clock.wait(stop, IDLE_WAIT_S)

    def step(self, stop: threading.Event, *, wait_s: float) -> int:
        """Serve until nothing came for `wait_s`; return how many arrivals there were."""
        count = 0
        for arrival in self._link.arrivals(wait_s=wait_s):
            self._take(arrival, stop)
            count += 1
            if stop.is_set():
                break
        self._send_unsent()
        return count

    def _take(self, arrival: Arrival, stop: threading.Event) -> None:
        match arrival:
            case Connected():
                self._unacknowledged_count = 0
                self._rollouts.on_connected()
            case Disconnected():
                self._unacknowledged_count = 0
            case Rejection(path=path, error=error):
                self.received["rejected"] += 1
                self._reject(path[:PATH_CHARS_MAX], error)
            case Delivery(received=received):
                self.received[received.topic.name] += 1
                if not self._serve(received, stop):
                    self._leave_unacknowledged()
                    return
            case _:
                assert_never(arrival)
        self._link.acknowledge(arrival)

    def _serve(self, received: Received, stop: threading.Event) -> bool:
        """Serve one message; return whether it is done with (rule 4)."""
        backoff = Backoff(delay_s_min=RETRY_S_MIN, delay_s_max=RETRY_S_MAX)
        for _ in range(TRIES_MAX):
            try:
                self._route(received)
                return True
            except (ContractError, RefusedError, IntegrityError) as error:
                self._reject(received.device, error)
                return True
            except TransientError as error:
                self._reject(received.device, error)
                if self._clock.wait(stop, backoff.next_delay_s()):
                    return False
        log.error("inbox.gave_up", extra={"device": received.device, "topic": received.topic.name})
        return isinstance(received.message, RecordBatch)

    def _route(self, received: Received) -> None:
        device = received.device
        if not self._devices.is_active(device):
            raise RefusedError("inbox.unknown_device", f"{device} is not enrolled, or is revoked.")
        message = received.message
        match message:
            case Presence():
                self._devices.on_presence(received)
            case Heartbeat():
                self._devices.on_heartbeat(received)
            case RecordBatch():
                self._answer(device, self._telemetry.ingest(device, message))
            case Report():
                self._rollouts.on_report(received)
            case BlockRequest():
                self._blocks.request(device, message)
            case CertificateRequest():
                self._renew(device, message)
            case Target() | Watermark() | Block() | CertificateReply():
                raise ContractError("inbox.direction", "Only the hub sends that.")
            case _:
                assert_never(message)

    def _renew(self, device: DeviceId, request: CertificateRequest) -> None:
        reply = self._devices.renew(device, request.csr_pem)
        try:
            self._link.publish(device, reply)
        except TransientError as error:
            log.info("inbox.reply_lost", extra={"device": device, "code": error.code})

    def _answer(self, device: DeviceId, watermark: Watermark) -> None:
        """Send a Watermark, or keep it until the link has room (rule 6)."""
        key = device, watermark.stream
        self._unsent.pop(key, None)
        try:
            self._link.publish(device, watermark)
        except TransientError:
            self._unsent[key] = watermark
            if len(self._unsent) > UNSENT_MAX:
                self._unsent.popitem(last=False)

    def _send_unsent(self) -> None:
        while self._unsent and self._link.is_connected:
            (device, _), watermark = next(iter(self._unsent.items()))
            count = len(self._unsent)
            self._answer(device, watermark)
            if len(self._unsent) == count:
                return  # Still no room

    def _reject(self, who: str, error: IsthmusError) -> None:
        self.rejected[error.code] += 1
        if self._log_limit.allows((who, error.code), self._clock.monotonic_s()):
            text = error.message[:PATH_CHARS_MAX]
            log.warning("inbox.rejected", extra={"device": who, "code": error.code, "text": text})

    def _leave_unacknowledged(self) -> None:
        self._unacknowledged_count += 1
        if self._unacknowledged_count >= UNACKNOWLEDGED_MAX:
            self._unacknowledged_count = 0
            self._link.reconnect()
