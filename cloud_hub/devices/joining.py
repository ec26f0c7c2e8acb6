"""Joining: how devices get into the fleet, and stay in it: tokens, certificates, renewals.

1. Joining is one transaction: token, device, groups and certificate, or nothing. A device that
   lost the answer joins again with the same token and key and gets the same answer.
2. A token that nobody used yet can be withdrawn: it expires at once.
3. A certificate is renewed for the same key only.

What must not live here: anything about a device after it joined but its certificate.
"""

import logging
from collections.abc import Iterable

import sqlalchemy as sa

from cloud_hub.devices import sql_store, sql_tokens
from cloud_hub.devices.device import DeviceState, Enrolment, require_device
from cloud_hub.devices.groups import normalize_groups, parse_label
from cloud_hub.devices.join_token import (
    IssuedToken,
    StoredToken,
    parse_ttl_s,
    require_usable,
    require_withdrawable,
)
from cloud_hub.devices.x509_authority import Authority
from cloud_hub.devices.x509_certificates import public_bytes, read_csr
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import ContractError, IsthmusError, RefusedError
from shared.ids import DeviceId, new_device_id
from shared.join_token import new_join_token, parse_join_token
from shared.wire.certificates import CertificateReply
from shared.wire.presence import Hardware

log = logging.getLogger(__name__)

RENEWAL_SHARE_MAX = 0.5  # A certificate with more of its life left is handed out again.
TEXT_CHARS_MAX = 2000


class Joining:
    """See the rules above. Safe to share between threads."""

    def __init__(self, database: Database, authority: Authority, clock: Clock) -> None:
        self._database = database
        self._authority = authority
        self._clock = clock

    def create_token(
        self, *, name: str | None = None, groups: Iterable[str] = (), ttl_s: int = 3600
    ) -> IssuedToken:
        """Return a token with which one device can join within `ttl_s` seconds.

        Args: name, groups: what the device will be called, and where it will belong.

        Raises ContractError `device.name_invalid`, `id.group`; RefusedError `enrolment.ttl`,
        `device.too_many_groups`.
        """
        token = new_join_token(self._authority.ca_fingerprint)
        at_ms = now_ms(self._clock)
        stored = StoredToken(
            token_hash=token.secret_hash,
            name=None if name is None else parse_label(name),
            groups=normalize_groups(groups),
            created_ms=at_ms,
            expires_ms=at_ms + parse_ttl_s(ttl_s) * 1000,
        )
        with self._database.begin() as connection:
            sql_tokens.insert_token(connection, stored)
        log.info("enrolment.token_created", extra={"expires_ms": stored.expires_ms})
        return IssuedToken(token_id=stored.token_id, text=token.text, expires_ms=stored.expires_ms)

    def open_tokens(self) -> tuple[StoredToken, ...]:
        """Return the tokens with which a device can join now, the one that ends first, first."""
        with self._database.read() as connection:
            return sql_tokens.open_tokens(connection, now_ms=now_ms(self._clock))

    def withdraw_token(self, token_id: str) -> StoredToken:
        """Let nobody join with a token any more; return it as it was. May be repeated.

        Raises RefusedError `enrolment.token_unknown`, `enrolment.token_used`.
        """
        at_ms = now_ms(self._clock)
        with self._database.begin() as connection:
            stored = sql_tokens.lock_token_of_id(connection, token_id)
            token = require_withdrawable(stored)
            if token.expires_ms > at_ms:
                sql_tokens.expire_token(connection, token.token_hash, now_ms=at_ms)
        log.info("enrolment.token_withdrawn", extra={"token": token.token_id})
        return token

    def enrol(
        self, token_text: str, csr_pem: str, *, hardware: Hardware | None = None
    ) -> Enrolment:
        """Let a device join: a new id, and a certificate for its key.

        Raises ContractError `enrolment.token_invalid`, `enrolment.csr_invalid`,
        `enrolment.key_type`; RefusedError `enrolment.token_unknown`, `enrolment.token_used`,
        `enrolment.token_expired`, `enrolment.other_hub`.
        """
        token = parse_join_token(token_text)
        if token.ca_fingerprint != self._authority.ca_fingerprint:
            raise RefusedError(
                "enrolment.other_hub",
                "This join token is for another hub.",
                remedy="Make one on this hub: cloud-hub token create.",
            )
        public_key = read_csr(csr_pem)
        at_ms = now_ms(self._clock)
        with self._database.begin() as connection:
            stored = sql_tokens.lock_token(connection, token.secret_hash)
            repeated = _repeated(connection, stored, public_bytes(public_key), now_ms=at_ms)
            if repeated is not None:
                return repeated
            usable = require_usable(stored, now_ms=at_ms)
            device_id = _free_id(connection)
            certificate = self._authority.issue(public_key, device_id)
            sql_store.insert_device(
                connection,
                device_id,
                name=usable.name or device_id,
                certificate=certificate,
                now_ms=at_ms,
            )
            sql_store.insert_certificate(
                connection, device_id, certificate, public_key=public_bytes(public_key)
            )
            sql_store.set_groups(connection, device_id, usable.groups)
            sql_tokens.redeem_token(connection, usable.token_hash, device=device_id, now_ms=at_ms)
            if hardware is not None:
                sql_store.set_hardware(connection, device_id, hardware)
        log.info("enrolment.joined", extra={"device": device_id})
        return Enrolment(device_id=device_id, certificate_pem=certificate.certificate_pem)

    def renew(self, device_id: DeviceId, csr_pem: str) -> CertificateReply:
        """Return a new certificate for a device's same key, or in the reply why not.

        Asked again before half of the newest certificate's life is over, it returns that one.
        Raises TransientError `database.unavailable` only.
        """
        try:
            return CertificateReply(certificate_pem=self._renew(device_id, csr_pem))
        except (RefusedError, ContractError) as error:
            log.warning("certificate.refused", extra={"device": device_id, "code": error.code})
            return _refusal(error)

    def _renew(self, device_id: DeviceId, csr_pem: str) -> str:
        public_key = read_csr(csr_pem)
        at_ms = now_ms(self._clock)
        with self._database.begin() as connection:
            device = require_device(sql_store.get_device(connection, device_id, for_update=True))
            newest = sql_store.newest_certificate(connection, device_id)
            assert newest is not None, "a device has a certificate from its first day"
            certificate, known_key = newest
            if device.state is not DeviceState.ENROLLED:
                raise RefusedError(
                    "device.revoked",
                    "This device has been put out of the fleet.",
                    remedy="Join again with a new token: edge-agent join --again.",
                )
            if public_bytes(public_key) != known_key:
                raise RefusedError(
                    "certificate.other_key",
                    "A certificate is renewed only for the key that the device joined with.",
                    remedy="Join again with a new token: edge-agent join --again.",
                )
            left_ms = certificate.expires_ms - at_ms
            if left_ms > RENEWAL_SHARE_MAX * (certificate.expires_ms - certificate.issued_ms):
                return certificate.certificate_pem
            renewed = self._authority.issue(public_key, device_id)
            sql_store.insert_certificate(connection, device_id, renewed, public_key=known_key)
        log.info("certificate.renewed", extra={"device": device_id})
        return renewed.certificate_pem


def _repeated(
    connection: sa.Connection, token: StoredToken | None, public_key: bytes, *, now_ms: int
) -> Enrolment | None:
    """Return what this same key got for this same token before, if it may still have it."""
    if token is None or token.device_id is None:
        return None
    device = sql_store.get_device(connection, token.device_id)
    newest = sql_store.newest_certificate(connection, token.device_id)
    if device is None or device.state is not DeviceState.ENROLLED or newest is None:
        return None
    certificate, known_key = newest
    if known_key != public_key or certificate.expires_ms <= now_ms:
        return None
    return Enrolment(device_id=device.device_id, certificate_pem=certificate.certificate_pem)


def _free_id(connection: sa.Connection) -> DeviceId:
    while True:  # Ends: there are 8 * 10^11 ids.
        device_id = new_device_id()
        if sql_store.get_device(connection, device_id) is None:
            return device_id


def _refusal(error: IsthmusError) -> CertificateReply:
    return CertificateReply(code=error.code, text=str(error)[:TEXT_CHARS_MAX])
