"""Executor: where a run's command is carried out. Values and the Protocol; nothing is started here.

1. A run's folder holds its lock: whoever carries out a run in a folder holds that lock, so that no
   two ever do, whatever the hubs believe.
2. A key names a run and is its folder's name. Starting a key that runs already is no error.
3. `look` and `end` never wait. `end` is called again until `look` says ENDED.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

LOCK = "lock"  # In a run's folder
TAIL_BYTES_MAX = 1 << 20  # Of a log, shown at once


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be carried out."""

    key: str
    folder: Path
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    attempt: int = 1


class Stage(StrEnum):
    """How it stands with a key."""

    RUNNING = "running"
    ENDED = "ended"  # This hub saw it end
    MISSING = "missing"  # It does not run, and nobody knows how it ended, or whether it began


@dataclass(frozen=True, slots=True)
class Standing:
    """What an executor knows of a key."""

    stage: Stage
    text: str = ""  # How it ended: "exit status 1", "SIGKILL"


class Executor(Protocol):
    """See the rules above. One thread, but for `trouble`."""

    def adopt(self) -> None:
        """Find what an earlier process of this hub, or another hub of this folder, started."""
        ...

    def start(self, work: Work) -> None:
        """Start it. Raises TransientError `run.busy`, `disk.write_failed`, `run.no_start`."""
        ...

    def look(self, key: str) -> Standing:
        """Return how it stands."""
        ...

    def end(self, key: str) -> None:
        """Have it end: asked first, after a while made."""
        ...

    def tick(self) -> None:
        """Do what time brings: limit logs, make those end that were asked to."""
        ...

    def close(self) -> None:
        """Let go of everything; what runs goes on."""
        ...

    @property
    def trouble(self) -> str:
        """Return what keeps it from working; "" where nothing."""
        ...
