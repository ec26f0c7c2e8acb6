"""Policy: what the device's owner allows, as an answer to one wish. Pure.

Asked twice: by the agent before it starts to learn, and by the learning process for every task, so
that a hub that says one thing in the Target and another in the task gains nothing.

1. Without `[learning]` nothing is allowed.
2. A model needs an entry of `samples`; a Job must match one of `jobs_allowed` and none of
   `jobs_forbidden`; `*` and `?` stand for anything, capitals count.
3. Where `privacy.is_noise_required`, or a budget is set, a task to train without local noise is
   refused: an update without noise has no finite cost, and would make the budget mean nothing.
4. A Round that the budget cannot pay for is refused. One that was paid for already is not.
5. Measuring costs the budget nothing: no update leaves. Its numbers are not noised; the owner
   holds them back with `measurements_forbidden`.
6. Every refusal is for good until the owner changes the file, and says which key to change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from edge_agent.training.budget import affords
from edge_agent.training.settings import LearningSettings
from shared.errors import RefusedError
from shared.learning.rdp import Rdp, epsilon_of
from shared.learning.task import LearningTask, Measurement, TaskKind
from shared.wire.target import LearningOrder

ABSENT = "policy.absent"
MODEL = "policy.model"
JOB = "policy.job"
NOISE = "policy.noise"
BUDGET_SPENT = "budget.spent"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, with a stable code and what the owner can do about it."""

    code: str
    text: str

    def as_error(self) -> RefusedError:
        """Return it as an error to raise."""
        return RefusedError(self.code, self.text)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of the device, in an order or in a task."""

    job: str
    model: str
    noise_multiplier: float | None
    trains: bool = True  # An update would leave


def wish_of(asked: LearningOrder | LearningTask) -> Wish:
    """Return what an order or a task asks."""
    match asked:
        case LearningOrder():
            return Wish(asked.job, asked.model, asked.noise_multiplier)
        case LearningTask():
            noise = asked.privacy.noise_multiplier if asked.privacy else None
            return Wish(asked.job, asked.spec.model, noise, trains=asked.kind is TaskKind.TRAIN)


def decide(
    settings: LearningSettings | None,
    asked: LearningOrder | LearningTask | Wish,
    spent: Rdp,
    *,
    is_charged: bool = False,
) -> Refusal | None:
    """Return why the owner's policy says no; None: it does not.

    Args:
        settings: `[learning]` of the agent's file; None where there is none.
        asked: an order, a task, or what was taken from one.
        spent: what the model has cost so far (Ledger.spent).
        is_charged: this very Round was paid for before (Ledger.is_charged).
    """
    wish = asked if isinstance(asked, Wish) else wish_of(asked)
    if settings is None:
        return Refusal(
            ABSENT,
            "This device does not learn: its agent's file has no [learning]. "
            "Add [learning] with samples to let it.",
        )
    return (
        _of_model(settings, wish)
        or _of_job(settings, wish)
        or _of_noise(settings, wish)
        or (None if is_charged else _of_budget(settings, wish, spent))
    )


def may_tell(settings: LearningSettings, measurement: Measurement) -> bool:
    """Return whether the owner lets this number leave."""
    return measurement not in settings.measurements_forbidden


def told(settings: LearningSettings, measured: Mapping[Measurement, float]) -> dict[str, float]:
    """Return, by name, the measurements that may leave."""
    return {
        measurement.value: value
        for measurement, value in measured.items()
        if may_tell(settings, measurement)
    }


def _of_model(settings: LearningSettings, wish: Wish) -> Refusal | None:
    if any(samples.model == wish.model for samples in settings.samples):
        return None
    return Refusal(
        MODEL,
        f"No samples of the model {wish.model} are given to learn from. "
        f'Add a [[learning.samples]] with model = "{wish.model}" to let it learn.',
    )


def _of_job(settings: LearningSettings, wish: Wish) -> Refusal | None:
    forbidding = _match(settings.jobs_forbidden, wish.job)
    if forbidding is not None:
        return Refusal(
            JOB,
            f'The Job {wish.job} is forbidden here by "{forbidding}". '
            "Take it out of learning.jobs_forbidden to allow it.",
        )
    if _match(settings.jobs_allowed, wish.job) is None:
        return Refusal(
            JOB,
            f"The Job {wish.job} matches none of those allowed here. "
            f'Add "{wish.job}" to learning.jobs_allowed to allow it.',
        )
    return None


def _of_noise(settings: LearningSettings, wish: Wish) -> Refusal | None:
    if wish.noise_multiplier is not None or not wish.trains:
        return None
    if settings.privacy.is_noise_required:
        return Refusal(
            NOISE,
            f"The Job {wish.job} asks for updates without local noise, and "
            "learning.privacy.is_noise_required is true here. Start the Job with local noise, or "
            "set that key to false.",
        )
    if settings.privacy.epsilon_max is not None:
        return Refusal(
            NOISE,
            f"The Job {wish.job} asks for updates without local noise, which no privacy budget "
            "can pay for. Start the Job with local noise, or remove learning.privacy.epsilon_max.",
        )
    return None


def _of_budget(settings: LearningSettings, wish: Wish, spent: Rdp) -> Refusal | None:
    privacy = settings.privacy
    if wish.noise_multiplier is None or not wish.trains:
        return None
    if affords(privacy, spent, wish.noise_multiplier):
        return None
    epsilon = epsilon_of(spent, privacy.delta)
    return Refusal(
        BUDGET_SPENT,
        f"The privacy budget of the model {wish.model} is spent: epsilon {epsilon:.3g} of "
        f"{privacy.epsilon_max:g}, and a Round with noise {wish.noise_multiplier:g} costs more "
        "than is left. Only a higher learning.privacy.epsilon_max lets it go on.",
    )


def _match(globs: tuple[str, ...], job: str) -> str | None:
    return next((glob for glob in globs if fnmatchcase(job, glob)), None)
