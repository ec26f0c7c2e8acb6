"""kill -9 of any process at any moment: a seeded schedule over a whole story with two agents.

Release 1, release 2 and a damaged release go out while something is killed every moment. A rollout
that a killed trial has undone is started again, as a person would.
"""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import httpx
import pytest

from tests.support.fleet_story import (
    ENDED,
    check_records,
    drained,
    failure_codes,
    receipts,
    wait_online,
)
from tests.support.real_fleet import HubAnswerError, Process, RealAgent, RealBroker, RealHub
from tests.support.tiny_releases import Kind
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(300),
]
SEED = int(os.environ.get("ISTHMUS_SEED", "20262"))
ROUNDS = 2
PAUSE_S = (0.2, 2.5)
STORY_S_MAX = 150.0
ATTEMPTS_MAX = 10
SLOW_BLOCKS = "[blocks]\nbytes_per_s = 131072\n"  # So that fetches take long enough to be met
PADDING_BYTES = 120_000
T = TypeVar("T")


class Reaper:
    """Kills one process after another, at random moments, and starts each again."""

    def __init__(self, processes: list[Process], seed: int) -> None:
        self.told: list[str] = []
        self._chance = random.Random(seed)
        self._victims = processes * ROUNDS  # Everybody's turn comes, in any order
        self._chance.shuffle(self._victims)
        self._stop = threading.Event()
        self._error: AssertionError | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for victim in self._victims:
                if self._stop.wait(self._chance.uniform(*PAUSE_S)):
                    return
                self.told.append(victim.name)
                victim.kill()
                if self._stop.wait(self._chance.uniform(0.0, 0.5)):
                    return
                victim.start()
        except AssertionError as error:
            self._error = error


class Operator:
    """A person at the hub's API, who asks again while it does not answer."""

    def __init__(self, hub: RealHub) -> None:
        self._hub = hub

    def add(self, kind: Kind) -> int:
        """Add a release. The same upload again is the same release."""
        return self._insist(lambda: self._hub.add_release(kind, padding_bytes=PADDING_BYTES))

    def bring(self, version: int) -> tuple[str, str]:
        """Roll a release out; return the rollout and how it ended."""
        rollout = self._insist(lambda: self._start(version))
        return rollout, self._insist(lambda: self._end_of(rollout))

    def failures(self, rollout: str) -> set[str]:
        """Return why devices failed."""
        return self._insist(lambda: failure_codes(self._hub, rollout) or {"none"})

    def _start(self, version: int) -> str:
        """Start a rollout, or find the one that an unheard answer was about."""
        found = self._hub.get("/rollouts", model="tones", limit=1)["rollouts"]
        if found and found[0]["version"] == version and found[0]["state"] not in ENDED:
            return str(found[0]["rollout_id"])
        return self._hub.roll_out(version, trial={"items_min": 60})

    def _end_of(self, rollout: str) -> str:
        state = self._hub.rollout_state(rollout)
        return state if state in ENDED else ""

    def _insist(self, ask: Callable[[], T]) -> T:
        refusals: list[str] = []

        def attempt() -> T | None:
            try:
                return ask()
            except (httpx.TransportError, HubAnswerError) as error:
                refusals.append(str(error))
                return None

        try:
            return cast(T, wait_until(attempt, seconds_max=STORY_S_MAX))
        except AssertionError as error:
            raise AssertionError(f"{error}; {refusals[-3:]}") from error


def test_random_kills_end_on_one_proved_release_with_every_record_once(tmp_path: Path) -> None:
    broker = RealBroker(tmp_path)
    hub = RealHub(tmp_path, broker=broker, settings=SLOW_BLOCKS)
    try:
        hub.start()
        agents = [RealAgent(name, tmp_path, hub) for name in ("one", "two")]
        for agent in agents:
            agent.start()
        reaper = Reaper([*agents, hub, broker], SEED)
        try:
            tell(Operator(hub), reaper)
        finally:
            reaper.close()
            print(f"seed {SEED}, killed: {reaper.told}")
        hub.check_all()
        for agent in agents:
            wait_online(hub, agent)
            wait_until(lambda agent=agent: receipts(hub, agent)[:1] and drained(agent)())  # type: ignore[misc]
            assert hub.model_on(agent.device)["version"] == 2
            assert receipts(hub, agent)[0][0] == 2
            assert 3 not in {version for version, _ in receipts(hub, agent)}
        for agent in agents:
            agent.stop()
        check_records(hub, agents)
    finally:
        hub.close()


def tell(operator: Operator, reaper: Reaper) -> None:
    """Live through the story, to the end of it and of the kills."""
    for version, kind in ((1, Kind.GOOD), (2, Kind.BETTER)):
        assert operator.add(kind) == version
        for _ in range(ATTEMPTS_MAX):
            rollout, end = operator.bring(version)
            if end == "done":
                break
            assert end == "undone"
            assert operator.failures(rollout) == {"trial.died"}
        else:
            raise AssertionError(f"release {version} was not settled")
    rollout, end = operator.bring(operator.add(Kind.DAMAGED))
    assert end == "undone"
    assert operator.failures(rollout) <= {"trial.died", "trial.disagreement"}
    wait_until(lambda: reaper.is_done, seconds_max=STORY_S_MAX)
