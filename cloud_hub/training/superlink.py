"""SuperLink: what the hub asks of the process that runs Flower's engine. Only files lie between.

Implementations: process_superlink.py; tests/support/learning_peer.py plays the process.
"""

from collections.abc import Sequence
from typing import Protocol

from cloud_hub.training.job_folder import Standing, WantedNode, WantedRun


class SuperLink(Protocol):
    """States what should be, reads what is."""

    def want(self, nodes: Sequence[WantedNode], runs: Sequence[WantedRun]) -> int:
        """State the whole of what the SuperLink should have; return the revision of that.

        Raises TransientError `disk.write_failed`.
        """
        ...

    def standing(self) -> Standing | None:
        """Return what it has; None while it does not run or has not said so lately."""
        ...
