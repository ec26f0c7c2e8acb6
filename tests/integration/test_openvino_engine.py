"""OpenVINO: missing, or quiet."""

import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.inference.openvino_engine import load_openvino_engine
from shared.errors import RefusedError
from tests.support.onnx_models import write_colour_model

ROOT = Path(__file__).parents[2]
PROBE = """
import sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith("socket.") else None)
from pathlib import Path
import numpy as np
from edge_agent.inference.openvino_engine import load_openvino_engine
engine = load_openvino_engine(Path(sys.argv[1]), "colours")
engine.run(np.zeros((1, 3, 8, 8), np.float32))
import psutil
assert psutil.Process().net_connections() == []
assert not [event for event in seen if event in ("socket.connect", "socket.getaddrinfo")], seen
assert not any(m for name, m in sys.modules.items() if name.startswith("openvino_telemetry"))
"""


def test_where_it_is_missing_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # As if it were not installed
    with pytest.raises(RefusedError, match=r"isthmus\[edge-openvino\]") as caught:
        load_openvino_engine(write_colour_model(tmp_path / "m.onnx"), "colours")
    assert caught.value.code == "backend.missing"


@pytest.mark.slow
def test_it_calls_nobody(tmp_path: Path) -> None:
    path = write_colour_model(tmp_path / "m.onnx")
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(path)], capture_output=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
