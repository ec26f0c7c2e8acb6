"""Random lives of one device: Targets, steps, dead links and power cuts in any order."""

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edge_agent.updates.journal import STORES_MAX
from shared.errors import IntegrityError, TransientError
from shared.wire.target import TargetRelease, TrialPolicy
from tests.support.tiny_releases import Kind, again, publish
from tests.support.updater_bench import Bench

KINDS = (Kind.GOOD, Kind.BETTER, Kind.DAMAGED, Kind.FAILING, Kind.UNPROVED, Kind.UNLOADABLE)


class Life(RuleBasedStateMachine):
    """What must be true of a device at any instant, whatever happens to it."""

    store: Path
    releases: tuple[TargetRelease, ...]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="isthmus-life-"))
        self.revision = 0
        self.last: TargetRelease | None = None

    @initialize()
    def start(self) -> None:
        self.bench = Bench(self.folder, self.store).start()

    @rule(index=st.integers(0, len(KINDS) - 1), rollout=st.integers(1, 3))
    def target(self, index: int, rollout: int) -> None:
        self.revision += 1
        self.last = again(self.releases[index], f"roll-{index}-{rollout}")
        self.bench.target(self.last, revision=self.revision)

    @rule()
    def target_nothing(self) -> None:
        self.revision += 1
        self.last = None
        self.bench.target(revision=self.revision)

    @rule(items=st.sampled_from([0, 0, 3, 25]))
    def step(self, items: int) -> None:
        self.bench.step(items=items)

    @rule(seconds=st.sampled_from([0.3, 90.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)  # type: ignore[attr-defined]

    @rule(is_tampered=st.booleans())
    def disturb_the_next_fetch(self, is_tampered: bool) -> None:
        error = IntegrityError if is_tampered else TransientError
        self.bench.peer.errors = [error("test.fault", "A fault.")]

    @rule()
    def lose_power(self) -> None:
        settled = self.settled
        self.bench = Bench(self.folder, self.store).start()
        assert self.bench.serving == settled, "it does not serve what was settled"

    @precondition(lambda self: self.revision > 0)
    @rule()
    def come_to_rest(self) -> None:
        self.bench.peer.errors = []
        if self.last:
            self.bench.target(self.last, revision=self.revision)
        else:
            self.bench.target(revision=self.revision)
        for _ in range(8):
            self.bench.clock.advance(90.0)  # type: ignore[attr-defined]
            self.bench.step(items=25)
        model = self.bench.model
        assert model.state in ("idle", "refused")
        assert self.bench.serving == self.settled
        if self.last and model.version == self.last.version:
            assert self.bench.receipt is not None
            assert self.bench.receipt.rollout == self.last.rollout
        elif self.last:
            assert model.failure is not None, "it does not say why it runs something else"

    @property
    def settled(self) -> int:
        journal = self.bench.journals.read("tones")
        return journal.settled.version if journal and journal.settled else 0

    @invariant()
    def the_settled_slot_is_whole(self) -> None:
        journal = self.bench.journals.read("tones")
        if journal is not None and journal.settled is not None:
            folder = self.bench.slots.path("tones", journal.settled.slot)
            opened = self.bench.peer.reopen(folder)
            assert opened.manifest_digest == journal.settled.manifest_digest
            assert self.bench.serving != 0
        if journal is not None and journal.attempt is not None:
            assert journal.attempt.stores_count <= STORES_MAX

    @invariant()
    def what_serves_settled_or_is_on_trial(self) -> None:
        state, serving = self.bench.model.state, self.bench.serving
        assert serving == self.settled or state == "trial"

    @invariant()
    def a_receipt_names_what_serves(self) -> None:
        receipt = self.bench.receipt
        if receipt is not None:
            assert receipt.version == self.bench.serving

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


@pytest.mark.slow
def test_whatever_happens_one_whole_release_serves(tmp_path: Path) -> None:
    policy = TrialPolicy(items_min=20)

    class Told(Life):
        store = tmp_path
        releases = tuple(
            publish(tmp_path, version=version, kind=kind, policy=policy)
            for version, kind in enumerate(KINDS, start=1)
        )

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Told,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
