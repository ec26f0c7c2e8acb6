"""Agreement of tracks, numbers and segments."""

import pytest

from edge_agent.decisions.agreement import agrees
from shared.wire.records import Detected, Estimated, Outcome, Segmented, Track, Tracked

CAR = Track(1, "car", 0.9, 0.1, 0.1, 0.5, 0.5, 1.0)
SAME_CAR = Track(7, "car", 0.5, 0.11, 0.1, 0.5, 0.5, 0.1)
FAR_CAR = Track(1, "car", 0.9, 0.6, 0.6, 0.9, 0.9, 1.0)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Tracked((CAR,)), Tracked((SAME_CAR,)), True),
        (Tracked((CAR,)), Tracked((FAR_CAR,)), False),
        (Tracked(()), Tracked(()), True),
        (Tracked(()), Detected(()), False),
        (Estimated((10.0, 20.0)), Estimated((10.5, 20.5)), True),
        (Estimated((10.0, 20.0)), Estimated((10.0, 30.0)), False),
        (Estimated((0.0,)), Estimated((0.0,)), True),
        (Estimated((1.0,)), Estimated((1.0, 1.0)), False),
        (Segmented({"road": 0.5, "car": 0.1}), Segmented({"road": 0.52, "car": 0.1}), True),
        (Segmented({"road": 0.5}), Segmented({"car": 0.5}), False),
        (Segmented({}), Segmented({}), True),
    ],
)
def test_agreement(one: Outcome, other: Outcome, expected: bool) -> None:
    assert agrees(one, other) is expected
    assert agrees(other, one) is expected
