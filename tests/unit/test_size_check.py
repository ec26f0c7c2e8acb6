"""SizeCheck: key frames that do not keep time are a reason to ask for a stream's size."""

from collections.abc import Iterable
from itertools import pairwise

import pytest

from edge_agent.sources.size_check import PAUSE_S, SizeCheck

FPS = 20.0


def asked(check: SizeCheck, distances: Iterable[int], *, start_s: float = 0.0) -> list[float]:
    """Return when it asks, over groups of so many frames, each begun by a key frame."""
    at_s, found = start_s, []
    for distance in distances:
        for index in range(distance):
            if check.is_due(at_s, is_key=index == 0):
                found.append(at_s)
            at_s += 1.0 / FPS
    return found


def started(every_s: float = 600.0) -> SizeCheck:
    check = SizeCheck(every_s)
    check.start_again(0.0)
    return check


def test_key_frames_that_keep_time_are_no_reason() -> None:
    check = started()
    for _ in range(3):  # Opened in the middle of a group
        assert not check.is_due(0.0, is_key=False)
    assert asked(check, [20] * 100) == []


def test_a_key_frame_too_soon_is_asked_about_at_once() -> None:
    assert asked(started(), [20, 20, 7, 20]) == [pytest.approx(47 / FPS)]


def test_a_key_frame_too_late_is_asked_about_at_once() -> None:
    assert asked(started(), [20, 20, 33, 20]) == [pytest.approx(73 / FPS)]


def test_key_frames_that_never_keep_time_are_asked_about_ever_more_rarely() -> None:
    found = asked(started(every_s=200.0), [20, 13] * 600)
    pauses = [later - sooner for sooner, later in pairwise(found)]
    wanted = [PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S, 200.0]
    assert len(pauses) >= len(wanted)
    for pause, want in zip(pauses, wanted, strict=False):
        assert want <= pause < want + 2.0


def test_it_is_asked_from_time_to_time_whatever_the_key_frames() -> None:
    assert [round(at_s) for at_s in asked(started(every_s=59.5), [20] * 200)] == [60, 120, 180]


def test_opened_anew_it_knows_nothing_of_the_key_frames_before() -> None:
    check = started()
    assert len(asked(check, [20, 20, 7, 20])) == 1
    check.start_again(10.0)
    assert asked(check, [12, 12, 12], start_s=10.0) == []
    assert len(asked(check, [5, 12], start_s=12.0)) == 1  # The pause began anew as well


def test_zero_is_never() -> None:
    assert asked(started(every_s=0.0), [20, 20, 7, 20] * 1000) == []
