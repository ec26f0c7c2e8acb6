"""Fleet: the devices of one Job as the loop of Rounds sees them.

1. `present` says which devices can be reached now, each with a word for its connection. A device
   that lost what it was told comes back with another word.
2. `ask` returns at once; what became of it is an answer, or never comes.
3. `answers` waits at most as long as it is told, whatever devices and network do.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NewType, Protocol

from shared.learning.task import LearningTask
from shared.model.weights import Array, Weights

AskId = NewType("AskId", int)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a device sent back, as it came: nothing of it has been checked."""

    ask: AskId
    device: str
    text: str  # A LearningReply as JSON, if the device is honest
    arrays: Mapping[str, Array]
    measurements: Mapping[str, float]

    @property
    def payload_bytes(self) -> int:
        """Return how many bytes its arrays are."""
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no reply. A device that was only out of reach is asked again when it is back."""

    ask: AskId
    device: str
    text: str
    is_out_of_reach: bool


Answer = Reply | Failure


class Fleet(Protocol):
    """See the rules above. Implementations: flwr_fleet.py, tests/support/played_fleet.py."""

    def present(self) -> Mapping[str, str]:
        """Return device -> word of its connection, for the devices that can be reached."""
        ...

    def ask(
        self, devices: Sequence[str], task: LearningTask, weights: Weights, *, ttl_s: float
    ) -> Mapping[str, AskId]:
        """Send all these devices one task; return device -> id of the question.

        Args: ttl_s: after this many seconds nobody may start on it.
        """
        ...

    def answers(self, wait_s: float) -> Sequence[Answer]:
        """Return what has come, waiting at most `wait_s` for the first.

        Raises UnavailableError `job.run_gone` when this ServerApp is no longer wanted.
        """
        ...

    def forget(self, asks: Collection[AskId]) -> None:
        """Take no more answers to these."""
        ...
