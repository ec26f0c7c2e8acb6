"""Starting: from what is on the disk to a release that serves, before any network.

1. The settled slot is opened, loaded and proved like any release: a file may have rotted.
2. Each process that sets out to load is counted in the journal before it does. After STARTS_MAX
   that never got to serve, loading itself is what kills us, and the release is given up.
3. Where the settled release is lost, or the journal is, the other slots are looked through for a
   release that verifies and proves, is not quarantined, and is not an attempt's. Its trial is not
   on record (`is_tried` false), so that a Target that names it has it tried again. Of two, the
   lower version serves: a higher one may have been in its trial.
4. `starts_count` above 0 with nothing settled and no attempt means that such a search was cut
   short.

What must not live here: the swap, and what the attempt under way comes to.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_agent.updates.file_journal import FileJournal
from edge_agent.updates.file_slots import FileSlots
from edge_agent.updates.journal import (
    STARTS_MAX,
    TEXT_CHARS_MAX,
    UNKNOWN_DIGEST,
    UNKNOWN_ROLLOUT,
    Journal,
    SettledRelease,
    Slot,
    move,
)
from edge_agent.updates.machine import Event
from edge_agent.updates.proving import ProvenRelease, Prover
from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
)
from shared.wire.report import Failure

log = logging.getLogger(__name__)

Found = tuple[Slot, ProvenRelease]
RELEASE_ERRORS = (ContractError, IntegrityError, RefusedError)  # The release's own fault


@dataclass(frozen=True, slots=True)
class Starter:
    """Brings one model after another back as it was."""

    journals: FileJournal
    slots: FileSlots
    prover: Prover

    def start(self, model: str) -> tuple[Journal, ProvenRelease | None]:
        """Return a model's journal, and its settled release if there is one, proved.

        The journal that is returned is not yet on the disk. Raises TransientError if something
        cannot be read now: nothing is given up for that.
        """
        journal = self._read(model)
        if journal.settled is None and not _is_search(journal):
            return journal, None
        journal = msgspec.structs.replace(journal, starts_count=journal.starts_count + 1)
        self._write(journal)
        if journal.settled is not None:
            try:
                proven = self._prove_settled(journal, journal.settled)
                return msgspec.structs.replace(journal, starts_count=0), proven
            except RELEASE_ERRORS as error:
                journal = self._lose(journal, journal.settled, error)
        return self._search(journal)

    def _read(self, model: str) -> Journal:
        try:
            journal = self.journals.read(model)
        except ContractError as error:
            return self._without_journal(model, error)
        if journal is not None:
            return journal
        if any(self.slots.holds_files(model, slot) for slot in Slot):
            return self._without_journal(
                model, ContractError("journal.missing", f"The journal of {model} is missing.")
            )
        return Journal(model=model)

    def _without_journal(self, model: str, error: ContractError) -> Journal:
        """Return a journal that says so, and that a search is to begin."""
        log.error("update.journal_lost", extra={"model": model, "code": error.code})
        failure = Failure(
            version=1,
            manifest_digest=UNKNOWN_DIGEST,
            rollout=UNKNOWN_ROLLOUT,
            code=error.code,
            text=str(error)[:TEXT_CHARS_MAX],
        )
        return Journal(model=model, failure=failure, starts_count=1)

    def _prove_settled(self, journal: Journal, settled: SettledRelease) -> ProvenRelease:
        if journal.starts_count > STARTS_MAX:
            raise RefusedError(
                "start.crashed", f"{STARTS_MAX} processes died while loading it, one by one."
            )
        folder = self.slots.path(journal.model, settled.slot)
        return self.prover.prove(journal.model, folder, settled.manifest_digest)

    def _lose(self, journal: Journal, settled: SettledRelease, error: IsthmusError) -> Journal:
        """Return the journal without what was settled, on the disk before anything else is tried.

        A slot that does not hold what was signed is emptied: nothing of it is to be believed.
        """
        log.error(
            "update.settled_lost",
            extra={"model": journal.model, "version": settled.version, "code": error.code},
        )
        lost = lose(journal, error)
        starts_count = 1 if lost.attempt is None else 0
        lost = msgspec.structs.replace(lost, starts_count=starts_count)
        self._write(lost)
        if isinstance(error, IntegrityError):
            self._clear(journal.model, settled.slot)
        return lost

    def _search(self, journal: Journal) -> tuple[Journal, ProvenRelease | None]:
        done = msgspec.structs.replace(journal, starts_count=0)
        if not _is_search(journal) or journal.starts_count > STARTS_MAX:
            return done, None
        found = self._prove_all(journal, tuple(Slot))
        if not found:
            return done, None
        slot, proven = min(found, key=lambda each: each[1].loaded.version)
        settled = SettledRelease(
            slot=slot,
            version=proven.loaded.version,
            manifest_digest=proven.loaded.manifest_digest,
            rollout=UNKNOWN_ROLLOUT,
            is_tried=False,
        )
        log.warning("update.fell_back", extra={"model": journal.model, "version": settled.version})
        return move(done, Event.LOST, settled=settled)[0], proven

    def _prove_all(self, journal: Journal, slots: Sequence[Slot]) -> list[Found]:
        found: list[Found] = []
        for slot in slots:
            if not self.slots.holds_files(journal.model, slot):
                continue
            folder: Path = self.slots.path(journal.model, slot)
            try:
                proven = self.prover.prove(journal.model, folder, None)
            except RELEASE_ERRORS as error:
                log.warning(
                    "update.slot_unusable",
                    extra={"model": journal.model, "slot": slot, "code": error.code},
                )
                continue
            if not journal.is_quarantined(proven.loaded.manifest_digest):
                found.append((slot, proven))
        return found

    def _write(self, journal: Journal) -> None:
        """Write if the disk lets us: one that does not must not keep the device from serving."""
        try:
            self.journals.write(journal)
        except TransientError as error:
            log.error("update.unwritable", extra={"model": journal.model, "code": error.code})

    def _clear(self, model: str, slot: Slot) -> None:
        try:
            self.slots.clear(model, slot)
        except (TransientError, RefusedError) as error:
            log.error("update.unwritable", extra={"model": model, "code": error.code})


def lose(journal: Journal, error: IsthmusError) -> Journal:
    """Return the journal after its settled slot turned out not to hold what it held."""
    settled = journal.settled
    assert settled is not None
    failure = Failure(
        version=settled.version,
        manifest_digest=settled.manifest_digest,
        rollout=settled.rollout,
        code=error.code,
        text=f"The settled release cannot be used any more: {error}"[:TEXT_CHARS_MAX],
    )
    return move(
        journal, Event.LOST, settled=None, failure=failure, receipt=None, receipt_rollout=None
    )[0]


def _is_search(journal: Journal) -> bool:
    return journal.settled is None and journal.attempt is None and journal.starts_count > 0
