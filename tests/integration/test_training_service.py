"""TrainingService over a real database and disk; SuperLink and ServerApp are played by files."""

from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cloud_hub.sql_database import Database
from cloud_hub.training.job import ATTEMPTS_MAX, JobState, Outcome
from cloud_hub.training.job_folder import PLAN
from cloud_hub.training.order import KrumStrategy
from cloud_hub.training.settings import LearningHubSettings
from shared.errors import RefusedError, TransientError
from shared.ids import LineageId
from shared.model.weights import encode_weights
from tests.support.learning_bench import MODEL, OTHER, LearningBench

FINISHED, RUNNING = JobState.FINISHED, JobState.RUNNING


class Killed(BaseException):
    """The process is gone: nothing may catch it."""


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> LearningBench:
    return LearningBench(database, tmp_path)


def test_a_job_runs_from_its_order_to_its_release(bench: LearningBench) -> None:
    devices = bench.enrol(3)
    job_id = bench.start()
    assert bench.job(job_id).state is JobState.APPROVED
    bench.step()
    assert bench.job(job_id).state is JobState.DISPATCHED
    plan = bench.peer.files(job_id).read_plan()
    assert (plan.devices, plan.order, plan.spec.model) == (devices, bench.order(), MODEL)
    bench.step(2)
    job = bench.job(job_id)
    assert (job.state, job.attempt, job.checkpoint_id) == (RUNNING, 1, bench.first.checkpoint_id)
    a, b, c = devices
    bench.peer.close_round(job_id, 1, {a: 0.2, b: 0.4}, silent=[c])
    bench.step()
    assert bench.job(job_id).rounds_done == 1
    bench.peer.close_round(job_id, 2, {a: 0.6, b: 0.8, c: 0.5})
    bench.peer.finish(job_id)
    bench.step(2)
    job = bench.job(job_id)
    assert (job.state, job.outcome, job.rounds_done) == (FINISHED, Outcome.COMPLETED, 2)
    assert job.release_version is None
    assert bench.training.settle() == 2
    job = bench.job(job_id)
    assert job.result_checkpoint_id is not None
    kept = bench.checkpoints.get(job.result_checkpoint_id)
    assert (kept.origin, kept.lineage_id) == (job_id, job.lineage_id)
    assert (job.release_version, job.candidate_id, job.code) == (1, "cand-1", "job.released")
    assert bench.codes(job_id) == [
        "job.approved", "job.dispatched", "job.running",
        "round.started", "update.accepted", "update.accepted", "device.silent", "round.closed",
        "round.started", *["update.accepted"] * 3, "round.closed", "job.ended",
        "job.finished", "job.kept", "job.released",
    ]  # fmt: skip
    first, second = bench.training.rounds(job_id)
    assert (first.devices_asked, first.devices_counted, first.devices_silent) == (3, 2, 1)
    assert first.accuracy == pytest.approx((0.6 + 0.8 + 0.5) / 3)
    assert (second.devices_counted, second.bytes_up, second.accuracy) == (3, 3000, None)
    spread = bench.training.accuracy_spread(job_id)
    assert spread.devices_count == 3
    assert spread.before is not None
    assert spread.after is not None
    assert (spread.before.count, spread.before.mean) == (2, pytest.approx(0.3))
    assert (spread.after.count, spread.after.maximum) == (3, 0.8)
    told = " ".join(bench.training.explain(job.lineage_id))
    assert job_id in told
    assert "became release tones:1" in told
    bench.step(2)
    assert not bench.peer.files(job_id).rounds.exists()
    assert not (bench.peer.files(job_id).folder / "checkpoint.npz").exists()
    assert (bench.peer.files(job_id).folder / PLAN).exists()
    assert (bench.peer.wanted.nodes, bench.peer.wanted.runs) == ((), ())


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"model": "strange"}, "job.no_checkpoint", "checkpoint"),
        ({"checkpoint": "ckpt-none"}, "checkpoint.unknown", "checkpoint"),
        ({"group": "nobody"}, "job.no_devices", "group"),
        ({"group": None, "devices": ("dev-strange",)}, "job.device_not_active", "devices"),
        ({"devices_min": 4}, "job.too_few_devices", "devices_min"),
        ({"mandatory": ("dev-strange",)}, "job.mandatory", "mandatory"),
        ({"strategy": KrumStrategy()}, "job.too_few_devices", "strategy"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused_naming_its_field(
    bench: LearningBench, changes: dict[str, object], code: str, field: str
) -> None:
    bench.enrol(3)
    with pytest.raises(RefusedError) as caught:
        bench.start(**changes)
    assert caught.value.code == code
    assert field in caught.value.message
    assert bench.training.jobs() == ()


def test_a_checkpoint_of_another_model_is_refused(bench: LearningBench) -> None:
    bench.enrol(2)
    other = bench.checkpoints.draw(OTHER)
    with pytest.raises(RefusedError) as caught:
        bench.start(checkpoint=other.checkpoint_id)
    assert caught.value.code == "job.checkpoint_model"


def test_a_hub_without_flower_says_what_to_install(
    bench: LearningBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.enrol(2)
    monkeypatch.setattr("cloud_hub.training.service.NEEDED", ("no_such_library_here",))
    with pytest.raises(RefusedError) as caught:
        bench.start()
    assert caught.value.code == "learning.not_installed"
    assert 'pip install "isthmus[hub,train]"' in caught.value.remedy


def test_a_job_that_needs_approval_waits_for_a_person(bench: LearningBench) -> None:
    bench.enrol(2)
    job_id = bench.start(needs_approval=True)
    bench.step(3)
    assert bench.job(job_id).state is JobState.SUBMITTED
    assert bench.training.approve(job_id, actor="bob").state is JobState.APPROVED
    with pytest.raises(RefusedError, match=r"nothing to approve"):
        bench.training.approve(job_id)
    bench.step(3)
    assert bench.job(job_id).state is RUNNING


def test_jobs_wait_for_their_model_and_for_room_on_the_hub(bench: LearningBench) -> None:
    bench.enrol(2)
    bench.checkpoints.draw("third")
    bench.checkpoints.draw(OTHER)
    first, again = bench.running(), bench.start()
    bench.clock.advance(1.0)
    other = bench.start(model=OTHER)
    bench.clock.advance(1.0)
    third = bench.start(model="third")
    bench.step(3)
    states = [bench.job(job_id).state for job_id in (first, again, other, third)]
    assert states == [RUNNING, JobState.APPROVED, RUNNING, JobState.APPROVED]
    bench.training.stop(first)
    bench.step(3)
    # One place was left, and the Job that was started first has it.
    states = [bench.job(job_id).state for job_id in (again, third)]
    assert states == [RUNNING, JobState.APPROVED]


def test_a_run_that_ends_without_a_result_is_run_again_later_with_its_reason(
    bench: LearningBench,
) -> None:
    bench.enrol(2)
    job_id = bench.running()
    bench.peer.end_run(job_id, details="exit code -9")
    bench.peer.say()
    bench.training.tick()
    job = bench.job(job_id)
    assert (job.state, job.attempt) == (JobState.DISPATCHED, 2)
    assert "exit code -9" in job.text
    assert bench.peer.wanted.runs == ()  # Not at once
    assert len(bench.peer.wanted.nodes) == 2  # Devices stay
    bench.step(5)
    assert bench.peer.wanted.runs[0].attempt == 2
    assert bench.job(job_id).state is RUNNING
    assert bench.codes(job_id).count("job.run_lost") == 1


def test_a_run_that_never_succeeds_ends_the_job_with_its_last_reason(bench: LearningBench) -> None:
    bench.enrol(2)
    job_id = bench.running()
    for number in range(ATTEMPTS_MAX):
        bench.peer.end_run(job_id, details=f"reason {number}")
        bench.peer.say()
        bench.training.tick()
        bench.clock.advance(61.0)
        bench.step(3)
    job = bench.job(job_id)
    assert (job.state, job.outcome, job.code) == (FINISHED, Outcome.FAILED, "job.attempts_spent")
    assert job.attempt == ATTEMPTS_MAX
    assert f"reason {ATTEMPTS_MAX - 1}" in job.text
    assert bench.training.settle() == 1
    assert bench.job(job_id).result_checkpoint_id is None


def test_a_stopped_job_keeps_the_weights_of_its_last_round_and_releases_nothing(
    bench: LearningBench,
) -> None:
    a, b = bench.enrol(2)
    job_id = bench.running()
    bench.peer.hold(job_id)
    bench.peer.close_round(job_id, 1, {a: 0.5, b: 0.5})
    job = bench.training.stop(job_id, actor="ada", reason="enough")
    assert (job.state, job.outcome, job.code) == (FINISHED, Outcome.STOPPED, "job.stopped")
    bench.training.tick()
    assert bench.peer.files(job_id).is_stop_asked()
    assert bench.peer.wanted.runs == ()
    assert bench.training.orders() == {}
    assert bench.training.settle() == 0  # Its ServerApp still holds the folder.
    bench.peer.step()
    assert bench.training.settle() == 1
    job = bench.job(job_id)
    assert job.result_checkpoint_id is not None
    assert job.release_version is None
    assert bench.gate.asked == []
    assert "enough" in job.text
    assert job.result_checkpoint_id in job.text
    with pytest.raises(RefusedError):
        bench.training.stop(job_id)


def test_a_gate_that_refuses_does_not_make_the_job_a_failure(bench: LearningBench) -> None:
    a, b = bench.enrol(2)
    bench.gate.refuses = True
    job_id = bench.running()
    bench.peer.close_round(job_id, 1, {a: 0.5, b: 0.5})
    bench.peer.finish(job_id)
    bench.step()
    bench.training.settle()
    job = bench.job(job_id)
    assert (job.outcome, job.code, job.candidate_id) == (
        Outcome.COMPLETED, "gate.refused", "cand-1",
    )  # fmt: skip
    assert "worse than the release" in job.text
    assert job.release_version is None
    assert bench.training.settle() == 0


@pytest.mark.parametrize("where", ["before the row knows the checkpoint", "before the release"])
def test_a_hub_killed_while_it_releases_releases_once(bench: LearningBench, where: str) -> None:
    a, b = bench.enrol(2)
    job_id = bench.running()
    bench.peer.close_round(job_id, 1, {a: 0.5, b: 0.5})
    bench.peer.finish(job_id)
    bench.step()

    def die() -> None:
        raise Killed

    dying = bench.checkpoints if "checkpoint" in where else bench.gate
    dying.on_add = die
    with pytest.raises(Killed):
        bench.training.settle()
    dying.on_add = lambda: None
    bench.restart()
    bench.step(3)
    bench.training.settle()
    assert bench.job(job_id).release_version == 1
    assert len(bench.gate.released) == 1
    assert len([c for c, _ in bench.checkpoints.kept.values() if c.origin == job_id]) == 1
    assert bench.codes(job_id).count("job.kept") == 1
    assert bench.codes(job_id).count("job.released") == 1


def test_what_may_work_later_is_tried_again(bench: LearningBench) -> None:
    a, b = bench.enrol(2)
    job_id = bench.running()
    bench.peer.close_round(job_id, 1, {a: 0.5, b: 0.5})
    bench.peer.finish(job_id)
    bench.step()

    def fail() -> None:
        raise TransientError("object_store.failed", "Not now.")

    bench.gate.on_add = fail
    with pytest.raises(TransientError):
        bench.training.settle()
    bench.gate.on_add = lambda: None
    assert bench.training.settle() == 1
    assert bench.job(job_id).release_version == 1


WRITES = (
    "file_job_folders.JobFiles.create",
    "driver.advance",
    "driver.store_change",
    "driver.change_job",
    "driver.take_events",
    "sql_changes.store_change",
    "driver.rules.wanted_nodes",
    "file_job_folders.JobFolders.clean",
)


@pytest.mark.slow
@pytest.mark.parametrize("write", WRITES)
def test_a_hub_killed_at_any_write_goes_on_from_there(
    bench: LearningBench, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Die at this write, at each of the first times that it happens, and start again."""
    a, b = bench.enrol(2)
    kills = 0

    def step(times: int) -> None:
        nonlocal kills
        for _ in range(times):
            with monkeypatch.context() as patch:
                if kills < 3:
                    patch.setattr(f"cloud_hub.training.{write}", die)
                try:
                    bench.training.tick()
                except Killed:
                    kills += 1
                    bench.restart()
            bench.peer.step()
            bench.clock.advance(1.0)

    def die(*_args: object, **_kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("cloud_hub.training.file_job_folders.JobFiles.create", die)
        with pytest.raises(Killed):
            bench.start()  # Its row is there, its folder is not.
    bench.restart()
    job_id = bench.training.jobs()[0].job_id
    step(8)
    assert bench.job(job_id).state is RUNNING
    bench.peer.close_round(job_id, 1, {a: 0.5, b: 0.7})
    bench.peer.finish(job_id)
    step(5)
    bench.training.settle()
    step(5)
    assert kills == 3
    job = bench.job(job_id)
    assert (job.state, job.release_version, job.attempt) == (FINISHED, 1, 1)
    codes = bench.codes(job_id)
    assert codes.count("update.accepted") == 2
    assert codes.count("job.dispatched") == codes.count("job.finished") == 1
    assert not bench.peer.files(job_id).rounds.exists()
    assert [d.bytes_up for d in bench.training.devices(job_id)] == [1000, 1000]


def test_events_are_taken_once_whoever_reads_them_again(bench: LearningBench) -> None:
    a, b = bench.enrol(2)
    job_id = bench.running()
    bench.peer.close_round(job_id, 1, {a: 0.5, b: 0.7})
    for _ in range(3):
        bench.step()
        bench.restart()
    assert bench.codes(job_id).count("update.accepted") == 2
    numbers = [event.number for event in bench.training.events(job_id)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [e.number for e in bench.training.events(job_id, after=2, limit=2)] == [3, 4]


def test_only_the_newest_events_are_kept(bench: LearningBench) -> None:
    bench.enrol(2)
    bench.training = bench.new_service(LearningHubSettings(events_kept_max=100))
    job_id = bench.running()
    for _ in range(150):
        bench.peer.tell(job_id, "round.gathering", numbers={"devices_there": 1.0})
    bench.step()
    events = bench.training.events(job_id)
    assert len(events) == 100
    assert events[-1].number == 153


def test_devices_that_leave_lose_their_order_and_their_place(bench: LearningBench) -> None:
    a, b, c = bench.enrol(3)
    job_id = bench.running()
    bench.step()
    assert set(bench.training.orders()) == {a, b, c}
    bench.devices.revoke(a)
    bench.devices.set_groups(b, ())
    late = bench.enrol(1)[0]
    bench.step()
    assert set(bench.training.orders()) == {c}
    assert [node.device for node in bench.peer.wanted.nodes] == [c]
    assert late not in {device.device_id for device in bench.training.devices(job_id)}


def test_the_superlink_is_told_the_key_of_each_devices_enrolment(bench: LearningBench) -> None:
    a, _ = bench.enrol(2)
    bench.running()
    from_wanted = {node.device: node.public_key_pem for node in bench.peer.wanted.nodes}
    key = bench.devices.public_key(a)
    assert load_pem_public_key(from_wanted[a].encode()) == key


@pytest.mark.slow
def test_a_job_is_driven_by_the_hub_that_has_its_folder(database: Database, tmp_path: Path) -> None:
    bench = LearningBench(database, tmp_path / "one")
    other = LearningBench(database, tmp_path / "two", bench.clock)
    bench.enrol(2)
    job_id = bench.start()
    for _ in range(3):
        other.training.tick()
    assert other.job(job_id).state is JobState.APPROVED
    assert other.peer.wanted.runs == ()
    bench.step(3)
    bench.step()
    assert other.job(job_id).state is RUNNING
    assert set(other.training.orders()) == set(bench.training.orders())
    # Any hub stops it; the one that has it lets it end.
    other.training.stop(job_id, actor="bob")
    bench.step()
    assert bench.peer.files(job_id).is_stop_asked()
    assert bench.peer.wanted.runs == ()
    other.training.settle()
    assert bench.training.settle() == 1


@pytest.mark.slow
def test_two_hubs_do_not_run_two_jobs_of_a_model(database: Database, tmp_path: Path) -> None:
    bench = LearningBench(database, tmp_path / "one")
    other = LearningBench(database, tmp_path / "two", bench.clock)
    bench.enrol(2)
    first, second = bench.start(), other.start()
    for _ in range(3):
        bench.step()
        other.step()
    assert bench.job(first).state is RUNNING
    assert bench.job(second).state is JobState.APPROVED


def test_weights_that_no_round_wrote_are_said_to_be_unusable(bench: LearningBench) -> None:
    a, b = bench.enrol(2)
    job_id = bench.running()
    bench.peer.close_round(job_id, 1, {a: 0.5, b: 0.5})
    (bench.peer.files(job_id).folder / "checkpoint.npz").write_bytes(b"damaged")
    bench.peer.finish(job_id)
    bench.step()
    bench.training.settle()
    job = bench.job(job_id)
    assert (job.outcome, job.code, job.result_checkpoint_id) == (
        Outcome.COMPLETED, "weights.invalid", None,
    )  # fmt: skip


def test_a_damaged_checkpoint_fails_the_job_before_any_device_is_asked(
    bench: LearningBench,
) -> None:
    bench.enrol(2)
    checkpoint, _ = bench.checkpoints.kept[bench.first.checkpoint_id]
    damaged = encode_weights({"layer.weight": np.zeros(4, np.float32)})
    bench.checkpoints.kept[checkpoint.checkpoint_id] = (checkpoint, damaged)
    job_id = bench.start()
    bench.step()
    job = bench.job(job_id)
    assert (job.outcome, job.code) == (Outcome.FAILED, "checkpoint.damaged")
    assert bench.peer.wanted.nodes == ()


def test_trouble_is_what_the_superlink_says_or_that_it_is_silent(bench: LearningBench) -> None:
    bench.enrol(2)
    assert bench.training.trouble == ""
    bench.peer.is_up = False
    job_id = bench.start()
    bench.step(2)
    assert "does not answer" in bench.training.trouble
    assert bench.training.orders() == {}  # Nobody is told before it says where it listens.
    bench.peer.is_up, bench.peer.trouble = True, "port 9092 is taken"
    bench.peer.step()
    assert bench.training.trouble == "port 9092 is taken"
    bench.training.stop(job_id)


def test_an_unknown_lineage_and_an_unknown_job_are_told(bench: LearningBench) -> None:
    assert bench.training.jobs_of(LineageId("line-none")) == ()
    assert bench.training.explain(LineageId("line-none")) == ()
    with pytest.raises(RefusedError, match="no Job"):
        bench.training.events("job-none")  # type: ignore[arg-type]


def test_a_jobs_order_survives_the_database_unchanged(bench: LearningBench) -> None:
    bench.enrol(5)
    order = bench.order(notes="näheres", seed=7, strategy=KrumStrategy(malicious_count=1))
    job = bench.training.start(order)
    assert bench.job(job.job_id) == job
    with bench.database.read() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM job_devices")).scalar_one() == 5
