"""Runs of a real SuperLink with a ServerApp process that only lives, through kills of both."""

import json
import os
import signal
from pathlib import Path

import pytest

from cloud_hub.training.job_folder import WANTED, WantedRun
from tests.support.superlink import RunningSuperLink, make_key, running_superlink, wanted_node
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


def job(folder: Path) -> Path:
    path = folder / "job-1"
    path.mkdir(exist_ok=True)
    return path


def want(superlink: RunningSuperLink, path: Path, attempt: int = 1) -> None:
    run = WantedRun(job="job-1", attempt=attempt, folder=str(path))
    superlink.process.want([], [run])


def served(path: Path, *, after: int = 0) -> dict[str, object]:
    def read() -> dict[str, object] | None:
        file = path / "served.json"
        said: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
        return dict(said) if said and said["beats"] > after else None

    return wait_until(read, seconds_max=60.0)


def is_alive(pid: object) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def kill_superlink(superlink: RunningSuperLink) -> None:
    pid = superlink.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: superlink.process.pid not in (None, pid), seconds_max=30.0)


def test_a_run_goes_on_through_a_kill_of_the_superlink_and_completes(tmp_path: Path) -> None:
    with running_superlink(tmp_path) as superlink:
        path = job(tmp_path)
        superlink.process.want([wanted_node("dev-1", make_key())], [])
        node = superlink.wait_for_node("dev-1")
        run = WantedRun(job="job-1", attempt=1, folder=str(path))
        superlink.process.want(superlink.process._wanted.nodes, [run])  # type: ignore[union-attr]
        superlink.wait_for_run("job-1", 1, "running")
        before = served(path)
        token = str(before["token"])
        for place in Path(f"/proc/{before['pid']}").glob("cmdline"):
            assert token not in place.read_text()
        kill_superlink(superlink)
        after = served(path, after=int(str(served(path)["beats"])) + 3)
        assert after["pid"] == before["pid"]
        assert superlink.wait_for_node("dev-1").node_id == node.node_id
        (path / "finish").touch()
        assert superlink.wait_for_run("job-1", 1, "finished").sub_status == "completed"
        wait_until(lambda: not is_alive(before["pid"]))
        assert token not in "".join(
            file.read_text()
            for file in superlink.folder.glob("*.*")
            if file.suffix != ".db" and not file.name.startswith("state.db")
        )


def test_a_server_that_died_beside_the_superlink_ends_its_run(tmp_path: Path) -> None:
    with running_superlink(tmp_path) as superlink:
        path = job(tmp_path)
        want(superlink, path)
        superlink.wait_for_run("job-1", 1, "running")
        first = served(path)
        os.kill(int(str(first["pid"])), signal.SIGKILL)
        kill_superlink(superlink)
        assert superlink.wait_for_run("job-1", 1, "finished").sub_status == "failed"
        (path / "served.json").unlink()
        want(superlink, path, attempt=2)
        superlink.wait_for_run("job-1", 2, "running")
        second = served(path)
        superlink.process.want([], [])
        wait_until(lambda: not is_alive(second["pid"]), seconds_max=20.0)


def test_wanted_that_makes_no_sense_changes_nothing_and_is_told(tmp_path: Path) -> None:
    with running_superlink(tmp_path) as superlink:
        superlink.process.want([wanted_node("dev-1", make_key())], [])
        superlink.wait_for_node("dev-1")
        (superlink.folder / WANTED).write_text("{half")
        wait_until(lambda: "wanted.json" in superlink.standing().trouble)
        assert [node.device for node in superlink.standing().nodes] == ["dev-1"]
        (superlink.folder / WANTED).unlink()
        kill_superlink(superlink)
        wait_until(lambda: superlink.process.standing() is not None)
        superlink.wait_for_node("dev-1")
        assert "wanted.json" in superlink.standing().trouble
