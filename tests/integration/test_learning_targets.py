"""Jobs in devices' Targets and Reports: told, told otherwise, withdrawn; over a real database."""

from pathlib import Path

import pytest
from msgspec import UNSET

from cloud_hub.rollouts.controller import RolloutController
from cloud_hub.sql_database import Database
from cloud_hub.telemetry.service import TelemetryService
from shared.ids import DeviceId, new_session_id
from shared.wire.report import LearningReport, LearningState, Report
from shared.wire.target import LearningOrder, Target
from tests.support.enrolled import received
from tests.support.learning_bench import MODEL, LearningBench
from tests.support.learning_peer import PORT
from tests.support.release_shelf import ReleaseShelf


class KeepingLink:
    """A link that keeps the newest Target of each device, as a broker retains it."""

    def __init__(self) -> None:
        self.is_connected = True
        self.newest: dict[DeviceId, Target] = {}

    def publish(self, device: DeviceId, message: Target) -> None:
        known = self.newest.get(device)
        assert known is None or message.revision >= known.revision
        self.newest[device] = message


class TargetBench(LearningBench):
    """A LearningBench whose hub also has rollouts."""

    def __init__(self, database: Database, folder: Path) -> None:
        super().__init__(database, folder)
        self.link = KeepingLink()
        self.rollouts = self.new_rollouts()
        self.session = new_session_id()
        self.sent_ms = 0

    def new_rollouts(self) -> RolloutController:
        return RolloutController(
            self.database,
            self.devices,
            TelemetryService(self.database, self.clock),
            ReleaseShelf((MODEL, 1)),  # type: ignore[arg-type]
            self.link,  # type: ignore[arg-type]
            self.clock,
            self.training,
        )

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            super().step()
            self.rollouts.tick()

    def asked(self, device: DeviceId) -> tuple[LearningOrder, ...]:
        """What the device's retained Target asks it to learn."""
        target = self.link.newest.get(device)
        return target.learning if target is not None and target.learning is not UNSET else ()

    def report(self, device: DeviceId, *learning: LearningReport) -> None:
        """Let a device report."""
        self.sent_ms += 1000
        target = self.link.newest.get(device)
        report = Report(
            target_revision=target.revision if target else 0,
            at_ms=self.sent_ms,
            models=(),
            learning=learning or UNSET,
        )
        self.rollouts.on_report(
            received(device, report, session=self.session, sent_ms=self.sent_ms)
        )


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> TargetBench:
    return TargetBench(database, tmp_path)


def test_devices_of_a_job_are_told_in_their_target_and_told_no_more_after(
    bench: TargetBench,
) -> None:
    a, b = bench.enrol(2)
    other = bench.enrol(1, group="elsewhere")[0]
    job_id = bench.running()
    bench.step(2)
    (order,) = bench.asked(a)
    assert (order.job, order.model, order.host, order.port) == (job_id, MODEL, "", PORT)
    assert order.noise_multiplier is None
    assert bench.asked(b) == (order,)
    assert other not in bench.link.newest
    revision = bench.link.newest[a].revision
    bench.step(5)
    assert bench.link.newest[a].revision == revision  # Nothing new, nothing sent
    bench.training.stop(job_id)
    bench.step(2)
    assert bench.link.newest[a].learning is UNSET
    assert bench.link.newest[a].revision == revision + 1


def test_nobody_is_told_before_the_superlink_listens_and_all_are_when_it_moves(
    bench: TargetBench,
) -> None:
    a, _ = bench.enrol(2)
    bench.peer.is_up = False
    bench.start()
    bench.step(4)
    assert bench.link.newest == {}
    bench.peer.is_up = True
    bench.step(3)
    assert bench.asked(a)[0].port == PORT
    bench.peer.port = PORT + 1
    bench.step(2)
    assert bench.asked(a)[0].port == PORT + 1


def test_a_revoked_device_is_asked_no_more_and_others_still_are(bench: TargetBench) -> None:
    a, b = bench.enrol(2)
    bench.running()
    bench.step(2)
    bench.devices.set_groups(a, ())
    bench.step(2)
    assert bench.asked(a) == ()
    assert len(bench.asked(b)) == 1


def test_a_restarted_hub_changes_no_target(bench: TargetBench) -> None:
    a, _ = bench.enrol(2)
    bench.running()
    bench.step(2)
    before = bench.link.newest[a]
    bench.restart()
    bench.rollouts = bench.new_rollouts()
    bench.step(3)
    assert bench.link.newest[a].revision == before.revision
    assert bench.link.newest[a].learning == before.learning


def test_the_lease_is_put_off_before_it_ends(bench: TargetBench) -> None:
    a, _ = bench.enrol(2)
    bench.running()
    bench.step(2)
    first = bench.asked(a)[0].until_ms
    bench.clock.advance(13 * 3600.0)
    bench.step(3)
    assert bench.asked(a)[0].until_ms > first
    assert bench.asked(a)[0].until_ms > bench.clock.now_s() * 1000 + 12 * 3600 * 1000


def test_what_a_device_reports_of_a_job_is_shown(bench: TargetBench) -> None:
    a, b = bench.enrol(2)
    job_id = bench.running()
    bench.step(2)
    bench.report(
        a,
        LearningReport(
            job=job_id,
            model=MODEL,
            state=LearningState.WAITING,
            code="eligibility.battery",
            text="It runs from its battery.",
            epsilon_spent=1.5,
            epsilon_max=8.0,
        ),
    )
    by_id = {device.device_id: device for device in bench.training.devices(job_id)}
    assert (by_id[a].state, by_id[a].code) == (LearningState.WAITING, "eligibility.battery")
    assert (by_id[a].epsilon_spent, by_id[a].epsilon_max) == (1.5, 8.0)
    assert by_id[a].node_status == "online"
    assert by_id[b].state is None
    bench.report(a, LearningReport(job=job_id, model=MODEL, state=LearningState.READY))
    by_id = {device.device_id: device for device in bench.training.devices(job_id)}
    assert (by_id[a].state, by_id[a].code, by_id[a].text) == (LearningState.READY, "", "")
    assert by_id[a].epsilon_spent == 1.5


def test_a_report_on_a_job_that_does_not_ask_the_device_is_counted_and_ignored(
    bench: TargetBench,
) -> None:
    a, _ = bench.enrol(2)
    stranger = bench.enrol(1, group="elsewhere")[0]
    job_id = bench.running()
    ready = LearningReport(job=job_id, model=MODEL, state=LearningState.READY)
    bench.report(stranger, ready)
    bench.report(a, LearningReport(job="job-none", model=MODEL, state=LearningState.READY))
    assert bench.training.unknown_reports_count == 2
    assert [device.state for device in bench.training.devices(job_id)] == [None, None]
