"""DeviceService: who belongs to the fleet, and whether it is there.

1. How devices join and renew is joining.py's to know, whether they are there presence_keeper.py's.
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

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_hub.devices import sql_store, sql_tokens
from cloud_hub.devices.device import (
    Device,
    DeviceState,
    Enrolment,
    require_device,
    unknown_device,
)
from cloud_hub.devices.groups import normalize_groups, parse_label
from cloud_hub.devices.join_token import KEPT_AFTER_EXPIRY_S, IssuedToken, StoredToken
from cloud_hub.devices.joining import Joining
from cloud_hub.devices.presence import PresenceState
from cloud_hub.devices.presence_keeper import PresenceKeeper
from cloud_hub.devices.x509_authority import Authority
from cloud_hub.sql_database import Database
from shared.clock import Clock, SystemClock, now_ms
from shared.errors import TransientError
from shared.ids import HUB_ID, DeviceId
from shared.settings import Settings
from shared.wire.certificates import CertificateReply
from shared.wire.codec import Received
from shared.wire.presence import Hardware

log = logging.getLogger(__name__)

ACTIVE_CACHE_S = 2.0
ACTIVE_CACHE_MAX = 10_000
DAILY_S = 24 * 3600.0


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
        self._joining = Joining(database, authority, self._clock)
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

    # Joining and renewing: see joining.py

    def create_token(
        self, *, name: str | None = None, groups: Iterable[str] = (), ttl_s: int = 3600
    ) -> IssuedToken:
        """Return a token with which one device can join. See Joining.create_token."""
        return self._joining.create_token(name=name, groups=groups, ttl_s=ttl_s)

    def open_tokens(self) -> tuple[StoredToken, ...]:
        """Return the tokens with which a device can join now. See Joining.open_tokens."""
        return self._joining.open_tokens()

    def withdraw_token(self, token_id: str) -> StoredToken:
        """Let nobody join with a token any more. See Joining.withdraw_token."""
        return self._joining.withdraw_token(token_id)

    def enrol(
        self, token_text: str, csr_pem: str, *, hardware: Hardware | None = None
    ) -> Enrolment:
        """Let a device join: a new id, and a certificate for its key. See Joining.enrol."""
        enrolment = self._joining.enrol(token_text, csr_pem, hardware=hardware)
        with self._lock:  # Somebody may have asked for this id before it was given out.
            self._answers.pop(enrolment.device_id, None)
        return enrolment

    def renew(self, device_id: DeviceId, csr_pem: str) -> CertificateReply:
        """Return a new certificate for a device's same key, or why not. See Joining.renew."""
        return self._joining.renew(device_id, csr_pem)

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
            return require_device(sql_store.get_device(connection, device_id))

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
            raise unknown_device()
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
            return require_device(sql_store.get_device(connection, device_id))

    def set_groups(self, device_id: DeviceId, groups: Iterable[str]) -> Device:
        """Put a device into these groups, and no others.

        Raises RefusedError `device.unknown`, `device.too_many_groups`; ContractError `id.group`.
        """
        names = normalize_groups(groups)
        with self._database.begin() as connection:
            require_device(sql_store.get_device(connection, device_id, for_update=True))
            sql_store.set_groups(connection, device_id, names)
            return require_device(sql_store.get_device(connection, device_id))

    def revoke(self, device_id: DeviceId) -> Device:
        """Put a device out of the fleet for good, and end its live session. May be repeated.

        Raises RefusedError `device.unknown`.
        """
        at_ms = now_ms(self._clock)
        with self._database.begin() as connection:
            device = require_device(sql_store.get_device(connection, device_id, for_update=True))
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
            revoked = require_device(sql_store.get_device(connection, device_id))
        log.warning("device.revoked", extra={"device": device_id})
        self._end_sessions([device_id])
        return revoked

    def write_crl(self) -> None:
        """Write the list of revoked certificates from what the database says."""
        self._authority.write_crl(self._read_revoked)

    def _read_revoked(self) -> list[tuple[str, int]]:
        with self._database.read() as connection:
            return sql_store.revoked_serials(connection, now_ms=now_ms(self._clock))

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
                sql_tokens.delete_tokens(connection, expired_before_ms=before_ms)

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


def _succeeds(act: Callable[..., None], *devices: DeviceId) -> bool:
    """Do a part of a revocation; return False, and say so in the log, if it must be done later."""
    try:
        act(*devices)
    except TransientError as error:
        extra = {"device": devices[0] if devices else "", "code": error.code, "text": str(error)}
        log.warning("device.revocation_put_off", extra=extra)
        return False
    return True
