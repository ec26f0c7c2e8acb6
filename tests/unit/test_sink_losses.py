"""Losses: what every sink of a pipeline lost, also those that are closed."""

from dataclasses import dataclass

from edge_agent.decisions.decision import ItemResult
from edge_agent.sinks.losses import Losses
from edge_agent.sinks.opening import SinkSet


@dataclass
class Losing:
    """A sink that lost something."""

    lost_count: int
    standing: str = ""

    def __call__(self, result: ItemResult) -> None:
        """Take nothing."""


def sinks(**lost: int) -> SinkSet:
    return opened(*((kind, Losing(count)) for kind, count in lost.items()))


def opened(*kinds: tuple[str, Losing]) -> SinkSet:
    return SinkSet(sinks=(), frame_sinks=(), kinds=kinds)


def test_each_sink_is_told_by_its_kind_and_the_second_of_a_kind_by_its_number() -> None:
    losses = Losses()
    losses.follow(opened(("webhook", Losing(1)), ("clips", Losing(0)), ("webhook", Losing(5))))
    assert losses.by_sink() == {"webhook": 1, "webhook 2": 5}
    assert losses.count == 6


def test_what_closed_sinks_lost_still_counts() -> None:
    losses = Losses()
    webhook = Losing(2)
    old = opened(("webhook", webhook))
    losses.follow(old)
    losses.follow(sinks(webhook=1, mqtt=3))  # Opened before the old ones are closed
    assert losses.by_sink() == {"mqtt": 3, "webhook": 3}
    webhook.lost_count += 4  # What waited when it was closed
    losses.settle(old)
    assert losses.by_sink() == {"mqtt": 3, "webhook": 7}
    webhook.lost_count = 99  # Nobody looks at it any more
    assert losses.count == 10
