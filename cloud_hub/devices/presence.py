"""Presence: what the hub may conclude from births, deaths, heartbeats, and silence. Pure rules.

A device's session id names one connection's life and is never used twice. Of births and deaths
the broker keeps the last one and sends it again whenever the hub connects; a last will may come
long after the device is back; the device's clock may be wrong, so no rule looks at it. Hence:

1. A birth makes its session the current one and the device online; the session before is ended.
2. A birth that was taken already (the same message id) says nothing new: it is the broker's
   copy. So a device that went silent does not come alive because the hub restarted.
3. A birth of an ended session says nothing: it is older than what is known.
4. The death of the current session makes the device offline.
5. The death of an ended session says nothing: it is late.
6. The death of a session never heard of counts only if the device is not online: it may be
   older than the current session. If it was newer after all, rule 9 finds out.
7. A heartbeat of the current session, or of one never heard of (its birth was lost), makes the
   device online in that session.
8. A heartbeat of an ended session counts only if the device is not online. So whatever was lost
   or came in the wrong order, a device that goes on sending heartbeats ends up online.
9. Silence of HEARTBEATS_MISSED_MAX intervals makes an online device unknown: not offline, for the
   link may be what broke. It is measured by the hub from the last birth or heartbeat that it
   took, or from its own start: the hub does not hold its own absence against a device.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from shared.ids import SessionId

HEARTBEATS_MISSED_MAX = 3
ENDED_SESSIONS_MAX = 8  # Remembered per device
NEVER_SEEN = "never seen"
SILENT = "no heartbeat"


class PresenceState(StrEnum):
    """Whether a device is there."""

    ONLINE = "online"
    OFFLINE = "offline"  # It said so, or its broker did
    UNKNOWN = "unknown"  # It is silent


@dataclass(frozen=True, slots=True)
class Standing:
    """What the hub knows of one device's presence."""

    state: PresenceState = PresenceState.UNKNOWN
    reason: str = NEVER_SEEN
    session_id: SessionId | None = None
    birth_message_id: str | None = None  # Of the last birth taken
    ended_sessions: tuple[SessionId, ...] = ()  # Newest first
    last_seen_ms: int | None = None  # The hub's clock, at the last birth or heartbeat taken


def after_birth(
    standing: Standing, session_id: SessionId, *, message_id: str, reason: str, now_ms: int
) -> Standing:
    """Return the standing after a birth: rules 1 to 3."""
    if message_id == standing.birth_message_id or session_id in standing.ended_sessions:
        return standing
    online = _online(standing, session_id, reason=reason, now_ms=now_ms)
    return replace(online, birth_message_id=message_id)


def after_death(standing: Standing, session_id: SessionId, *, reason: str) -> Standing:
    """Return the standing after a goodbye or a last will: rules 4 to 6."""
    if session_id in standing.ended_sessions:
        return standing
    if session_id != standing.session_id and standing.state is PresenceState.ONLINE:
        return standing
    return replace(standing, state=PresenceState.OFFLINE, reason=reason)


def after_heartbeat(standing: Standing, session_id: SessionId, *, now_ms: int) -> Standing:
    """Return the standing after a heartbeat: rules 7 and 8."""
    is_online = standing.state is PresenceState.ONLINE
    if session_id in standing.ended_sessions and is_online:
        return standing
    is_same = is_online and session_id == standing.session_id
    reason = standing.reason if is_same else "heartbeat"
    return _online(standing, session_id, reason=reason, now_ms=now_ms)


def after_silence(standing: Standing, *, silent_s: float, heartbeat_s: float) -> Standing:
    """Return the standing after the device, or the hub itself, was silent: rule 9."""
    if standing.state is not PresenceState.ONLINE:
        return standing
    if silent_s <= HEARTBEATS_MISSED_MAX * heartbeat_s:
        return standing
    return replace(standing, state=PresenceState.UNKNOWN, reason=SILENT)


def _online(standing: Standing, session_id: SessionId, *, reason: str, now_ms: int) -> Standing:
    ended = standing.ended_sessions
    if standing.session_id not in (None, session_id):
        ended = (standing.session_id, *ended)
    ended = tuple(session for session in ended if session != session_id)
    return Standing(
        state=PresenceState.ONLINE,
        reason=reason,
        session_id=session_id,
        birth_message_id=standing.birth_message_id,
        ended_sessions=ended[:ENDED_SESSIONS_MAX],
        last_seen_ms=now_ms,
    )
