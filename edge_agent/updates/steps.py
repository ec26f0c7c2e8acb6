"""Steps: where one model's update stands, and the effect that its last step left to do.

1. `take` writes a step down first; only then is it what holds. What the disk does not take has
   not happened.
2. What is tried again for a reason that only people can take away (SETBACK_CODES) is told as a
   failure from the SETBACKS_MIN-th time on, until a step is taken. It is not written down: a
   disk that takes no writes is one of them.

What must not live here: which step is next (journal.py), what an effect does.
"""

from edge_agent.updates.file_journal import FileJournal
from edge_agent.updates.journal import Attempt, Journal, failure_of
from edge_agent.updates.machine import Effect
from shared.errors import TransientError
from shared.wire.report import Failure
from shared.wire.target import TargetRelease

SETBACK_CODES = frozenset({"tuf.expired", "disk.write_failed"})
SETBACKS_MIN = 3


class Steps:
    """See the rules above. Changed by the updater's thread; its journal is read by any."""

    def __init__(self, model: str, journals: FileJournal) -> None:
        """Start with the journal of a model that nothing is known about."""
        self.journal = Journal(model=model)
        self.effect = Effect.REST
        self.setback: Failure | None = None  # Why what is wished does not go on
        self._setbacks_count = 0
        self._journals = journals
        self._stored: Journal | None = None  # What the disk holds, as far as we know

    @property
    def attempt(self) -> Attempt:
        """Return the attempt under way; there is one in the states that ask."""
        attempt = self.journal.attempt
        assert attempt is not None
        return attempt

    def take_up(self, journal: Journal) -> None:
        """Go on from what a start has found; it may differ from what is on the disk."""
        self.journal = journal

    def take(self, step: tuple[Journal, Effect]) -> None:
        """Write the next journal down; only then is it what holds. Raises TransientError."""
        journal, effect = step
        if journal != self._stored:
            self._journals.write(journal)
        self.journal, self._stored, self.effect = journal, journal, effect
        self.forget_setback()

    def rest(self) -> None:
        """Note that the effect is done and leads to no step."""
        self.effect = Effect.REST

    def note_setback(self, error: TransientError, release: TargetRelease | None) -> None:
        """Note what holds up the wish for `release`; see rule 2."""
        settled = self.journal.settled
        # With the wished release settled, what is late is only what is said of it.
        runs = settled and release and settled.manifest_digest == release.manifest_digest
        if error.code not in SETBACK_CODES or release is None or runs:
            self.forget_setback()
            return
        self._setbacks_count += 1
        if self._setbacks_count >= SETBACKS_MIN:
            self.setback = failure_of(release, error)

    def forget_setback(self) -> None:
        """Note that nothing holds the wish up any more, or that it is another one."""
        self.setback, self._setbacks_count = None, 0
