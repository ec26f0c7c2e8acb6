"""Processes that a killed hub leaves: none, whatever they are at."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.onnx_models import write_colour_model, write_endless_model
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
END_S_MAX = 5.0

RUN_TO_END = """
import sys
from pathlib import Path
from cloud_hub.process_limits import run_to_end
run_to_end("tests.support.pausing_process", Path(sys.argv[1]), seconds_max=60.0)
"""
SERVE = """
import sys, tempfile, threading
from pathlib import Path
from cloud_hub.serving.process_worker import ServingProcess
from cloud_hub.serving.settings import ServingSettings
from tests.integration.test_worker_process import score_spec
from tests.support.onnx_models import colour_spec

tempfile.tempdir = sys.argv[2]
spec = colour_spec() if sys.argv[3] == "colour" else score_spec(8)
served = []
def start():
    served.append(ServingProcess(Path(sys.argv[1]).read_bytes(), spec, ServingSettings()))
thread = threading.Thread(target=start)
thread.start()
thread.join()  # The process lives longer than who started it
(answer,) = served[0].ask([b"no picture"])
print(answer.result(30.0).code, flush=True)
sys.stdin.read()
"""


def hub(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def kill(parent: subprocess.Popen[bytes]) -> None:
    parent.kill()
    parent.communicate()


def test_what_runs_to_its_end_ends_with_a_killed_hub(tmp_path: Path) -> None:
    parent = hub(RUN_TO_END, str(tmp_path))
    wait_until((tmp_path / "pid").exists)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    assert child.ppid() == parent.pid
    # What it puts into temporary files goes with the folder: a killed process tidies up nothing.
    assert child.environ()["TMPDIR"] == str(tmp_path)
    kill(parent)
    wait_until(lambda: not child.is_running(), seconds_max=END_S_MAX)


def test_a_served_model_ends_with_a_killed_hub_and_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    path = write_colour_model(tmp_path / "m.onnx")
    parent = hub(SERVE, str(path), str(folder), "colour")
    assert parent.stdout is not None
    assert parent.stdout.readline().startswith(b"serving.")  # It answers; the item was no picture
    (child,) = psutil.Process(parent.pid).children()
    assert not list(folder.iterdir())
    kill(parent)
    wait_until(lambda: not child.is_running(), seconds_max=END_S_MAX)


def test_a_model_that_never_comes_back_ends_with_a_killed_hub(tmp_path: Path) -> None:
    path = write_endless_model(tmp_path / "m.onnx", samples=8)
    parent = hub(SERVE, str(path), str(tmp_path), "endless")
    child = wait_until(lambda: psutil.Process(parent.pid).children())[0]
    wait_until(lambda: child.cpu_times().user > 1.0)  # Within the endless run, or about to be
    kill(parent)
    wait_until(lambda: not child.is_running(), seconds_max=END_S_MAX)
