"""A device that only infers needs no training and no hub libraries.

Proved in a virtual environment that holds exactly what `isthmus[edge]` declares, and nothing else.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.edge_environment import make_edge_python

ABSENT = ("torch", "flwr", "fastapi", "sqlalchemy", "onnx", "sklearn", "pydantic")
# `tokenizers` and what it brings: loaded with a model of texts, or, its vendor's client, never.
UNUSED = {"httpx", "huggingface_hub", "tokenizers"}
PROBE = """
import importlib.util, json, sys
import edge_agent.__main__, edge_agent.agent
found = [name for name in json.loads(sys.argv[1]) if importlib.util.find_spec(name)]
loaded = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"found": found, "loaded": loaded}))
"""


@pytest.fixture(scope="module")
def edge_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_edge_python(tmp_path_factory.mktemp("edge-venv"))


@pytest.mark.slow
def test_the_agent_imports_where_hub_and_training_libraries_are_missing(edge_python: Path) -> None:
    done = subprocess.run(
        [edge_python, "-I", "-c", PROBE, json.dumps(ABSENT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["found"] == []
    assert {"cv2", "paho", "tuf"} <= set(answer["loaded"])
    assert "onnxruntime" not in answer["loaded"]  # A worker process has it
    assert not UNUSED & set(answer["loaded"])


@pytest.mark.slow
def test_the_command_greets_a_stranger_there(edge_python: Path) -> None:
    done = subprocess.run(
        [edge_python, "-I", "-m", "edge_agent", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for command in ("join", "run", "status", "doctor"):
        assert command in done.stdout
    assert sys.executable not in done.stdout


@pytest.mark.slow
def test_the_other_sides_command_says_what_to_install(edge_python: Path) -> None:
    done = subprocess.run(
        [
            edge_python,
            "-I",
            "-c",
            "import sys; from cloud_hub.command import main; sys.exit(main())",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 6, done.stderr
    assert "pip install 'isthmus[hub]'" in done.stderr
    assert "Traceback" not in done.stderr
