"""StateBoard: the state of every thing of one pipeline, and which of them are to be sent. Pure.

1. A state is sent when it is another one; a number that drifts at most once in DRIFT_S.
2. What is counted by label (objects, shares of the frame) and is not spoken of any more is 0.
3. At most THINGS_MAX things; what comes after them is left out and counted.
"""

from collections.abc import Iterator

from edge_agent.decisions.decision import Decision
from edge_agent.sinks.mqtt_topics import State, Thing, states_of

THINGS_MAX = 1024
DRIFT_S = 1.0
BY_LABEL = ("objects", "shares")
NOTHING = "0"


class StateBoard:
    """See the rules above. Not thread-safe."""

    def __init__(self) -> None:
        """Begin without any."""
        self._states: dict[str, State] = {}  # By topic: as it was sent last
        self._sent_s: dict[str, float] = {}
        self.left_out_count = 0

    def update(self, decision: Decision, *, now_s: float) -> list[State]:
        """Return what is to be sent because of `decision`; it is taken for sent."""
        spoken = list(states_of(decision))
        topics = {state.thing.topic for state in spoken}
        return [
            state for state in (*spoken, *self._gone(topics)) if self._is_news(state, now_s=now_s)
        ]

    def all(self) -> tuple[State, ...]:
        """Return every state, as it was sent last."""
        return tuple(self._states.values())

    def things(self) -> tuple[Thing, ...]:
        """Return everything that has a state."""
        return tuple(state.thing for state in self._states.values())

    def _gone(self, topics: set[str]) -> Iterator[State]:
        """Yield what is not spoken of any more; see rule 2."""
        places = {place for topic in topics if (place := _place(topic))}
        for topic, state in self._states.items():
            if topic not in topics and _place(topic) in places:
                yield State(state.thing, NOTHING)

    def _is_news(self, state: State, *, now_s: float) -> bool:
        topic = state.thing.topic
        before = self._states.get(topic)
        if before is None and len(self._states) >= THINGS_MAX:
            self.left_out_count += 1
            return False
        if before is not None and before.text == state.text:
            return False
        is_soon = now_s - self._sent_s.get(topic, now_s - DRIFT_S) < DRIFT_S
        if before is not None and state.thing.is_drifting and state.text != NOTHING and is_soon:
            return False
        self._states[topic], self._sent_s[topic] = state, now_s
        return True


def _place(topic: str) -> str:
    """Return where `topic` is counted by label; empty: it is not. Known by its last part but one.

    What is counted over all labels is always spoken of, and so names the place.
    """
    place, _, _ = topic.rpartition("/")
    return place if place.rpartition("/")[2] in BY_LABEL else ""
