"""PresenceKeeper: carries out the rules of presence.py on the database.

1. A birth, a death, and a heartbeat that changes what is known are written at once.
2. A heartbeat that only says "still here" waits in memory, the newest of each device, and is
   written with all others by the next `expire` or by whoever asks: one disk flush a second, not
   one for each device. A crash in between loses nothing but how lately a device was seen.
3. Silence is counted on this process's monotonic clock.
"""

import logging
import threading
from dataclasses import dataclass

import sqlalchemy as sa

from cloud_hub.devices import sql_store
from cloud_hub.devices.device import DeviceState
from cloud_hub.devices.presence import (
    PresenceState,
    Standing,
    after_birth,
    after_death,
    after_heartbeat,
    after_silence,
)
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import ContractError
from shared.ids import DeviceId, SessionId
from shared.wire.codec import Received
from shared.wire.presence import Heartbeat, Presence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Beat:
    """A heartbeat that waits to be written."""

    session_id: SessionId
    message: Heartbeat
    at_ms: int


class PresenceKeeper:
    """See the rules above. Safe to share between threads."""

    def __init__(self, database: Database, clock: Clock, *, heartbeat_s: float) -> None:
        """Args: heartbeat_s: how often devices send one."""
        self._database = database
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._listening_s = clock.monotonic_s()
        self._writing = threading.RLock()  # Held from reading a standing to writing it
        self._lock = threading.Lock()  # Guards the three below; taken last.
        self._online: dict[DeviceId, SessionId] = {}  # As this process last wrote it
        self._beats: dict[DeviceId, _Beat] = {}
        self._heard_s: dict[DeviceId, float] = {}  # Monotonic, of the last sign of life taken

    def take_presence(self, received: Received) -> None:
        """Take a birth or a death; see DeviceService.on_presence."""
        message, device_id = received.message, received.device
        assert isinstance(message, Presence)
        with self._writing:
            self.forget(device_id)  # A heartbeat that waits came before this message.
            with self._database.begin() as connection:
                before = _active_standing(connection, device_id)
                after = self._after_presence(before, received, message)
                if after != before:
                    sql_store.set_standing(connection, device_id, after)
                    if message.is_online:
                        sql_store.set_birth_details(connection, device_id, message)
            self._note(device_id, before, after)

    def take_heartbeat(self, received: Received) -> None:
        """Take a heartbeat; see DeviceService.on_heartbeat."""
        message, device_id = received.message, received.device
        assert isinstance(message, Heartbeat)
        beat = _Beat(received.session_id, message, now_ms(self._clock))
        with self._lock:
            if self._online.get(device_id) == received.session_id:
                self._beats[device_id] = beat
                self._heard_s[device_id] = self._clock.monotonic_s()
                return
        with self._writing:
            with self._database.begin() as connection:
                before = _active_standing(connection, device_id)
                after = _write_beat(connection, device_id, before, beat)
            self._note(device_id, before, after)

    def write_beats(self) -> None:
        """Write the heartbeats that wait, in one transaction."""
        if not self._beats:
            return
        with self._writing:
            with self._lock:
                beats, self._beats = self._beats, {}
            with self._database.begin() as connection:
                for device_id, beat in sorted(beats.items()):
                    device = sql_store.get_device(connection, device_id, for_update=True)
                    if device is not None and device.state is DeviceState.ENROLLED:
                        _write_beat(connection, device_id, device.standing, beat)

    def expire(self) -> tuple[DeviceId, ...]:
        """Call silent devices unknown; return which ones became so."""
        self.write_beats()
        with self._database.read() as connection:
            online = sql_store.online_ids(connection)
        return tuple(one for one in online if self._is_silent(one) and self._expire(one))

    def forget(self, device_id: DeviceId) -> None:
        """Drop a heartbeat that waits, and ask the database at the next one."""
        with self._lock:
            self._beats.pop(device_id, None)
            self._online.pop(device_id, None)

    def _after_presence(self, before: Standing, received: Received, message: Presence) -> Standing:
        if not message.is_online:
            return after_death(before, received.session_id, reason=message.reason)
        return after_birth(
            before,
            received.session_id,
            message_id=received.message_id,
            reason=message.reason,
            now_ms=now_ms(self._clock),
        )

    def _is_silent(self, device_id: DeviceId) -> bool:
        standing = Standing(state=PresenceState.ONLINE)
        return self._after_silence(device_id, standing) != standing

    def _expire(self, device_id: DeviceId) -> bool:
        with self._writing:
            with self._database.begin() as connection:
                device = sql_store.get_device(connection, device_id, for_update=True)
                assert device is not None, "devices are never deleted"
                after = self._after_silence(device_id, device.standing)
                if after == device.standing:
                    return False
                sql_store.set_standing(connection, device_id, after)
            self.forget(device_id)
        log.warning("device.silent", extra={"device": device_id})
        return True

    def _after_silence(self, device_id: DeviceId, standing: Standing) -> Standing:
        with self._lock:
            heard_s = self._heard_s.get(device_id, self._listening_s)
        silent_s = self._clock.monotonic_s() - heard_s
        return after_silence(standing, silent_s=silent_s, heartbeat_s=self._heartbeat_s)

    def _note(self, device_id: DeviceId, before: Standing, after: Standing) -> None:
        """Remember what was written, and tell the log what changed."""
        if after == before:
            return
        if after.state is PresenceState.ONLINE and after.session_id is not None:
            with self._lock:
                self._heard_s[device_id] = self._clock.monotonic_s()
                self._online[device_id] = after.session_id
        if after.state is not before.state:
            extra = {"device": device_id, "presence": after.state, "reason": after.reason}
            log.info("device.presence", extra=extra)


def _write_beat(
    connection: sa.Connection, device_id: DeviceId, before: Standing, beat: _Beat
) -> Standing:
    after = after_heartbeat(before, beat.session_id, now_ms=beat.at_ms)
    if after != before:
        sql_store.set_heartbeat(connection, device_id, after, beat.message)
    return after


def _active_standing(connection: sa.Connection, device_id: DeviceId) -> Standing:
    device = sql_store.get_device(connection, device_id, for_update=True)
    if device is None or device.state is not DeviceState.ENROLLED:
        raise ContractError(
            "device.not_active", f"{device_id} does not belong to this hub's fleet."
        )
    return device.standing
