"""Presence: each rule as a row, and what must hold whatever comes in whatever order."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.devices.presence import (
    ENDED_SESSIONS_MAX,
    HEARTBEATS_MISSED_MAX,
    PresenceState,
    Standing,
    after_birth,
    after_death,
    after_heartbeat,
    after_silence,
)
from shared.ids import SessionId

ONLINE, OFFLINE, UNKNOWN = PresenceState.ONLINE, PresenceState.OFFLINE, PresenceState.UNKNOWN
OLD, NOW, NEW = SessionId("0" * 16), SessionId("1" * 16), SessionId("2" * 16)
Step = Callable[[Standing], Standing]


def birth(session: SessionId, message_id: str = "") -> Step:
    return lambda s: after_birth(
        s, session, message_id=message_id or f"of-{session}", reason="started", now_ms=5000
    )


def death(session: SessionId) -> Step:
    return lambda s: after_death(s, session, reason="connection lost")


def heartbeat(session: SessionId) -> Step:
    return lambda s: after_heartbeat(s, session, now_ms=5000)


def silence(intervals: float) -> Step:
    return lambda s: after_silence(s, silent_s=intervals * 15.0, heartbeat_s=15.0)


FRESH = Standing()
UP = birth(NOW)(birth(OLD)(FRESH))  # OLD is ended, NOW is current
DOWN = death(NOW)(UP)
SILENT = silence(4)(UP)


@pytest.mark.parametrize(
    ("before", "step", "state", "session"),
    [
        # Rule 1
        pytest.param(FRESH, birth(NOW), ONLINE, NOW, id="first birth"),
        pytest.param(UP, birth(NEW), ONLINE, NEW, id="birth of a new session"),
        pytest.param(DOWN, birth(NEW), ONLINE, NEW, id="birth after death"),
        pytest.param(DOWN, birth(NOW, "again"), ONLINE, NOW, id="same session connects again"),
        pytest.param(SILENT, birth(NOW, "again"), ONLINE, NOW, id="comes back after silence"),
        # Rule 2
        pytest.param(SILENT, birth(NOW), UNKNOWN, NOW, id="retained birth after a hub restart"),
        pytest.param(DOWN, birth(NOW), OFFLINE, NOW, id="duplicate birth after death"),
        # Rule 3
        pytest.param(UP, birth(OLD, "again"), ONLINE, NOW, id="birth of an ended session"),
        pytest.param(DOWN, birth(OLD, "again"), OFFLINE, NOW, id="old birth of a dead device"),
        # Rules 4 to 6
        pytest.param(UP, death(NOW), OFFLINE, NOW, id="death"),
        pytest.param(SILENT, death(NOW), OFFLINE, NOW, id="death after silence"),
        pytest.param(UP, death(OLD), ONLINE, NOW, id="late death of an older session"),
        pytest.param(SILENT, death(OLD), UNKNOWN, NOW, id="late death while silent"),
        pytest.param(UP, death(NEW), ONLINE, NOW, id="death of a session never heard of"),
        pytest.param(FRESH, death(NEW), OFFLINE, None, id="the first that is heard is a death"),
        # Rules 7 and 8
        pytest.param(UP, heartbeat(NOW), ONLINE, NOW, id="heartbeat"),
        pytest.param(SILENT, heartbeat(NOW), ONLINE, NOW, id="heartbeat after silence"),
        pytest.param(DOWN, heartbeat(NOW), ONLINE, NOW, id="heartbeat after a wrong death"),
        pytest.param(UP, heartbeat(NEW), ONLINE, NEW, id="heartbeat whose birth was lost"),
        pytest.param(UP, heartbeat(OLD), ONLINE, NOW, id="heartbeat of an ended session"),
        pytest.param(SILENT, heartbeat(OLD), ONLINE, OLD, id="only the ended session speaks"),
        # Rule 9
        pytest.param(UP, silence(HEARTBEATS_MISSED_MAX), ONLINE, NOW, id="silent, not too long"),
        pytest.param(UP, silence(HEARTBEATS_MISSED_MAX + 0.1), UNKNOWN, NOW, id="silent"),
        pytest.param(DOWN, silence(100), OFFLINE, NOW, id="silent after death"),
        pytest.param(FRESH, silence(100), UNKNOWN, None, id="never seen"),
    ],
)
def test_presence_follows_the_table(
    before: Standing, step: Step, state: PresenceState, session: SessionId | None
) -> None:
    after = step(before)
    assert (after.state, after.session_id) == (state, session)


def test_what_says_nothing_changes_nothing() -> None:
    for before, step in [(SILENT, birth(NOW)), (UP, birth(OLD)), (UP, death(OLD))]:
        assert step(before) == before


def test_last_seen_is_not_moved_by_a_death_or_by_silence() -> None:
    before = replace(UP, last_seen_ms=1)
    assert death(NOW)(before).last_seen_ms == 1
    assert silence(9)(before).last_seen_ms == 1


SESSIONS = [SessionId(f"{i:016x}") for i in range(4)]
MESSAGES = [f"{i:016x}" for i in range(6)]
STEPS = st.one_of(
    st.builds(birth, st.sampled_from(SESSIONS), st.sampled_from(MESSAGES)),
    st.builds(death, st.sampled_from(SESSIONS)),
    st.builds(heartbeat, st.sampled_from(SESSIONS)),
    st.builds(silence, st.floats(0, 10)),
)


def after(steps: list[Step], standing: Standing = FRESH) -> Standing:
    for step in steps:
        standing = step(standing)
    return standing


@given(st.lists(STEPS, max_size=30))
def test_whatever_came_a_device_that_sends_heartbeats_ends_up_online(steps: list[Step]) -> None:
    living = SESSIONS[0]
    standing = heartbeat(living)(silence(4)(heartbeat(living)(after(steps))))
    assert (standing.state, standing.session_id) == (ONLINE, living)


@given(st.lists(STEPS, max_size=30))
def test_whatever_came_a_silent_device_is_not_online(steps: list[Step]) -> None:
    assert silence(4)(after(steps)).state is not ONLINE


@given(st.lists(STEPS, max_size=30), st.sampled_from(SESSIONS))
def test_no_death_of_another_session_takes_an_online_device_down(
    steps: list[Step], other: SessionId
) -> None:
    before = after(steps)
    if before.state is ONLINE and other != before.session_id:
        assert death(other)(before) == before


@given(st.lists(STEPS, max_size=30))
def test_every_message_may_come_twice(steps: list[Step]) -> None:
    once = after(steps)
    for step in steps[-1:]:
        assert step(once) == once


@given(st.lists(STEPS, max_size=30))
def test_the_current_session_is_never_among_the_ended(steps: list[Step]) -> None:
    standing = after(steps)
    assert standing.session_id not in standing.ended_sessions
    assert len(set(standing.ended_sessions)) == len(standing.ended_sessions)


def test_ended_sessions_are_bounded() -> None:
    standing = after([birth(SessionId(f"{i:016x}")) for i in range(50)])
    assert len(standing.ended_sessions) == ENDED_SESSIONS_MAX
    assert standing.ended_sessions[0] == f"{48:016x}"
