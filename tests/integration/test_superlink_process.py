"""The SuperLink's process and the machine: whom it connects to, where it writes, when it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_hub.training.job_folder import WantedRun
from tests.support.superlink import make_key, running_superlink, wanted_node
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
HUB = """
import sys, time
from pathlib import Path
from tests.support.superlink import make_key, running_superlink, wanted_node
with running_superlink(Path(sys.argv[1])) as superlink:
    superlink.process.want([wanted_node("dev-1", make_key())], [])
    superlink.wait_for_node("dev-1")
    print(superlink.process.pid, flush=True)
    time.sleep(600)
"""
SPY = """
import os, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        target = arguments[1] if event == "socket.connect" else arguments[0]
        with open(os.environ["SPY_FILE"], "a") as file:
            file.write(f"{event} {target!r}\\n")
sys.addaudithook(note)
"""


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_it_ends_when_the_hub_is_killed(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    hub = subprocess.Popen(
        [sys.executable, "-c", HUB, str(tmp_path)], stdout=subprocess.PIPE, cwd=root
    )
    assert hub.stdout is not None
    with hub.stdout:
        pid = int(hub.stdout.readline())
    assert is_alive(pid)
    hub.send_signal(signal.SIGKILL)
    hub.wait()
    wait_until(lambda: not is_alive(pid), seconds_max=15.0)


def test_it_ends_when_nothing_is_wanted_any_more(tmp_path: Path) -> None:
    with running_superlink(tmp_path, idle_s=0.5) as superlink:
        assert superlink.process.pid is None
        first = superlink.process.want([wanted_node("dev-1", make_key())], [])
        superlink.wait_for_node("dev-1")
        assert superlink.process.want([], []) == first + 1
        assert superlink.process.want([], []) == first + 1
        wait_until(lambda: superlink.process.pid is None, seconds_max=20.0)


def test_it_connects_to_nobody_outside_and_writes_nothing_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, home, seen = tmp_path / "spy", tmp_path / "home", tmp_path / "connections.txt"
    spy.mkdir()
    home.mkdir()
    (spy / "sitecustomize.py").write_text(SPY)
    monkeypatch.setenv("SPY_FILE", str(seen))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    job = tmp_path / "job-1"
    job.mkdir()
    with running_superlink(tmp_path) as superlink:
        monkeypatch.setenv("PYTHONPATH", f"{spy}{os.pathsep}{os.environ['PYTHONPATH']}")
        run = WantedRun(job="job-1", attempt=1, folder=str(job))
        superlink.process.want([wanted_node("dev-1", make_key())], [run])
        superlink.wait_for_run("job-1", 1, "running")
        wait_until(lambda: (job / "served.json").exists())
        assert json.loads((job / "served.json").read_text())["pid"]
        (job / "finish").touch()
        superlink.wait_for_run("job-1", 1, "finished")
    lines = seen.read_text().splitlines()
    assert any("socket.connect ('127.0.0.1'" in line for line in lines)  # The ServerApp's own
    assert [line for line in lines if "127.0.0.1" not in line] == []
    assert list(home.iterdir()) == []
