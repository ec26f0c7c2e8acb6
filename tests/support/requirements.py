"""What a test needs from the machine: named skips, which become failures where all must run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MUST_RUN_ALL = os.environ.get("ISTHMUS_REQUIRE_ALL") == "1"


def require_program(name: str) -> str:
    """Return the path of a program, or skip (fail, where all must run) naming what is missing."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        _miss(f"needs the program {name}, which is not installed")
    assert path is not None
    return path


def require_library(name: str) -> Path:
    """Return the path of a shared library, "faketime/libfaketime.so.1", or skip likewise."""
    for folder in ("/usr/lib", "/usr/local/lib", "/usr/lib64"):
        for found in (*Path(folder).glob(name), *Path(folder).glob(f"*/{name}")):
            return found
    _miss(f"needs the library {name}, which is not installed")
    raise AssertionError


def require_postgresql() -> Path:
    """Return the folder of PostgreSQL's server programs, newest version first, or skip likewise."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    _miss("needs a PostgreSQL server (initdb, postgres), which is not installed")
    raise AssertionError


def require_rtsp_server() -> str:
    """Return a Python that has GStreamer's RTSP server, or skip likewise.

    Debian: gir1.2-gst-rtsp-server-1.0, python3-gi, gstreamer1.0-plugins-base and -good.
    """
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, "
    probe += "GstRtspServer; Gst.init(None); assert Gst.ElementFactory.find('rtpvp8pay')"
    for python in ("/usr/bin/python3", shutil.which("python3")):
        if python and Path(python).exists():
            done = subprocess.run([python, "-c", probe], capture_output=True, check=False)
            if done.returncode == 0:
                return python
    _miss("needs GStreamer's RTSP server for Python, which is not installed")
    raise AssertionError


def require_data(name: str) -> Path:
    """Return the path of shared test data ("data/video/car-detection.mp4"), or skip likewise."""
    root = os.environ.get("ISTHMUS_DATA")
    if not root:
        _miss(f"needs {name}: set ISTHMUS_DATA to the folder that holds it")
    path = Path(root or "") / name
    if not path.exists():
        _miss(f"needs {name}, which ISTHMUS_DATA does not hold")
    return path


def _version(folder: Path) -> int:
    return int(folder.parent.name) if folder.parent.name.isdigit() else 0


def _miss(reason: str) -> None:
    if MUST_RUN_ALL:
        pytest.fail(f"ISTHMUS_REQUIRE_ALL=1, and this test {reason}")
    pytest.skip(reason)
