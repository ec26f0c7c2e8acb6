"""Finding: the answer to one question of a doctor, with how to fix what is wrong. Values only."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


_MARKS = {Level.GOOD: "ok  ", Level.WARNING: "warn", Level.BAD: "BAD "}


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question."""

    topic: str
    level: Level
    text: str
    remedy: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """Return what a person reads: the finding, and under it the remedy if there is one."""
        first = f"{_MARKS[self.level]}  {self.topic}: {self.text}"
        return (first, f"      {self.remedy}") if self.remedy else (first,)


def is_good(findings: Iterable[Finding]) -> bool:
    """Return whether nothing is bad; warnings may be."""
    return all(finding.level is not Level.BAD for finding in findings)


def told(findings: Iterable[Finding], *, is_quiet: bool) -> Iterator[Finding]:
    """Yield findings as they come, printing each for a person unless `is_quiet`."""
    for finding in findings:
        if not is_quiet:
            print("\n".join(finding.lines), flush=True)  # noqa: T201  (a command's own output)
        yield finding
