"""DeviceService: who belongs to the fleet, and whether it is there.

1. Joining is one transaction: token, device, groups and certificate, or nothing. A device that
   lost the answer joins again with the same token and key and gets the same answer.
2. Revoking takes effect in this order: database, list of revoked certificates, live session. What
   of the last two fails is done again by `tick`, until it is done.
3. `is_active` is asked for every message, so it may be ACTIVE_CACHE_S old; a revocation by this
   process shows at once, one by another process after that time, and `tick` then ends the session.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_hub.devices import sql_store
from cloud_hub.devices.device import Device, DeviceState, Enrolment
from cloud_hub.devices.groups import normalize_groups, parse_label
from cloud_hub.devices.join_token import (
    KEPT_AFTER_EXPIRY_S,
    IssuedToken,
    StoredToken,
    parse_ttl_s,
    require_usable,
)
from cloud_hub.devices.presence import PresenceState
from cloud_hub.devices.presence_keeper import PresenceKeeper
from cloud_hub.devices.x509_authority import Authority
from cloud_hub.devices.x509_certificates import public_bytes, read_csr
from cloud_hub.sql_database import Database
from shared.clock import Clock, SystemClock, now_ms
from shared.errors import ContractError, IsthmusError, RefusedError, TransientError
from shared.ids import HUB_ID, DeviceId, new_device_id
from shared.join_token import new_join_token, parse_join_token
from shared.settings import Settings
from shared.wire.certificates import CertificateReply
from shared.wire.codec import Received
from shared.wire.presence import Hardware

log = logging.getLogger(__name__)

ACTIVE_CACHE_S = 2.0
ACTIVE_CACHE_MAX = 10_000
DAILY_S = 24 * 3600.0
RENEWAL_SHARE_MAX = 0.5  # A certificate with more of its life left is handed out again.


class DeviceSettings(Settings, frozen=True):
    """How the hub judges presence."""

    heartbeat_s: float = 15.0  # How often devices send one


class SessionCutter(Protocol):
    """Ends a device's live session with the broker. Implemented by the broker adapters."""

    def cut(self, device_id: DeviceId) -> None:
        """Close the device's connection, if there is one. Raises TransientError: try again."""
        ...


@dataclass(frozen=True, slots=True)
class _Answer:
    is_active: bool
    until_s: float  # Monotonic


class DeviceService:
    """See the rules above. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        authority: Authority,
        clock: Clock | None = None,
        *,
        settings: DeviceSettings | None = None,
        cutter: SessionCutter | None = None,
    ) -> None:
        """Write the list of revoked certificates anew, and begin."""
        self._database = database
        self._authority = authority
        self._clock = clock or SystemClock()
        self._settings = settings or DeviceSettings()
        self._cutter = cutter
        self._presence = PresenceKeeper(
            database, self._clock, heartbeat_s=self._settings.heartbeat_s
        )
        self._lock = threading.Lock()  # Guards the three below.
        self._answers: dict[DeviceId, _Answer] = {}
        self._revoked: set[DeviceId] = set()  # As far as this process has noticed
        self._cut: set[DeviceId] = set()  # Those of them whose session this process has ended
        self._daily_s = self._clock.monotonic_s()
        self.write_crl()

    def attach_cutter(self, cutter: SessionCutter) -> None:
        """Say who ends live sessions: a broker that was made after this service.

        The next `tick` ends those of all revoked devices, in case an earlier process died first.
        """
        with self._lock:
            self._cutter = cutter
            self._cut.clear()

    # Joining and renewing

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
            sql_store.insert_token(connection, stored)
        log.info("enrolment.token_created", extra={"expires_ms": stored.expires_ms})
        return IssuedToken(text=token.text, expires_ms=stored.expires_ms)

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
            stored = sql_store.lock_token(connection, token.secret_hash)
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
            sql_store.redeem_token(connection, usable.token_hash, device=device_id, now_ms=at_ms)
            if hardware is not None:
                sql_store.set_hardware(connection, device_id, hardware)
        self._forget_answer(device_id)
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
            device = _required(sql_store.get_device(connection, device_id, for_update=True))
            newest = sql_store.newest_certificate(connection, device_id)
            assert newest is not None, "a device has a certificate from its first day"
            certificate, known_key = newest
            if device.state is not DeviceState.ENROLLED:
                raise _revoked()
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

    # Asking

    def list_devices(self) -> list[Device]:
        """Return every device ever enrolled, the revoked ones included, by name."""
        self._presence.write_beats()
        with self._database.read() as connection:
            return sql_store.list_devices(connection)

    def get(self, device_id: DeviceId) -> Device:
        """Return a device. Raises RefusedError `device.unknown`."""
        self._presence.write_beats()
        with self._database.read() as connection:
            return _required(sql_store.get_device(connection, device_id))

    def select(self, group: str | None = None) -> tuple[DeviceId, ...]:
        """Return the enrolled devices of a group, or all of them, in order of id."""
        with self._database.read() as connection:
            return sql_store.enrolled_ids(connection, group=group)

    def group_counts(self) -> dict[str, int]:
        """Return how many enrolled devices each group has."""
        with self._database.read() as connection:
            return sql_store.group_counts(connection)

    def public_key(self, device_id: DeviceId) -> ec.EllipticCurvePublicKey:
        """Return the key that a device signs with; also of a revoked one.

        Raises RefusedError `device.unknown`.
        """
        with self._database.read() as connection:
            newest = sql_store.newest_certificate(connection, device_id)
        if newest is None:
            raise _unknown()
        key = serialization.load_der_public_key(newest[1])
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key

    def is_active(self, device_id: DeviceId) -> bool:
        """Return whether a device belongs to the fleet; up to ACTIVE_CACHE_S old."""
        at_s = self._clock.monotonic_s()
        with self._lock:
            answer = self._answers.get(device_id)
        if answer is not None and at_s < answer.until_s:
            return answer.is_active
        with self._database.read() as connection:
            device = sql_store.get_device(connection, device_id)
        is_active = device is not None and device.state is DeviceState.ENROLLED
        with self._lock:
            if len(self._answers) >= ACTIVE_CACHE_MAX:
                self._answers.clear()
            # A revocation during the query above must win, whichever of us is later.
            if device_id not in self._revoked:
                self._answers[device_id] = _Answer(is_active, at_s + ACTIVE_CACHE_S)
            else:
                is_active = False
        return is_active

    def is_allowed(self, device_id: DeviceId, serial: int) -> bool:
        """Return whether this certificate lets its owner into the broker; never cached."""
        if device_id == HUB_ID:
            return serial == self._authority.hub_serial
        with self._database.read() as connection:
            return sql_store.has_certificate(connection, device_id, f"{serial:x}")

    # Changing

    def rename(self, device_id: DeviceId, name: str) -> Device:
        """Give a device another label.

        Raises RefusedError `device.unknown`, ContractError `device.name_invalid`.
        """
        label = parse_label(name)
        with self._database.begin() as connection:
            sql_store.change_device(connection, device_id, name=label)
            return _required(sql_store.get_device(connection, device_id))

    def set_groups(self, device_id: DeviceId, groups: Iterable[str]) -> Device:
        """Put a device into these groups, and no others.

        Raises RefusedError `device.unknown`, `device.too_many_groups`; ContractError `id.group`.
        """
        names = normalize_groups(groups)
        with self._database.begin() as connection:
            _required(sql_store.get_device(connection, device_id, for_update=True))
            sql_store.set_groups(connection, device_id, names)
            return _required(sql_store.get_device(connection, device_id))

    def revoke(self, device_id: DeviceId) -> Device:
        """Put a device out of the fleet for good, and end its live session. May be repeated.

        Raises RefusedError `device.unknown`.
        """
        at_ms = now_ms(self._clock)
        with self._database.begin() as connection:
            device = _required(sql_store.get_device(connection, device_id, for_update=True))
            if device.state is DeviceState.ENROLLED:
                sql_store.change_device(
                    connection,
                    device_id,
                    state=DeviceState.REVOKED,
                    revoked_ms=at_ms,
                    presence=PresenceState.OFFLINE,
                    presence_reason="revoked",
                )
                sql_store.revoke_certificates(connection, device_id, now_ms=at_ms)
            revoked = _required(sql_store.get_device(connection, device_id))
        log.warning("device.revoked", extra={"device": device_id})
        self._end_sessions([device_id])
        return revoked

    def write_crl(self) -> None:
        """Write the list of revoked certificates from what the database says."""
        with self._database.read() as connection:
            revoked = sql_store.revoked_serials(connection, now_ms=now_ms(self._clock))
        self._authority.write_crl(revoked)

    # Presence

    def on_presence(self, received: Received) -> None:
        """Take a birth or a death.

        Raises ContractError `device.not_active`, TransientError `database.unavailable`.
        """
        self._presence.take_presence(received)

    def on_heartbeat(self, received: Received) -> None:
        """Take a heartbeat. Raises as `on_presence`."""
        self._presence.take_heartbeat(received)

    def expire_presence(self) -> tuple[DeviceId, ...]:
        """Call silent devices unknown; return which ones became so."""
        return self._presence.expire()

    def tick(self) -> None:
        """Do what time brings; call it every second or so.

        Silent devices become unknown, sessions of devices that another process revoked end, and
        once a day the list of revoked certificates is written anew and old tokens are forgotten.
        """
        self.expire_presence()
        with self._database.read() as connection:
            revoked = sql_store.revoked_ids(connection, now_ms=now_ms(self._clock))
        with self._lock:
            others = [device_id for device_id in revoked if device_id not in self._cut]
        if others:
            self._end_sessions(others)
        if self._clock.monotonic_s() - self._daily_s >= DAILY_S:
            self._daily_s = self._clock.monotonic_s()
            self.write_crl()
            before_ms = now_ms(self._clock) - KEPT_AFTER_EXPIRY_S * 1000
            with self._database.begin() as connection:
                sql_store.delete_tokens(connection, expired_before_ms=before_ms)

    def _end_sessions(self, revoked: list[DeviceId]) -> None:
        with self._lock:
            self._revoked.update(revoked)
            for device_id in revoked:
                self._answers.pop(device_id, None)
        for device_id in revoked:
            self._presence.forget(device_id)
        # The list first: a device that is cut comes back at once and must be refused.
        is_listed = _succeeds(self.write_crl)
        for device_id in revoked:
            is_cut = self._cutter is None or _succeeds(self._cutter.cut, device_id)
            if is_listed and is_cut:
                with self._lock:
                    self._cut.add(device_id)

    def _forget_answer(self, device_id: DeviceId) -> None:
        with self._lock:
            self._answers.pop(device_id, None)


def _succeeds(act: Callable[..., None], *devices: DeviceId) -> bool:
    """Do a part of a revocation; return False, and say so in the log, if it must be done later."""
    try:
        act(*devices)
    except TransientError as error:
        extra = {"device": devices[0] if devices else "", "code": error.code, "text": str(error)}
        log.warning("device.revocation_put_off", extra=extra)
        return False
    return True


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


def _required(device: Device | None) -> Device:
    if device is None:
        raise _unknown()
    return device


def _unknown() -> RefusedError:
    return RefusedError(
        "device.unknown",
        "There is no such device.",
        remedy="See the list: cloud-hub devices list.",
    )


def _revoked() -> RefusedError:
    return RefusedError(
        "device.revoked",
        "This device has been put out of the fleet.",
        remedy="Join again with a new token: edge-agent join --again.",
    )


def _refusal(error: IsthmusError) -> CertificateReply:
    return CertificateReply(code=error.code, text=str(error)[:2000])
