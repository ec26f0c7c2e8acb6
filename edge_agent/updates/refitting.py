"""Refitter: has a settled release judged anew when the limits of its pipelines change. A shell.

1. It looks at every step, and judges only what is at rest, when the limits are not those that were
   judged last; so also once at each start. Never while a release of the model is under way.
2. A change of variant is an attempt like any other: fetched into the free slot, proved, tried
   beside what has settled, settled or taken back. So it needs a Target that names the release.
3. While it has not begun to serve it is withdrawn when the limits change again.
4. What cannot be changed is told in the reported table: see `told`.

What must not live here: the rules (refit.py, journal.py).
"""

import logging

import msgspec

from edge_agent.updates.changeover import Changeover
from edge_agent.updates.journal import RefitStep, begin_refit, move
from edge_agent.updates.machine import Effect, Event
from edge_agent.updates.parts import Parts
from edge_agent.updates.plan import is_settled
from edge_agent.updates.proving import ProvenRelease
from edge_agent.updates.refit import Refit, Rejudged
from edge_agent.updates.starting import RELEASE_ERRORS
from edge_agent.updates.steps import Steps
from shared.errors import TransientError
from shared.pipeline.pipeline import PipelineLimits
from shared.wire.fit import TEXT_CHARS_MAX, FitReport
from shared.wire.report import UpdateState
from shared.wire.target import TargetRelease

log = logging.getLogger(__name__)

_PENDING = (UpdateState.FETCHING, UpdateState.STAGED)


class Refitter:
    """See the rules above. One thread; `told` is called by any."""

    def __init__(self, model: str, parts: Parts, steps: Steps, changeover: Changeover) -> None:
        """Args: the steps and the changeover of the same model."""
        self._model, self._parts = model, parts
        self._steps, self._changeover = steps, changeover
        self._judged: PipelineLimits | None = None
        self._why_not = ""  # Why what serves goes on although it is over the limits

    def look(self, release: TargetRelease | None) -> bool:
        """Begin or withdraw a change of variant; return whether it did. Raises TransientError.

        Args: release: what the Target names.
        """
        fitter, settled = self._parts.prover.fitter, self._changeover.settled
        if fitter is None or settled is None or release is None:
            return False
        limits, journal = fitter.limits(self._model), self._steps.journal
        attempt = journal.attempt
        if attempt is not None and attempt.refit is not None:
            return journal.state in _PENDING and attempt.refit.limits != limits and self._withdraw()
        is_at_rest = journal.state is UpdateState.IDLE and self._steps.effect is Effect.REST
        if limits == self._judged or not is_at_rest or not is_settled(release, journal):
            return False
        before, self._judged, self._why_not = self._judged, limits, ""
        refused = journal.refused_refit
        if refused is not None and refused.limits == limits:
            return False
        if settled.fit is None and before is None:
            return False  # Settled before releases were measured, and no limit has changed since.
        rejudged = self._rejudge(settled, limits, before=before or limits)
        return rejudged is not None and self._carry_out(rejudged, release, limits)

    def told(self, fit: FitReport | None) -> FitReport | None:
        """Return the table to report: with why it is not what the limits ask for, if it is not."""
        refused, settled = self._steps.journal.refused_refit, self._changeover.settled
        why = self._why_not
        if refused is not None and refused.limits == self._judged:
            why = f"Another variant was tried for the changed limits, and left: {refused.why}"
            fit = settled.fit if settled is not None else fit
        if fit is None or not why:
            return fit
        return msgspec.structs.replace(fit, why=why[:TEXT_CHARS_MAX])

    def _rejudge(
        self, settled: ProvenRelease, limits: PipelineLimits, *, before: PipelineLimits
    ) -> Rejudged | None:
        on_disk = self._steps.journal.settled
        assert on_disk is not None
        folder = self._parts.slots.path(self._model, on_disk.slot)
        try:
            return self._parts.prover.rejudge(
                self._model, folder, settled, limits=limits, before=before
            )
        except RELEASE_ERRORS as error:  # The disk's rot; the next start or proof deals with it.
            log.error("update.settled_lost", extra={"model": self._model, "code": error.code})
            return None

    def _carry_out(
        self, rejudged: Rejudged, release: TargetRelease, limits: PipelineLimits
    ) -> bool:
        if rejudged.refit is Refit.KEEP:
            return False
        log.warning(
            "update.refit",
            extra={"model": self._model, "refit": rejudged.refit, "why": rejudged.why},
        )
        if rejudged.refit is Refit.NONE:
            self._why_not = f"What serves goes on, over its limits. {rejudged.why}"
            return False
        refit = RefitStep(limits=limits, fit=rejudged.report)
        try:
            self._steps.take(begin_refit(self._steps.journal, release, refit, why=rejudged.why))
        except TransientError:
            self._judged = None  # The disk did not take it: it has not happened.
            raise
        return True

    def _withdraw(self) -> bool:
        self._steps.take(move(self._steps.journal, Event.WITHDRAWN, attempt=None))
        return True
