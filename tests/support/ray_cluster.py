"""A Ray cluster of one machine, for tests: its own session, its own folder, its own ports."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.waiting import wait_until

START_S_MAX = 90.0


@contextmanager
def ray_cluster(*, cpus: int = 2) -> Iterator[str]:
    """Start one; give the address for jobs ("http://127.0.0.1:…"); end it with all it started."""
    ray = Path(sys.executable).with_name("ray")
    folder = Path(tempfile.mkdtemp(prefix="isthmus-ray-"))  # Short: it holds sockets
    port, dashboard = _free_port(), _free_port()
    command = [
        str(ray), "start", "--head", "--block", "--disable-usage-stats",
        f"--port={port}", "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=80000000",
        f"--temp-dir={folder}",
    ]  # fmt: skip
    with (folder / "start.log").open("wb") as printed:
        process = subprocess.Popen(
            command,
            stdout=printed,
            stderr=printed,
            env=os.environ | {"RAY_DISABLE_IMPORT_WARNING": "1"},
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_until(lambda: _answers(f"{address}/api/version"), seconds_max=START_S_MAX)
        yield address
    finally:
        _end(process, folder)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """End the cluster: what it started names the folder on its command line."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
