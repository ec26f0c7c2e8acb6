"""Admission: what each order of the Target means here and now.

1. For good first: no policy, libraries missing, a ledger that cannot be trusted, the owner's
   policy, a spent budget: REFUSED. Then what passes: WAITING.
2. The ledger is looked at every time; samples are counted anew after COUNT_S.
3. Nothing here ends the agent: a ledger or a folder that cannot be read is an answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.training.budget import cost_of_rho
from edge_agent.training.eligibility import Conditions, Obstacle, obstacles, too_few_samples
from edge_agent.training.file_ledger import Ledger, open_ledger
from edge_agent.training.file_samples_count import SamplesCount, count_samples
from edge_agent.training.ledger import LedgerContent
from edge_agent.training.policy import ABSENT, decide, wish_of
from edge_agent.training.procfs_power import ProcfsPower
from edge_agent.training.settings import LearningSettings
from shared.clock import Clock, now_ms
from shared.errors import IntegrityError, TransientError
from shared.learning.rdp import Rdp, epsilon_of, no_cost
from shared.wire.report import LearningState
from shared.wire.target import LearningOrder

COUNT_S = 60.0  # A folder of pictures takes a while to walk
CLOCK_BEHIND_MS_MAX = 300_000
NOT_INSTALLED = "learning.not_installed"
OVER = "eligibility.over"


@dataclass(frozen=True, slots=True)
class Judged:
    """One order's answer; state None: the device may learn in it now."""

    order: LearningOrder
    state: LearningState | None = None
    code: str | None = None
    text: str = ""
    epsilon_spent: float | None = None


class Admission:
    """See the rules above. Used by one thread."""

    def __init__(
        self,
        settings: LearningSettings | None,
        *,
        folder: Path,
        key_path: Path,
        power: ProcfsPower,
        missing: Callable[[], tuple[str, ...]],
        clock: Clock,
    ) -> None:
        """Args: folder: `<state>/learning`; missing: which libraries are not installed."""
        self._settings = settings
        self._folder, self._key_path = folder, key_path
        self._power, self._missing, self._clock = power, missing, clock
        self._ledger: Ledger | None = None
        self._counts: dict[str, tuple[float, SamplesCount]] = {}

    def judge(
        self, orders: tuple[LearningOrder, ...], *, issued_ms: int, is_learning: bool
    ) -> tuple[Judged, ...]:
        """Return what each order comes to.

        Args: issued_ms: when the hub stated them; is_learning: the learning process runs.
        """
        settings = self._settings
        if settings is None:
            refusals = (decide(None, order, no_cost()) for order in orders)
            return tuple(
                Judged(order, LearningState.REFUSED, ABSENT, refusal.text if refusal else "")
                for order, refusal in zip(orders, refusals, strict=True)
            )
        missing = self._missing()
        if missing:
            text = (
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed "
                'here. Install what learning needs: pip install "isthmus[edge,learn]"'
            )
            return tuple(Judged(o, LearningState.REFUSED, NOT_INSTALLED, text) for o in orders)
        try:
            content = self._read_ledger(settings)
        except IntegrityError as error:
            return tuple(Judged(o, LearningState.REFUSED, error.code, str(error)) for o in orders)
        except TransientError as error:
            return tuple(Judged(o, LearningState.WAITING, error.code, str(error)) for o in orders)
        conditions = self.conditions(issued_ms=issued_ms)
        standing = obstacles(settings, conditions, is_learning=is_learning)
        return tuple(self._judge(settings, order, content, standing) for order in orders)

    def conditions(self, *, issued_ms: int = 0) -> Conditions:
        """Return how the device stands now."""
        is_behind = now_ms(self._clock) < issued_ms - CLOCK_BEHIND_MS_MAX
        return self._power.read(is_clock_trusted=not is_behind)

    def _judge(
        self,
        settings: LearningSettings,
        order: LearningOrder,
        content: LedgerContent,
        standing: tuple[Obstacle, ...],
    ) -> Judged:
        spent = cost_of_rho(content.account(order.model).rho)
        epsilon = self._epsilon(settings, order, spent)
        refusal = decide(settings, wish_of(order), spent)
        if refusal is not None:
            return Judged(order, LearningState.REFUSED, refusal.code, refusal.text, epsilon)
        found = [*self._of_order(settings, order), *standing]
        if not found:
            return Judged(order, epsilon_spent=epsilon)
        text = " ".join(obstacle.text for obstacle in found)
        return Judged(order, LearningState.WAITING, found[0].code, text, epsilon)

    def _epsilon(
        self, settings: LearningSettings, order: LearningOrder, spent: Rdp
    ) -> float | None:
        """Return what is spent, where anything was, can be or may be; None: nobody counts."""
        privacy = settings.privacy
        is_counted = any(spent) or order.noise_multiplier is not None
        if is_counted or privacy.epsilon_max is not None:
            return epsilon_of(spent, privacy.delta)
        return None

    def _of_order(self, settings: LearningSettings, order: LearningOrder) -> list[Obstacle]:
        """Return what stands in the way of this one order."""
        if order.until_ms <= now_ms(self._clock):
            return [Obstacle(OVER, "The time that the hub gave for it is over.")]
        counted = self._count(settings, order.model)
        found = too_few_samples(
            settings,
            model=order.model,
            samples_count=counted.count,
            samples_min=order.samples_min,
        )
        if found is None:
            return []
        return [Obstacle(found.code, f"{found.text} {counted.trouble}".strip())]

    def _count(self, settings: LearningSettings, model: str) -> SamplesCount:
        now_s = self._clock.monotonic_s()
        counted_s, counted = self._counts.get(model, (None, SamplesCount(0)))
        if counted_s is None or now_s - counted_s >= COUNT_S:
            entry = next(samples for samples in settings.samples if samples.model == model)
            counted = count_samples(entry)
            self._counts[model] = (now_s, counted)
        return counted

    def _read_ledger(self, settings: LearningSettings) -> LedgerContent:
        if self._ledger is None:
            self._ledger = open_ledger(self._folder, self._key_path, settings.privacy)
        return self._ledger.content()
