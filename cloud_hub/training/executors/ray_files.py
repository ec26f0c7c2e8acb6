"""Names and shapes of what the hub and its process for Ray exchange in one folder.

1. The hub writes WANTED: what should run. The process (ray_jobs.py) writes STANDING: what does.
2. A key is the Ray job's submission id: submitting it again is refused by Ray, so that nothing
   runs twice however often either side is killed.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

WANTED = "wanted.json"
STANDING = "standing.json"
LOCK = "lock"
LOG = "ray.log"
FILE_BYTES_MAX = 16 << 20
LOOK_S = 0.5
RAY_MODULE = "cloud_hub.training.executors.ray_jobs"
KEY_CHARS_MAX = 120


def attempt_of(key: str) -> int:
    """Return which attempt a submission id is of."""
    number = key.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


class WantedJob(msgspec.Struct, frozen=True):
    """One run that should be on the cluster, or should end."""

    key: Annotated[str, Meta(max_length=KEY_CHARS_MAX)]  # "<run>-<attempt>": the submission id
    run: str
    folder: str  # On a path that the cluster's machines share
    command: tuple[str, ...]
    environment: dict[str, str]
    processes: int
    gpus: float
    is_ending: bool = False


class Wanted(msgspec.Struct, frozen=True):
    """The whole of WANTED."""

    address: str
    jobs: tuple[WantedJob, ...]


class JobStanding(msgspec.Struct, frozen=True):
    """How one of them stands: Ray's own word (PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED)."""

    key: str
    status: str
    text: str = ""


class RayStanding(msgspec.Struct, frozen=True):
    """The whole of STANDING."""

    pid: int
    jobs: tuple[JobStanding, ...]
    trouble: str = ""
