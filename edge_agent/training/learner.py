"""Learner: follows what the Target says of learning; starts, watches and ends the learning process.

1. The process runs only while an order of the Target wants this device, the owner's policy allows
   it and the device is eligible (admission.py); else it is gone within a step and STOP_S_MAX.
2. It is started again as supervision.py says. Its own word counts only with its own process id.
3. An update that is paid for is finished and sent although it spent the budget, within
   FINISH_S_MAX; so is one in work when the Jobs change. The owner's other limits end it at once.
4. What a killed agent left running is ended before anything else.
5. One thread of its own. `reports` only copies a value: nothing here holds up inference, updates or
   the agent's tick, and no trouble here ends anything but learning.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import UNSET, UnsetType

from edge_agent.training.admission import Admission, Judged
from edge_agent.training.file_node_folder import NodeFolder
from edge_agent.training.node_files import NodeOrder, NodeStanding, NodeState
from edge_agent.training.policy import BUDGET_SPENT
from edge_agent.training.process_node import NodeProcess
from edge_agent.training.settings import LearningSettings
from edge_agent.training.supervision import Supervision
from shared.clock import Clock
from shared.errors import TransientError
from shared.wire.report import LearningReport, LearningState
from shared.wire.target import LearningOrder, Target

log = logging.getLogger(__name__)

STEP_S = 1.0
TEXT_S = 60.0  # A text whose state and code stay is told anew this often
TEXT_CHARS_MAX = 2000
EPSILON_MAX = 1e9  # The wire's
FINISH_S_MAX = 600.0
OTHER_ADDRESS = "eligibility.other_address"


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who learns, and with which hub."""

    device: str
    hub_host: str  # That the device joined by
    ca_path: Path
    key_path: Path


class Learner:
    """See the rules above. `reports` by any thread, the rest by one."""

    def __init__(
        self,
        settings: LearningSettings | None,
        *,
        identity: NodeIdentity,
        folder: NodeFolder,
        target: Callable[[], Target | None],
        admission: Admission,
        process: NodeProcess,
        clock: Clock,
    ) -> None:
        """Args: target: the Target that is taken up, asked at every step."""
        self._settings = settings
        self._identity, self._folder = identity, folder
        self._target, self._admission = target, admission
        self._process, self._clock = process, clock
        self._supervision = Supervision()
        self._order: NodeOrder | None = None  # That the process was started with
        self._unfinished_s: float | None = None  # Since when it is let finish
        self._trouble: tuple[str, str] | None = None
        self._rounds: dict[str, int] = {}  # By Job, since the agent started
        self._rounds_seen = 0  # Of this run of the process
        self._reports: tuple[LearningReport, ...] | UnsetType = UNSET
        self._told_s: dict[str, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set; the learning process ends with it."""
        try:
            self._process.end_orphans()
            while not stop.is_set():
                self.step()
                self._clock.wait(stop, STEP_S)
        finally:
            self._end("agent")

    def reports(self) -> tuple[LearningReport, ...] | UnsetType:
        """Return how the device stands to each Job that wants it; UNSET: none does."""
        return self._reports

    def step(self) -> None:
        """Look once, and do what follows."""
        target = self._target()
        orders = target.learning if target is not None and target.learning else ()
        if target is None or not orders:
            self._end("target")
            self._reports = UNSET
            self._told_s.clear()
            return
        self._watch()
        judged = self._admission.judge(
            orders, issued_ms=target.issued_ms, is_learning=self._process.pid is not None
        )
        standing = self._folder.standing(self._process.pid)
        judged = _of_one_address(self._let_finish(judged, standing), self._address)
        self._serve([one.order for one in judged if one.state is None], standing)
        self._tell(judged)

    def _watch(self) -> None:
        """Take notice of what the process did since the last step."""
        now_s, pid = self._clock.monotonic_s(), self._process.pid
        if pid is None:
            return
        standing = self._folder.standing(pid)
        if standing is not None:
            self._supervision.answered(standing.answered_ms, now_s)
            self._count_rounds(standing)
        code = self._process.ended()
        if code is not None:
            text = standing.text if standing else ""
            log.warning("learning.ended", extra={"exit_code": code, "text": text})
            self._supervision.failed(now_s)
        elif self._supervision.is_silent(now_s):
            log.warning("learning.silent", extra={"node_pid": pid})
            self._process.stop()
            self._supervision.lost(now_s)

    def _count_rounds(self, standing: NodeStanding) -> None:
        more = standing.rounds_count - self._rounds_seen
        jobs = self._order.jobs if self._order else ()
        job = standing.job or (jobs[0] if len(jobs) == 1 else None)
        if more > 0 and job is not None:
            self._rounds[job] = self._rounds.get(job, 0) + more
            self._rounds_seen = standing.rounds_count

    def _let_finish(
        self, judged: tuple[Judged, ...], standing: NodeStanding | None
    ) -> tuple[Judged, ...]:
        """Return the answers with a Job admitted whose last paid update is in work."""
        if standing is None or standing.state is not NodeState.WORKING:
            return judged
        return tuple(
            replace(one, state=None, code=None, text="")
            if one.code == BUDGET_SPENT and one.order.job == standing.job and self._may_finish()
            else one
            for one in judged
        )

    def _may_finish(self) -> bool:
        now_s = self._clock.monotonic_s()
        if self._unfinished_s is None:
            self._unfinished_s = now_s
        return now_s - self._unfinished_s < FINISH_S_MAX

    def _serve(self, orders: list[LearningOrder], standing: NodeStanding | None) -> None:
        """Have the process run with these orders, or not at all."""
        if not orders:
            self._end("policy")
            return
        wanted = self._node_order(orders)
        if self._process.pid is not None:
            if self._order is not None and _is_same(self._order, wanted):
                return
            if self._is_busy_with(wanted, standing) and self._may_finish():
                return
            self._end("other jobs")
        if self._supervision.may_start(self._clock.monotonic_s()):
            self._start(wanted)

    def _is_busy_with(self, wanted: NodeOrder, standing: NodeStanding | None) -> bool:
        return (
            standing is not None
            and standing.state is NodeState.WORKING
            and standing.job in wanted.jobs
        )

    def _start(self, order: NodeOrder) -> None:
        now_s = self._clock.monotonic_s()
        self._trouble = None
        try:
            self._folder.write_order(order)
        except TransientError as error:
            self._trouble = (error.code, str(error))
            self._supervision.failed(now_s)
            return
        self._order, self._rounds_seen, self._unfinished_s = order, 0, None
        if self._process.start():
            self._supervision.started(now_s)
        else:
            self._supervision.failed(now_s)

    def _end(self, reason: str) -> None:
        if self._process.pid is not None:
            log.info("learning.ending", extra={"reason": reason})
            self._process.stop()
        self._order = self._unfinished_s = None

    def _node_order(self, orders: list[LearningOrder]) -> NodeOrder:
        assert self._settings is not None
        return NodeOrder(
            device=self._identity.device,
            jobs=tuple(order.job for order in orders),
            address=self._address(orders[0]),
            ca_path=str(self._identity.ca_path.resolve()),
            key_path=str(self._identity.key_path.resolve()),
            settings=self._settings,
            until_ms=max(order.until_ms for order in orders),
        )

    def _address(self, order: LearningOrder) -> str:
        host = order.host or self._identity.hub_host
        return f"[{host}]:{order.port}" if ":" in host else f"{host}:{order.port}"

    def _tell(self, judged: tuple[Judged, ...]) -> None:
        before = {} if self._reports is UNSET else {old.job: old for old in self._reports}
        self._reports = tuple(self._report(one, before.get(one.order.job)) for one in judged)

    def _report(self, one: Judged, before: LearningReport | None) -> LearningReport:
        now_s, job = self._clock.monotonic_s(), one.order.job
        state, code, text = one.state, one.code, one.text[:TEXT_CHARS_MAX]
        if state is None:
            state, code, text = self._running_state(now_s)
        is_same = before is not None and (before.state, before.code) == (state, code)
        if before is not None and is_same and now_s - self._told_s.get(job, now_s) < TEXT_S:
            text = before.text
        else:
            self._told_s[job] = now_s
        privacy = self._settings.privacy if self._settings else None
        return LearningReport(
            job=job,
            model=one.order.model,
            state=state,
            code=code,
            text=text,
            restarts_count=self._supervision.restarts_count,
            rounds_count=self._rounds.get(job, 0),
            epsilon_spent=(
                None if one.epsilon_spent is None else min(one.epsilon_spent, EPSILON_MAX)
            ),
            epsilon_max=privacy.epsilon_max if privacy else None,
        )

    def _running_state(self, now_s: float) -> tuple[LearningState, str | None, str]:
        if self._trouble is not None:
            code, text = self._trouble
            return LearningState.WAITING, code, text
        pid = self._process.pid
        if pid is not None and self._supervision.is_ready(now_s):
            return LearningState.READY, None, ""
        standing = self._folder.standing(pid)
        return LearningState.JOINING, None, standing.text if standing else ""


def _is_same(running: NodeOrder, wanted: NodeOrder) -> bool:
    """Return whether a process started with `running` serves `wanted` too.

    A later end is no reason to interrupt it: it ends at its own, and is started with the new one.
    """
    return (set(running.jobs), running.address) == (set(wanted.jobs), wanted.address)


def _of_one_address(
    judged: tuple[Judged, ...], address_of: Callable[[LearningOrder], str]
) -> tuple[Judged, ...]:
    """Let orders for another Fleet API than the first admitted one's wait."""
    addresses = [address_of(one.order) for one in judged if one.state is None]
    return tuple(
        replace(
            one,
            state=LearningState.WAITING,
            code=OTHER_ADDRESS,
            text="It learns with another Fleet API now.",
        )
        if one.state is None and address_of(one.order) != addresses[0]
        else one
        for one in judged
    )
