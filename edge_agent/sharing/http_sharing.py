"""HttpSharing: offers samples to the hub and sends them, over HTTPS, signed with the device's key.

1. The hub proves itself by the authority that the device joined with; the device proves itself by
   its signature on every request (shared/wire/signed_request.py).
2. Where the hub says that our clock is wrong, the request is signed once more with the hub's time.
   The machine's clock is left alone.
3. Whatever does not answer like a hub is tried again later: it may be a proxy, or a hub that dies.
"""

import secrets
import ssl
import threading
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from edge_agent.uplink.file_identity import FileIdentity
from edge_agent.uplink.http_enrolment import HubAnswer, accepted, ask_hub, parse_hub_url
from shared.clock import Clock, now_ms
from shared.errors import ContractError, RefusedError, TransientError
from shared.wire.device_samples import (
    ITEM_PATH,
    OFFER_PATH,
    ItemReply,
    OfferReply,
    SampleOffer,
    SharedItem,
)
from shared.wire.signed_request import TIME_HEADER, RequestProof, headers_of, signed_bytes

PIECE_BYTES = 32 * 1024  # Each within http_enrolment.TIMEOUT_S
STALE = "request.stale"
NOT_A_HUB = "enrolment.not_a_hub"
NONCE_BYTES = 8

T = TypeVar("T")


class HttpSharing:
    """See the rules above. Used by one thread."""

    def __init__(self, identity: FileIdentity, clock: Clock) -> None:
        """Args: identity: of this device, which has joined."""
        self._identity, self._clock = identity, clock
        self._ahead_ms = 0  # The hub's clock, of ours; as far as it had to tell

    def offer(self, offer: SampleOffer, stop: threading.Event) -> OfferReply:
        """Return what the hub wants of an offer. No sample leaves.

        Raises what the hub refuses with; TransientError; IntegrityError `enrolment.wrong_host`,
        `enrolment.wrong_certificate`; and as FileIdentity.key.
        """
        return self._ask(OFFER_PATH, msgspec.json.encode(offer), OfferReply, stop)

    def send(self, item: SharedItem, stop: threading.Event) -> ItemReply:
        """Send a sample; return once the hub has it. Raises as `offer`."""
        return self._ask(ITEM_PATH, msgspec.msgpack.encode(item), ItemReply, stop)

    def _ask(self, path: str, body: bytes, shape: type[T], stop: threading.Event) -> T:
        hub = parse_hub_url(self._identity.hub.url)
        try:
            answer = self._post(path, body, stop)
            try:
                return accepted(hub, answer, shape)
            except RefusedError as error:
                if error.code != STALE or not self._take_time(answer):
                    raise
            return accepted(hub, self._post(path, body, stop), shape)
        except ContractError as error:
            if error.code != NOT_A_HUB:
                raise
            raise TransientError(error.code, error.message, remedy=error.remedy) from error

    def _post(self, path: str, body: bytes, stop: threading.Event) -> HubAnswer:
        return ask_hub(
            parse_hub_url(self._identity.hub.url),
            ssl.create_default_context(cadata=self._identity.ca_pem),
            method="POST",
            path=path,
            body=_pieces(body, stop),
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(len(body)),
                **headers_of(self._proof(path, body)),
            },
        )

    def _proof(self, path: str, body: bytes) -> RequestProof:
        device, nonce = self._identity.device_id, secrets.token_hex(NONCE_BYTES)
        at_ms = max(0, now_ms(self._clock) + self._ahead_ms)
        signed = signed_bytes("POST", path, body, device=device, at_ms=at_ms, nonce=nonce)
        return RequestProof(
            device=device, at_ms=at_ms, nonce=nonce, signature=self._identity.sign(signed)
        )

    def _take_time(self, answer: HubAnswer) -> bool:
        """Remember the hub's time; return False if it did not tell it."""
        text = answer.headers.get(TIME_HEADER.lower(), "")
        if not (text.isascii() and text.isdecimal() and len(text) <= 16):
            return False
        self._ahead_ms = int(text) - now_ms(self._clock)
        return True


def _pieces(body: bytes, stop: threading.Event) -> Iterator[bytes]:
    """Yield a body in pieces, each of which has its own time; none after `stop`."""
    for start in range(0, len(body), PIECE_BYTES):
        if stop.is_set():
            raise TransientError("sharing.stopped", "The agent ends.")
        yield body[start : start + PIECE_BYTES]
