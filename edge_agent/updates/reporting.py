"""Reports: from journals and what serves to the message, and how often one is worth sending.

1. What serves is what is reported as running, also during a trial.
2. A receipt is reported only while the very release that it names serves.
3. A Report that differs from the last one is sent at once, unless only progress numbers differ:
   then at most once in `progress_s` seconds. Of learning those are the counters and the texts.
"""

import msgspec
from msgspec import UNSET

from edge_agent.inference.active_model import LoadedRelease
from edge_agent.updates.journal import Journal, failure_for
from shared.wire.fit import FitReport
from shared.wire.report import LearningReport, ModelReport, Report, UpdateState
from shared.wire.target import TargetRelease


def model_report(
    journal: Journal,
    serving: LoadedRelease | None,
    release: TargetRelease | None,
    *,
    progress: float,
    trial_items: int,
    fit: FitReport | None = None,
) -> ModelReport:
    """Return what one model's journal, serving release and wished release come to."""
    settled = journal.settled
    has_settled_on = (
        serving is not None
        and settled is not None
        and serving.manifest_digest == settled.manifest_digest
    )
    return ModelReport(
        model=journal.model,
        state=journal.state,
        version=serving.version if serving else 0,
        manifest_digest=serving.manifest_digest if serving else None,
        precision=serving.precision if serving else "",
        target_version=release.version if release else 0,
        rollout=release.rollout if release else "",
        progress=_progress(journal.state, progress),
        trial_items=trial_items,
        failure=journal.failure,
        receipt=journal.receipt if has_settled_on else None,
        fit=fit or UNSET,
    )


def _progress(state: UpdateState, fetched: float) -> float:
    match state:
        case UpdateState.FETCHING:
            return min(1.0, max(0.0, fetched))
        case UpdateState.STAGED | UpdateState.TRIAL:
            return 1.0
        case UpdateState.IDLE | UpdateState.UNDOING | UpdateState.REFUSED:
            return 0.0


def unknown_model_report(release: TargetRelease) -> ModelReport:
    """Return the answer to a release of a model that no pipeline of this device uses."""
    text = (
        f"No pipeline of this device uses the model {release.model}. "
        "Add one to its configuration, or take the device out of the rollout."
    )
    return ModelReport(
        model=release.model,
        state=UpdateState.REFUSED,
        version=0,
        target_version=release.version,
        rollout=release.rollout,
        failure=failure_for(release, "target.unknown_model", text),
    )


class ReportGate:
    """Lets a Report through when it says something new. Not shared between threads."""

    def __init__(self, *, progress_s: float) -> None:
        """Args: seconds between two reports that differ in progress numbers only."""
        self._progress_s = progress_s
        self._last: Report | None = None
        self._last_s = 0.0

    def admit(self, report: Report, *, now_s: float) -> bool:
        """Return whether `report` is worth sending; if so it is the last one from now on."""
        last = self._last
        if last is not None:
            if _without_time(report) == _without_time(last):
                return False
            is_news = _without_progress(report) != _without_progress(last)
            if not is_news and now_s - self._last_s < self._progress_s:
                return False
        self._last, self._last_s = report, now_s
        return True

    def forget(self) -> None:
        """Let the next report through whatever it says: the hub may not have the last one."""
        self._last = None


def _without_time(report: Report) -> Report:
    return msgspec.structs.replace(report, at_ms=0)


def _without_progress(report: Report) -> Report:
    models = tuple(
        msgspec.structs.replace(model, progress=0.0, trial_items=0) for model in report.models
    )
    learning = report.learning
    if learning is not UNSET:
        learning = tuple(_without_counters(job) for job in learning)
    return msgspec.structs.replace(report, at_ms=0, models=models, learning=learning)


def _without_counters(job: LearningReport) -> LearningReport:
    """Return it without what moves while a Job goes its way; texts tell such numbers too."""
    return msgspec.structs.replace(
        job, text="", restarts_count=0, rounds_count=0, epsilon_spent=None
    )
