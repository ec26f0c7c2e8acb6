"""Joining a hub: whom to believe, in which order, and what to keep.

1. The join token names the hub's authority. A hub that introduces itself with another one never
   sees the token.
2. Then the clocks are compared: with one far off, every certificate looks expired or not yet good.
3. Only then the token is sent, over TLS verified by that authority.
4. Joining that was interrupted anywhere is simply done again with the same token and key: the hub
   gives the same answer.
"""

import base64
import binascii
import logging
from collections.abc import Callable
from datetime import timedelta

from cryptography.hazmat.primitives import hashes

from edge_agent.uplink.file_identity import (
    FileIdentity,
    HubRecord,
    load_certificate,
    make_csr,
)
from edge_agent.uplink.http_enrolment import (
    HubAddress,
    fetch_introduction,
    parse_hub_url,
    request_join,
)
from shared.clock import Clock, SystemClock, now_ms
from shared.errors import ContractError, IntegrityError, RefusedError, TransientError
from shared.join_token import JoinToken, parse_join_token
from shared.wire.enrolment import HubIntroduction, JoinReply, JoinRequest
from shared.wire.presence import Hardware

log = logging.getLogger(__name__)

CLOCK_DIFFERENCE_MS_MAX = 5 * 60 * 1000

FindHub = Callable[[str], tuple[str, ...]]  # From the CA's fingerprint to addresses to try


def join(
    url: str | None,
    token_text: str,
    identity: FileIdentity,
    *,
    find_hub: FindHub,
    hardware: Hardware | None = None,
    clock: Clock | None = None,
    again: bool = False,
) -> HubRecord:
    """Make this device belong to a hub; return which, and as whom.

    Args:
        url: the hub's address, or None to look for it on the local network with `find_hub`.
        token_text: what `cloud-hub token create` printed.
        identity: where to keep it.
        find_hub: zeroconf_discovery.find_hub.
        hardware: what the device is made of.
        clock: the device's clock.
        again: give up the identity that the device has, once the new hub has answered.

    Raises:
        RefusedError: `identity.joined`, `clock.far_off`, and what the hub refuses with:
            `enrolment.token_unknown`, `enrolment.token_used`, `enrolment.token_expired`, ….
        IntegrityError: `enrolment.wrong_ca`, `enrolment.wrong_host`, ….
        ContractError: `enrolment.token_invalid`, `enrolment.url_invalid`, `enrolment.not_a_hub`.
        TransientError: `enrolment.hub_unreachable`, `discovery.none`, `disk.write_failed`.
    """
    token = parse_join_token(token_text)
    if identity.is_joined and not again:
        raise RefusedError(
            "identity.joined",
            f"This device belongs to the hub {identity.hub.url} as {identity.device_id}.",
            remedy="To give that up and join anew, add --again.",
        )
    hub, introduction = _first_hub(url, token, find_hub)
    _require_authority(introduction, token, hub)
    _require_clock(introduction, now_ms=now_ms(clock or SystemClock()))
    request = JoinRequest(
        token=token.text, csr_pem=make_csr(identity.key_for_joining()), hardware=hardware
    )
    reply = request_join(hub, request, ca_pem=introduction.ca_pem)
    record = _keep(identity, hub, introduction, reply, token)
    log.info("enrolment.joined", extra={"device": record.device_id, "hub": record.url})
    return record


def _first_hub(
    url: str | None, token: JoinToken, find_hub: FindHub
) -> tuple[HubAddress, HubIntroduction]:
    """Return the first address where something answers, with what it says."""
    if url is not None:
        hub = parse_hub_url(url)
        return hub, fetch_introduction(hub)
    problem: TransientError | None = None
    for found in find_hub(token.ca_fingerprint):
        hub = parse_hub_url(found)
        try:
            return hub, fetch_introduction(hub)
        except TransientError as error:  # It announced an address that we have no way to.
            problem = error
    assert problem is not None, "find_hub returns at least one address, or raises"
    raise problem


def _require_authority(introduction: HubIntroduction, token: JoinToken, hub: HubAddress) -> None:
    try:
        authority = load_certificate(introduction.ca_pem)
    except IntegrityError as error:
        raise ContractError(
            "enrolment.not_a_hub",
            f"What answers at {hub.url} is not an Isthmus hub: it shows no certificate.",
            remedy="Check the address and the port.",
        ) from error
    if authority.fingerprint(hashes.SHA256()).hex() != token.ca_fingerprint:
        raise IntegrityError(
            "enrolment.wrong_ca",
            f"The hub at {hub.url} is not the one that this join token is for. Somebody may be "
            "between this device and the hub, or the token belongs to another hub.",
            remedy="Check the address, and make the token on the very hub that you join.",
        )


def _require_clock(introduction: HubIntroduction, *, now_ms: int) -> None:
    ahead_ms = now_ms - introduction.now_ms
    if abs(ahead_ms) > CLOCK_DIFFERENCE_MS_MAX:
        difference = timedelta(seconds=abs(ahead_ms) // 1000)
        side = "ahead of" if ahead_ms > 0 else "behind"
        raise RefusedError(
            "clock.far_off",
            f"This device's clock is {difference} (h:mm:ss) {side} the hub's.",
            remedy="Set the one that is wrong (on the device: timedatectl set-ntp true), and join "
            "again; the token is still good.",
        )


def _keep(
    identity: FileIdentity,
    hub: HubAddress,
    introduction: HubIntroduction,
    reply: JoinReply,
    token: JoinToken,
) -> HubRecord:
    try:
        root = base64.b64decode(reply.tuf_root, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ContractError(
            "enrolment.not_a_hub", f"The hub at {hub.url} sent a TUF root that makes no sense."
        ) from error
    record = HubRecord(
        device_id=reply.device_id,
        url=hub.url,
        broker_host=reply.broker_host or hub.host,
        broker_port=reply.broker_port,
        ca_fingerprint=token.ca_fingerprint,
        hub_name=reply.hub_name,
        hub_version=reply.hub_version,
    )
    identity.install(
        record, certificate_pem=reply.certificate_pem, ca_pem=introduction.ca_pem, root=root
    )
    return record
