"""From what the Target names and what the journal says to the event that follows, if any. Pure.

1. A Target that names no release of a model changes nothing about what runs: it goes on. An
   attempt that nobody asks for any more is withdrawn.
2. An attempt goes on while the Target names its release, whatever rollout asks for it: a second
   rollout of the same bytes is answered by ASKED_AGAIN once it has settled.
3. A quarantined release is not tried again for the rollout it failed in; another rollout id means
   that an operator asked again.
4. The settled release with a receipt for this very rollout needs nothing. Without one, it proves
   itself again. If its trial is not on record, it is tried like any other.
5. An undo is finished before anything else.
"""

from edge_agent.updates.journal import Journal
from edge_agent.updates.machine import Event
from shared.wire.report import UpdateState
from shared.wire.target import Target, TargetRelease


def release_for(model: str, target: Target | None) -> TargetRelease | None:
    """Return the release that `target` names for `model`; the first, should it name two."""
    releases = target.releases if target else ()
    return next((release for release in releases if release.model == model), None)


def next_event(release: TargetRelease | None, journal: Journal) -> Event | None:
    """Return what the wish for `release` means to this journal; None: go on as it is."""
    match journal.state:
        case UpdateState.UNDOING:
            return None
        case UpdateState.IDLE | UpdateState.REFUSED:
            return _from_rest(release, journal)
        case UpdateState.FETCHING | UpdateState.STAGED | UpdateState.TRIAL:
            return _from_attempt(release, journal)


def _from_rest(release: TargetRelease | None, journal: Journal) -> Event | None:
    is_refused = journal.state is UpdateState.REFUSED
    if release is None:
        return Event.WITHDRAWN if is_refused else None
    if is_settled(release, journal):
        if is_refused:
            return Event.WITHDRAWN
        return None if journal.receipt_rollout == release.rollout else Event.ASKED_AGAIN
    if journal.is_quarantined(release.manifest_digest, release.rollout):
        return None
    return Event.TARGETED


def _from_attempt(release: TargetRelease | None, journal: Journal) -> Event | None:
    assert journal.attempt is not None
    if release and release.manifest_digest == journal.attempt.release.manifest_digest:
        return None
    if journal.state is UpdateState.TRIAL:
        return Event.WITHDRAWN  # What serves is taken back first.
    if release is None or is_settled(release, journal):
        return Event.WITHDRAWN
    if journal.is_quarantined(release.manifest_digest, release.rollout):
        return Event.WITHDRAWN
    return Event.RETARGETED


def is_settled(release: TargetRelease, journal: Journal) -> bool:
    """Return whether `release` is what has settled here, its trial on record."""
    settled = journal.settled
    return (
        settled is not None
        and settled.is_tried
        and settled.manifest_digest == release.manifest_digest
    )
