"""No library tells its maker what models run: asked of real processes, from what they have open."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.quiet_libraries import QUIET
from tests.support.onnx_models import write_zero_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OPEN_FILES = """
import os, sys
from pathlib import Path

def tell_open_files(pid):
    for entry in os.listdir(f"/proc/{pid}/fd"):
        link = f"/proc/{pid}/fd/{entry}"
        if os.path.islink(link):
            print(os.readlink(link))
"""
AGENT = """
from edge_agent.__main__ import main
main([])
import onnxruntime
tell_open_files("self")
"""
HUB = """
from contextlib import suppress
from cloud_hub.__main__ import main
with suppress(SystemExit):
    main(["--version"])
import onnxruntime
tell_open_files("self")
"""
IN_PROCESS = """
from edge_agent.inference.onnx_engine import load_onnx_engine
engine = load_onnx_engine(Path(sys.argv[1]), "echo")
tell_open_files("self")
"""
WORKER = """
from edge_agent.inference.process_session import start_worker
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import SystemClock
from tests.support.onnx_models import echo_spec
spec, clock = echo_spec(8), SystemClock()
session = start_worker(Path(sys.argv[1]), spec, WorkerLimits(), threads=1, clock=clock)
tell_open_files(session.standing.pid)
session.close()
"""


@pytest.mark.parametrize(
    "program", [AGENT, HUB, IN_PROCESS, WORKER], ids=["agent", "hub", "in-process", "worker"]
)
def test_the_runtime_keeps_no_database_of_what_it_ran(tmp_path: Path, program: str) -> None:
    model = write_zero_model(tmp_path / "m.onnx", samples=8)
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    environment.pop("CI", None)  # With it the runtime is quiet by itself
    done = subprocess.run(
        [sys.executable, "-c", OPEN_FILES + program, str(model)],
        cwd=ROOT,
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "/dev/null" in done.stdout or "pipe:" in done.stdout, "nothing was looked at"
    assert "onnxruntime.db" not in done.stdout
    assert not list(tmp_path.rglob("*.db"))
