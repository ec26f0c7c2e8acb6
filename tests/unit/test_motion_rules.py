"""MotionRules: which frames are asked about, as tables of time and motion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.motion_rules import Look, MotionRules
from shared.pipeline.frames import MotionSettings

SETTINGS = MotionSettings(area_min=0.01, settle_s=1.0, refresh_s=5.0, hold_s_max=60.0)
QUIET, MOVING = 0.0, 0.5
A, H, R = Look.ASK, Look.HOLD, Look.REST

TABLE = {
    "the first frame": (SETTINGS, [(0.0, QUIET, A), (0.1, QUIET, H)]),
    "motion, and settling after it": (
        SETTINGS,
        [(0.0, QUIET, A), (1.0, MOVING, A), (1.9, QUIET, A), (2.0, QUIET, A), (2.1, QUIET, H)],
    ),
    "too little motion": (SETTINGS, [(0.0, QUIET, A), (2.0, 0.009, H), (2.1, 0.01, A)]),
    "refreshed": (
        SETTINGS,
        [(0.0, QUIET, A), (4.9, QUIET, H), (5.0, QUIET, A), (9.9, QUIET, H), (10.0, QUIET, A)],
    ),
    "a hold that grows too old": (
        MotionSettings(refresh_s=0.0, hold_s_max=3.0),
        [(0.0, QUIET, A), (3.0, QUIET, H), (3.1, QUIET, R), (50.0, QUIET, R), (51.0, MOVING, A),
         (51.5, QUIET, A), (54.5, QUIET, H), (54.6, QUIET, R)],
    ),
    "no settling": (
        MotionSettings(settle_s=0.0), [(0.0, QUIET, A), (1.0, MOVING, A), (1.1, QUIET, H)],
    ),
    "an area of nothing still needs motion": (
        MotionSettings(area_min=0.0), [(0.0, QUIET, A), (1.0, QUIET, H), (1.1, 0.001, A)],
    ),
    "a source that began again": (SETTINGS, [(50.0, QUIET, A), (51.0, QUIET, H), (0.0, QUIET, A)]),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_what_becomes_of_each_frame(case: str) -> None:
    settings, rows = TABLE[case]
    rules = MotionRules(settings)
    assert [rules.look(share, at_s) for at_s, share, _ in rows] == [look for *_, look in rows]


@given(
    shares=st.lists(st.sampled_from([QUIET, 0.009, 0.01, MOVING]), min_size=1, max_size=200),
    period_s=st.sampled_from([0.04, 0.3, 2.0, 7.0]),
)
def test_motion_is_never_missed_and_no_hold_outlives_a_refresh(
    shares: list[float], period_s: float
) -> None:
    rules, asked_s = MotionRules(SETTINGS), 0.0
    for index, share in enumerate(shares):
        at_s = index * period_s
        look = rules.look(share, at_s)
        assert look is Look.ASK or share < SETTINGS.area_min
        if look is Look.ASK:
            asked_s = at_s
        assert at_s - asked_s < SETTINGS.refresh_s


def test_starting_again_asks_at_once() -> None:
    rules = MotionRules(SETTINGS)
    rules.look(QUIET, 0.0)
    rules.start_again()
    assert rules.look(QUIET, 0.1) is Look.ASK
