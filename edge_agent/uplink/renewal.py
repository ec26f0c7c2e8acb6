"""Renewal: the device's certificate renews itself, over the link, long before it expires.

1. It is due when a third of its life is left: with 90 days, thirty days of chances.
2. The device asks with a CSR for the same key; the hub answers with a certificate, or why not.
3. An answer that does not come, or a refusal, is asked for again after RETRY_S. Until the old
   certificate expires nothing stops working.
4. What the hub sends is checked before it takes the old one's place; then the link connects anew.
5. A device that was off until its certificate expired asks over HTTPS, since the broker does not
   let it in; if the hub cannot be reached it tries again after UNREACHABLE_S.
"""

import contextlib
import logging
import queue
import threading

from cryptography import x509

from edge_agent.uplink.file_identity import FileIdentity
from edge_agent.uplink.http_enrolment import parse_hub_url, request_renewal
from shared.clock import Clock, SystemClock
from shared.errors import ContractError, IntegrityError, RefusedError, TransientError
from shared.link.link import Link
from shared.wire.certificates import CertificateReply, CertificateRequest
from shared.wire.enrolment import RenewRequest

log = logging.getLogger(__name__)

DUE_SHARE = 1 / 3
STEP_S = 1.0
RETRY_S = 3600.0
UNREACHABLE_S = 60.0
REPLIES_MAX = 4


def is_due(*, not_before_s: float, not_after_s: float, now_s: float) -> bool:
    """Return whether a certificate should be renewed now: a third of its life, or less, is left."""
    return not_after_s - now_s <= DUE_SHARE * (not_after_s - not_before_s)


class Renewal:
    """See the rules above. `deliver` is called by the inbox's thread, all else by one worker."""

    def __init__(self, identity: FileIdentity, link: Link, *, clock: Clock | None = None) -> None:
        """Args: link: the device's own, connected with the identity's certificate."""
        self._identity = identity
        self._link = link
        self._clock = clock or SystemClock()
        self._replies: queue.Queue[CertificateReply] = queue.Queue(maxsize=REPLIES_MAX)
        self._is_awaited = False
        self._next_ask_s = 0.0  # Monotonic
        self._certificate: x509.Certificate | None = None  # In use; read again once replaced

    def deliver(self, reply: CertificateReply) -> None:
        """Take what the hub sent; dropped if REPLIES_MAX wait already."""
        try:
            self._replies.put_nowait(reply)
        except queue.Full:
            log.warning("certificate.reply_dropped")

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set."""
        while not stop.is_set():
            self.step()
            self._clock.wait(stop, STEP_S)

    def step(self) -> None:
        """Take a reply that came, and ask if it is time to."""
        with contextlib.suppress(queue.Empty):
            self._take(self._replies.get_nowait())
        if self._clock.monotonic_s() < self._next_ask_s:
            return
        if self._certificate is None:
            self._certificate = self._identity.certificate
        not_before_s = self._certificate.not_valid_before_utc.timestamp()
        not_after_s = self._certificate.not_valid_after_utc.timestamp()
        now_s = self._clock.now_s()
        if now_s >= not_after_s:
            self._ask_over_https()
        elif self._link.is_connected and is_due(
            not_before_s=not_before_s, not_after_s=not_after_s, now_s=now_s
        ):
            self._ask_over_link()

    def _ask_over_link(self) -> None:
        request = CertificateRequest(csr_pem=self._identity.csr_pem())
        try:
            self._link.publish(self._identity.device_id, request)
        except TransientError:
            return  # The link is down after all: the next step asks.
        self._is_awaited = True
        self._ask_again_after(RETRY_S)
        log.info("certificate.asked")

    def _ask_over_https(self) -> None:
        hub = self._identity.hub
        request = RenewRequest(device_id=hub.device_id, csr_pem=self._identity.csr_pem())
        self._ask_again_after(RETRY_S)
        try:
            reply = request_renewal(parse_hub_url(hub.url), request, ca_pem=self._identity.ca_pem)
        except TransientError as error:
            self._ask_again_after(UNREACHABLE_S)
            log.warning("certificate.expired", extra={"code": error.code, "text": str(error)})
            return
        except (RefusedError, IntegrityError, ContractError) as error:
            log.error("certificate.expired", extra={"code": error.code, "text": str(error)})
            return
        self._replace(reply.certificate_pem)

    def _ask_again_after(self, seconds: float) -> None:
        self._next_ask_s = self._clock.monotonic_s() + seconds

    def _take(self, reply: CertificateReply) -> None:
        if not self._is_awaited:
            return  # Nobody asked: an answer that came twice.
        if reply.code is not None:
            log.warning("certificate.refused", extra={"code": reply.code, "text": reply.text})
            return
        self._replace(reply.certificate_pem)

    def _replace(self, certificate_pem: str) -> None:
        try:
            self._identity.replace_certificate(certificate_pem)
        except (IntegrityError, ContractError, TransientError) as error:
            log.warning("certificate.not_taken", extra={"code": error.code, "text": error.message})
            return
        self._is_awaited = False
        self._next_ask_s = 0.0
        self._certificate = None
        log.info("certificate.renewed")
        self._link.reconnect()
