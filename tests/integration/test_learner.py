"""The learner with real processes: who starts, watches and ends the learning process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import UNSET

from edge_agent.training.admission import Admission
from edge_agent.training.file_ledger import open_ledger
from edge_agent.training.file_node_folder import NodeFolder
from edge_agent.training.learner import Learner, NodeIdentity
from edge_agent.training.node_files import LEDGER, ORDER, NodeOrder
from edge_agent.training.process_node import NodeProcess
from edge_agent.training.procfs_power import ProcfsPower
from edge_agent.training.settings import (
    LearningSettings,
    PrivacySettings,
    SampleFormat,
    SampleSettings,
)
from edge_agent.training.supervision import NODE_SILENT_S, RESTART_S_MIN
from shared.wire.report import LearningReport, LearningState
from shared.wire.target import LearningOrder, Target
from tests.support.manual_clock import ManualClock
from tests.support.waiting import wait_until

ORDERS = (LearningOrder(job="job-a", model="digits", port=9092, until_ms=1_800_000_000_000),)
TARGET = Target(revision=1, issued_ms=1_700_000_000_000, learning=ORDERS)


class Bench:
    """One device's learner, with the peer that plays its process."""

    def __init__(self, root: Path) -> None:
        self.root, self.clock, self.target = root, ManualClock(), TARGET
        self.folder = NodeFolder(root / "learning")
        self.folder.path.mkdir()
        self.key_path = root / "device.key"
        self.key_path.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        np.savez(root / "samples.npz", items=np.zeros((5, 2)), labels=np.zeros(5, np.int64))
        (root / "proc").mkdir()
        self.settings: LearningSettings | None = LearningSettings(
            samples=(
                SampleSettings(
                    model="digits", path=str(root / "samples.npz"), format=SampleFormat.NPZ
                ),
            )
        )
        self.missing: tuple[str, ...] = ()
        self.behaviour = "serve"
        self.process: NodeProcess | None = None

    def build(self) -> Learner:
        power = ProcfsPower(self.clock, proc=self.root / "proc", thermal=self.root, power=self.root)
        self.process = NodeProcess(self.command())
        return Learner(
            self.settings,
            identity=NodeIdentity("dev-x", "hub.local", self.root / "ca", self.key_path),
            folder=self.folder,
            target=lambda: self.target,
            admission=Admission(
                self.settings,
                folder=self.folder.path,
                key_path=self.key_path,
                power=power,
                missing=lambda: self.missing,
                clock=self.clock,
            ),
            process=self.process,
            clock=self.clock,
        )

    def command(self) -> tuple[str, ...]:
        module = "tests.support.node_peer"
        return (sys.executable, "-m", module, self.behaviour, str(self.folder.path))

    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def tell(self, **extra: object) -> None:
        fresh = self.folder.path / "extra.new"
        fresh.write_bytes(msgspec.json.encode(extra))
        fresh.replace(self.folder.path / "extra.json")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    if made.process is not None:
        made.process.stop()


def report(learner: Learner) -> LearningReport:
    reports = learner.reports()
    assert reports is not UNSET
    return reports[0]


def stepped(learner: Learner, condition: Callable[[LearningReport], bool]) -> LearningReport:
    def look() -> bool:
        learner.step()
        return condition(report(learner))

    wait_until(look)
    return report(learner)


def ready(one: LearningReport) -> bool:
    return one.state is LearningState.READY


def refused(bench: Bench) -> str | None:
    learner = bench.build()
    learner.step()
    assert bench.pid() is None
    assert report(learner).state is LearningState.REFUSED
    return report(learner).code


def test_without_a_policy_nothing_ever_runs(bench: Bench) -> None:
    bench.settings = None
    assert refused(bench) == "policy.absent"


def test_without_the_libraries_it_says_what_to_install(bench: Bench) -> None:
    bench.missing = ("flwr",)
    assert refused(bench) == "learning.not_installed"


def test_a_damaged_ledger_stops_learning_and_nothing_else(bench: Bench) -> None:
    (bench.folder.path / LEDGER).write_bytes(b"junk")
    assert refused(bench) == "ledger.damaged"


@pytest.mark.slow
def test_it_runs_while_it_is_wanted_and_no_longer(bench: Bench) -> None:
    learner = bench.build()
    stepped(learner, ready)
    order = msgspec.json.decode((bench.folder.path / ORDER).read_bytes(), type=NodeOrder)
    assert (order.jobs, order.address) == (("job-a",), "hub.local:9092")
    pid = bench.pid()
    assert pid is not None
    bench.target = Target(revision=2, issued_ms=1)
    learner.step()
    assert learner.reports() is UNSET
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_a_device_that_may_not_now_waits_and_an_order_ends(bench: Bench) -> None:
    learner = bench.build()
    stepped(learner, ready)
    (bench.root / "proc" / "loadavg").write_text("999 1 1")
    learner.step()
    assert (report(learner).state, report(learner).code) == ("waiting", "eligibility.load")
    assert bench.pid() is None
    (bench.root / "proc" / "loadavg").write_text("0 1 1")
    stepped(learner, ready)
    bench.clock.jump(200_000_000)
    learner.step()
    assert report(learner).code == "eligibility.over"
    assert bench.pid() is None


@pytest.mark.slow
def test_an_end_with_zero_is_followed_by_a_start_after_a_delay(bench: Bench) -> None:
    bench.behaviour = "end"
    learner = bench.build()
    assert stepped(learner, lambda one: one.restarts_count == 1).state is LearningState.JOINING
    learner.step()
    assert bench.pid() is None, "no hot loop"
    bench.clock.advance(RESTART_S_MIN)
    learner.step()
    assert bench.pid() is not None
    stepped(learner, lambda one: one.restarts_count == 2)


@pytest.mark.slow
def test_a_process_that_the_hub_does_not_answer_is_started_anew(bench: Bench) -> None:
    bench.behaviour = "mute"
    learner = bench.build()
    learner.step()
    first = bench.pid()
    bench.clock.advance(NODE_SILENT_S - 1)
    learner.step()
    assert bench.pid() == first
    bench.clock.advance(1)
    learner.step()
    assert bench.pid() is None
    bench.clock.advance(RESTART_S_MIN)
    learner.step()
    assert bench.pid() not in (None, first)
    assert report(learner).restarts_count == 1


@pytest.mark.slow
def test_a_paid_update_is_finished_though_it_spent_the_budget(bench: Bench) -> None:
    order = msgspec.structs.replace(ORDERS[0], noise_multiplier=2.0)
    bench.target = msgspec.structs.replace(TARGET, learning=(order,))
    assert bench.settings is not None
    privacy = PrivacySettings(epsilon_max=2.5)
    bench.settings = msgspec.structs.replace(bench.settings, privacy=privacy)
    learner = bench.build()
    bench.tell(state="working", job="job-a", rounds_count=0)
    stepped(learner, ready)
    ledger = open_ledger(bench.folder.path, bench.key_path, privacy)
    epsilon = ledger.charge("digits", "job-a", 1, 2.0, base_digest="a" * 64)
    learner.step()
    assert bench.pid() is not None
    bench.tell(state="online", job="job-a", rounds_count=1)
    last = stepped(learner, lambda one: one.code == "budget.spent")
    assert bench.pid() is None
    assert last.rounds_count == 1
    assert last.epsilon_spent == pytest.approx(epsilon)


@pytest.mark.slow
def test_what_a_killed_agent_left_is_ended(bench: Bench) -> None:
    bench.build()
    assert bench.process is not None
    orphan = subprocess.Popen(bench.command(), start_new_session=True)
    wait_until((bench.folder.path / "standing.json").exists)
    assert bench.process.end_orphans() == 1
    assert orphan.wait(5) == 0
    assert bench.process.end_orphans() == 0


@pytest.mark.slow
def test_one_that_is_deaf_to_sigterm_is_killed(bench: Bench) -> None:
    bench.behaviour = "deaf"
    learner = bench.build()
    stepped(learner, ready)
    pid = bench.pid()
    assert pid is not None
    bench.target = Target(revision=2, issued_ms=1)
    learner.step()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
