"""Events: what an operator wants to hear, told from how things stand. Pure.

1. A source (lost, stalled, failed, ended, back), its picture (frozen, moving again), a pipeline's
   inference (failing, recovered), the disk (low, enough) and the outbox (dropping) each are a
   subject with a condition. A condition other than the one that was told last is told.
2. A subject that comes and goes is told at most EVENTS_MAX times in EVENTS_S: after that the hub
   is told how it stands when there is room again, and how often it changed until then.
3. What is only counted (messages that a sensor source lost or could not read, how often a picture
   changed its size, records that the outbox dropped, how often a model's process was started
   again) is told when it rises, at most once in COUNTS_S, with how many in all.
4. A release that was refused or undone is told once. What a process finds so when it starts was
   told by the one before; what it finds being undone was not.

What must not live here: where conditions come from, and the outbox.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_agent.sources.capture import STALLED_CODE, CaptureState, CaptureStatus
from edge_agent.sources.source import Resized
from edge_agent.telemetry.numbers import WorkerNumbers
from shared.plural import counted
from shared.wire.records import EventRecord, HostRecord
from shared.wire.report import Failure, ModelReport, UpdateState

EVENTS_MAX = 6
EVENTS_S = 600.0
COUNTS_S = 600.0
TEXT_CHARS_MAX = 2000
GOOD = "good"
LOST_CODE = "source.lost"
AWAY_CODES = (LOST_CODE, STALLED_CODE)
DISK = ("disk", "")
OUTBOX = ("outbox.dropping", "")
DISK_ENOUGH_FACTOR = 1.25  # Free space must rise this far above the limit to be enough again


@dataclass(frozen=True, slots=True)
class PipelineStanding:
    """How one pipeline stands, beyond what its report says."""

    pipeline: str
    source: CaptureStatus
    failing: str  # Why inference fails now; empty if it does not
    messages_lost: int  # By a sensor source that ran over, since the start
    messages_bad: int  # That it could not read
    resized: Resized = field(default_factory=Resized)  # Its pictures, since the start
    is_frozen: bool = False  # Its picture does not change any more


@dataclass(slots=True)
class _Subject:
    """One thing with a condition; see rules 1 and 2."""

    told: str = GOOD  # The code that was told last
    seen: str = GOOD
    changes_count: int = 0  # Since it was told
    told_s: deque[float] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))


@dataclass(slots=True)
class _Count:
    """Something that only rises; see rule 3."""

    told: int = 0
    told_s: float | None = None


class OperatorEvents:
    """See the rules above. Not shared between threads."""

    def __init__(self, *, disk_free_bytes_min: int) -> None:
        """Args: with less on the disk an operator is told."""
        self._disk_free_bytes_min = disk_free_bytes_min
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._counts: dict[tuple[str, str], _Count] = {}
        self._failures: dict[str, Failure] = {}  # By model: the last one told

    def begin(self, models: Sequence[ModelReport], *, outbox_dropped: int) -> None:
        """Take note of what the process before has told; see rule 4."""
        self._counts[OUTBOX] = _Count(told=outbox_dropped)
        for model in models:
            failure = model.failure
            is_at_rest = model.state in (UpdateState.IDLE, UpdateState.REFUSED)
            was_kept_off = model.state is UpdateState.REFUSED or (
                failure is not None and failure.undo_ms is not None
            )
            if failure is not None and is_at_rest and was_kept_off:
                self._failures[model.model] = failure

    def of_pipelines(
        self, standings: Sequence[PipelineStanding], *, now_s: float
    ) -> list[EventRecord]:
        """Return what is to be told of pipelines."""
        found: list[EventRecord | None] = []
        for standing in standings:
            name = standing.pipeline
            found += [
                self._of_source(name, standing.source, now_s),
                self._of_inference(name, standing.failing, now_s),
                self._risen(
                    ("source.run_over", name),
                    standing.messages_lost,
                    f"Pipeline {name} was too slow for its sensor: it lost {{messages}}.",
                    now_s,
                ),
                self._risen(
                    ("source.payload", name),
                    standing.messages_bad,
                    f"Pipeline {name} could not read {{messages}} of its sensor.",
                    now_s,
                ),
                self._of_picture(standing, now_s),
                self._risen(
                    ("source.resized", name),
                    standing.resized.count,
                    f"The pictures of pipeline {name} changed their size, {{times}} so far; "
                    f"it is {standing.resized.size} now.",
                    now_s,
                ),
            ]
        return [event for event in found if event is not None]

    def of_workers(self, workers: Sequence[WorkerNumbers], *, now_s: float) -> list[EventRecord]:
        """Return what is to be told of the processes that run models."""
        found = [
            self._risen(
                ("worker.restarted", f"{worker.model} {worker.version}"),
                worker.restarts_count,
                f"The process that runs release {worker.version} of {worker.model} was started "
                f"again, {{times}} so far; the last one was {_literal(worker.last_cause)}.",
                now_s,
            )
            for worker in workers
        ]
        return [event for event in found if event is not None]

    def of_models(self, models: Sequence[ModelReport]) -> list[EventRecord]:
        """Return what is to be told of releases that the device did not keep."""
        found = []
        for model in models:
            failure = model.failure
            if failure is None:
                self._failures.pop(model.model, None)
                continue
            if model.state is UpdateState.UNDOING or failure == self._failures.get(model.model):
                continue
            self._failures[model.model] = failure
            text = f"Release {failure.version} of {model.model}: {failure.text} [{failure.code}]"
            found.append(_event(_model_code(model, failure), text))
        return found

    def of_host(self, host: HostRecord, *, outbox_dropped: int, now_s: float) -> list[EventRecord]:
        """Return what is to be told of the disk and the outbox."""
        free, limit = host.disk_free_bytes, self._disk_free_bytes_min
        subject = self._subjects.get(DISK)
        factor = DISK_ENOUGH_FACTOR if subject and subject.seen == "disk.low" else 1.0
        is_low = 0 < free < factor * limit  # 0: it cannot be read
        megabytes = f"{free >> 20} MiB are free on the disk"
        found = [
            self._changed(
                DISK,
                "disk.low" if is_low else "disk.enough",
                f"{megabytes}; below {limit >> 20} MiB no release is fetched."
                if is_low
                else f"{megabytes} again.",
                now_s,
                is_good=not is_low,
            ),
            self._risen(
                OUTBOX,
                outbox_dropped,
                "The outbox is full: it dropped {records} so far, the oldest first. Is the hub "
                "reachable, and the outbox large enough?",
                now_s,
            ),
        ]
        return [event for event in found if event is not None]

    def _of_source(self, name: str, source: CaptureStatus, now_s: float) -> EventRecord | None:
        subject = ("source", name)
        match source.state:
            case CaptureState.RUNNING:
                text = f"The source of pipeline {name} is back."
                return self._changed(subject, "source.back", text, now_s, is_good=True)
            case CaptureState.RECONNECTING | CaptureState.STALLED:
                text = f"Pipeline {name}: {source.detail}"
                return self._changed(subject, self._away_code(subject, source), text, now_s)
            case CaptureState.FAILED:
                text = f"Pipeline {name} has stopped: {source.detail}"
                return self._changed(subject, "source.failed", text, now_s)
            case CaptureState.ENDED:
                text = f"The source of pipeline {name} has come to its end."
                return self._changed(subject, "source.ended", text, now_s)
            case CaptureState.STARTING | CaptureState.STOPPED:
                return None

    def _away_code(self, key: tuple[str, str], source: CaptureStatus) -> str:
        """Return how it went away: what each try to get it back says is no news."""
        subject = self._subjects.get(key)
        if subject is not None and subject.seen in AWAY_CODES:
            return subject.seen
        return STALLED_CODE if source.state is CaptureState.STALLED else LOST_CODE

    def _of_picture(self, standing: PipelineStanding, now_s: float) -> EventRecord | None:
        """Return nothing while no picture comes: then there is none that stands still."""
        name, subject = standing.pipeline, ("picture", standing.pipeline)
        if standing.source.state is not CaptureState.RUNNING:
            return None
        if standing.is_frozen:
            text = f"The picture of pipeline {name} does not change any more: does its camera hang?"
            return self._changed(subject, "source.frozen", text, now_s)
        text = f"The picture of pipeline {name} changes again."
        return self._changed(subject, "source.moving_again", text, now_s, is_good=True)

    def _of_inference(self, name: str, failing: str, now_s: float) -> EventRecord | None:
        subject = ("inference", name)
        if failing:
            text = f"Pipeline {name} decides nothing: {failing}"
            return self._changed(subject, "inference.failing", text, now_s)
        text = f"Pipeline {name} decides again."
        return self._changed(subject, "inference.recovered", text, now_s, is_good=True)

    def _changed(
        self, key: tuple[str, str], code: str, text: str, now_s: float, *, is_good: bool = False
    ) -> EventRecord | None:
        """Return the event of a condition, if it is to be told; see rules 1 and 2."""
        subject = self._subjects.setdefault(key, _Subject())
        condition = GOOD if is_good else code
        if condition != subject.seen:
            subject.seen = condition
            subject.changes_count += 1
        if condition == subject.told:
            return None
        if len(subject.told_s) == EVENTS_MAX and now_s - subject.told_s[0] < EVENTS_S:
            return None
        subject.told_s.append(now_s)
        if subject.changes_count > 1:
            text += f" (It changed {subject.changes_count} times since this was last told.)"
        subject.told, subject.changes_count = condition, 0
        return _event(code, text)

    def _risen(
        self, key: tuple[str, str], count: int, text: str, now_s: float
    ) -> EventRecord | None:
        """Return the event of a count, if it is to be told; see rule 3."""
        known = self._counts.setdefault(key, _Count())
        if count <= known.told:
            known.told = min(known.told, count)  # A pipeline that was started again counts anew
            return None
        if known.told_s is not None and now_s - known.told_s < COUNTS_S:
            return None
        known.told, known.told_s = count, now_s
        words = {f"{noun}s": counted(count, noun) for noun in ("message", "record", "time")}
        return _event(key[0], text.format(**words))


def _model_code(model: ModelReport, failure: Failure) -> str:
    if model.state is UpdateState.REFUSED:
        return "model.refused"
    if failure.undo_ms is not None:
        return "model.undone"
    # A settled release that its slot does not hold any more, or a wish that does not go on.
    return "model.held_up" if model.state is not UpdateState.IDLE else "model.lost"


def _literal(text: str) -> str:
    """Return `text` so that `format` leaves it as it is."""
    return text.replace("{", "{{").replace("}", "}}")


def _event(code: str, text: str) -> EventRecord:
    return EventRecord(code=code, text=text[:TEXT_CHARS_MAX])
