"""Handing memory back: what is in a file goes, what is in none stays."""

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.inference.procfs_memory import hand_back_memory

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux' procfs")
LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE

# In a process of its own: how much of a fresh start is only needed for starting.
PROBE = """
import threading
from pathlib import Path
from edge_agent.inference.procfs_memory import hand_back_memory, limit_arenas
def megabytes(field):
    return int(Path("/proc/self/status").read_text().split(field)[1].split()[0]) / 1024
limit_arenas()
import numpy, cv2, onnxruntime
before = megabytes("RssFile:")
hand_back_memory()
after = megabytes("RssFile:")
pixels = cv2.resize(numpy.full((40, 40, 3), 7, numpy.uint8), (20, 20))
ready, done = threading.Barrier(11), threading.Event()
def use_heap():
    kept = [bytes(700 + i) for i in range(200)]
    ready.wait()
    done.wait()
threads = [threading.Thread(target=use_heap) for _ in range(10)]
[thread.start() for thread in threads]
ready.wait()
heaps = sum(
    int(line.split("-")[0], 16) % (64 << 20) == 0 and " rw-p 00000000 00:00 0" in line
    for line in Path("/proc/self/maps").read_text().splitlines()
)
done.set()
print(int(pixels.min()), before, after, heaps)
"""


@pytest.mark.slow
def test_a_process_gets_smaller_and_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    pixel, before_mb, after_mb, heaps = (float(word) for word in done.stdout.split())
    assert pixel == 7
    assert before_mb - after_mb > 15
    assert heaps <= 3


def map_privately(path: Path) -> tuple[mmap.mmap, int]:
    """Map two pages of a file for this process alone; return them and where they are."""
    path.write_bytes(b"f" * 2 * PAGE)
    with path.open("r+b") as file:
        area = mmap.mmap(
            file.fileno(), 2 * PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    return area, ctypes.addressof(ctypes.c_char.from_buffer(area))


@pytest.mark.parametrize("rights", [mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_EXEC])
def test_what_was_written_into_a_mapping_stays(tmp_path: Path, rights: int) -> None:
    area, address = map_privately(tmp_path / "code")
    area[0:4] = b"mine"  # As a loader does with what it relocates
    assert LIBC.mprotect(ctypes.c_void_p(address), 2 * PAGE, rights) == 0
    hand_back_memory()
    assert area[0:4] == b"mine"
    assert area[PAGE : PAGE + 4] == b"ffff"


def test_a_mapping_that_is_as_its_file_can_still_be_read(tmp_path: Path) -> None:
    area, address = map_privately(tmp_path / "code")
    assert LIBC.mprotect(ctypes.c_void_p(address), 2 * PAGE, mmap.PROT_READ) == 0
    assert area[0:4] == b"ffff"
    hand_back_memory()
    assert area[0:4] == b"ffff"
