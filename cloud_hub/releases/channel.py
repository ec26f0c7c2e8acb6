"""Channel: a named pointer to a release of a model, which people and rollouts follow. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from shared.errors import ContractError
from shared.ids import ModelName


class ChannelName(StrEnum):
    """The channels that every model has."""

    STABLE = "stable"
    BETA = "beta"


@dataclass(frozen=True, slots=True)
class Channel:
    """Where one channel of one model points."""

    model: ModelName
    name: ChannelName
    version: int
    changed_ms: int


def parse_channel(text: str) -> ChannelName:
    """Return `text` as a channel's name. Raises ContractError `channel.unknown`."""
    try:
        return ChannelName(text)
    except ValueError as error:
        names = ", ".join(ChannelName)
        raise ContractError(
            "channel.unknown", f"There is no channel {text[:40]!r}.", remedy=f"Use one of: {names}."
        ) from error
