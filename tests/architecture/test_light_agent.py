"""A device that only infers needs no training and no hub libraries.

Proved in a virtual environment that holds exactly what `isthmus[edge]` declares, and nothing else.
"""

import json
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ABSENT = ("torch", "flwr", "fastapi", "sqlalchemy", "onnx", "sklearn", "httpx", "pydantic")
PROBE = """
import importlib.util, json, sys
import edge_agent.__main__, edge_agent.agent
found = [name for name in json.loads(sys.argv[1]) if importlib.util.find_spec(name)]
loaded = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"found": found, "loaded": loaded}))
"""


def declared(extra: str) -> dict[str, Distribution]:
    """Return every distribution that `isthmus[extra]` asks for, and what those ask for."""
    found: dict[str, Distribution] = {}
    pending = [(distribution("isthmus"), {"", extra})]
    while pending:
        dist, extras = pending.pop()
        for text in dist.requires or []:
            need = Requirement(text)
            wanted = need.marker is None or any(need.marker.evaluate({"extra": e}) for e in extras)
            name = canonicalize_name(need.name)
            if wanted and name not in found:
                found[name] = distribution(need.name)
                pending.append((found[name], {"", *need.extras}))
    return found


@pytest.fixture(scope="module")
def edge_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge-venv")
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    for dist in declared("edge").values():
        for top in {file.parts[0] for file in dist.files or [] if ".." not in file.parts}:
            link = packages / top
            if top != "__pycache__" and not link.exists():
                link.symlink_to(Path(str(dist.locate_file(top))).resolve())
    (packages / "isthmus.pth").write_text(str(ROOT))
    return folder / "bin" / "python"


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
    assert {"onnxruntime", "cv2", "paho", "tuf"} <= set(answer["loaded"])


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
