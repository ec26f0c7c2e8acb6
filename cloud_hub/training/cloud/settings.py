"""CloudTrainingSettings: the hub's own limits on training; `[training]` of the hub's file."""

from typing import Annotated

from msgspec import Meta

from shared.settings import Settings


class CloudTrainingSettings(Settings, frozen=True):
    """How much trains at a time, where, and what is kept."""

    slots: Annotated[int, Meta(ge=1, le=256)] = 1  # Processes that train here at a time
    # The Ray cluster's address, "http://ray-head:8265"; empty: orders that ask for Ray are refused.
    ray_address: Annotated[str, Meta(max_length=300)] = ""
    ray_runs_max: Annotated[int, Meta(ge=1, le=1000)] = 16  # On the cluster at a time
    ray_gpus: Annotated[float, Meta(ge=0.0, le=64.0)] = 0.0  # That each process on it asks for
    jobs_open_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000  # Not finished, in one database
    timeout_s_max: Annotated[float, Meta(ge=1.0, le=30 * 86_400)] = 7 * 86_400.0  # Of one run
    # After `stop` was written: how long a trainer may take to keep its state before it is ended.
    stop_s_max: Annotated[float, Meta(ge=0.0, le=3600.0)] = 60.0
    # Of those that are still there then: from SIGTERM to SIGKILL.
    term_s_max: Annotated[float, Meta(ge=0.0, le=600.0)] = 10.0
    lease_s: Annotated[float, Meta(ge=5.0, le=3600.0)] = 60.0
    # After a result met what may work later: an object store that is away, a disk that is full.
    retry_s: Annotated[float, Meta(ge=0.5, le=3600.0)] = 15.0
    niceness: Annotated[int, Meta(ge=0, le=19)] = 10  # Devices' messages come first
    folders_kept: Annotated[int, Meta(ge=0, le=100_000)] = 50  # Of finished Jobs, on the disk
    cache_bytes_max: Annotated[int, Meta(ge=0)] = 64 << 30  # Of decoded datasets
