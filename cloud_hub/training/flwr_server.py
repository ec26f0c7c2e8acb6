"""The ServerApp's process: `python -m cloud_hub.training.flwr_server JOB_FOLDER`.

1. Its access {"address", "ca_path", "token"} is one line of JSON on stdin, never an argument.
2. It does what flwr.superlink.runtime.run_serverapp does (flwr 1.41, 1.42), but runs our own loop
   and neither installs nor loads what Flower calls an app.
3. One per Job: a second one waits for the first to end, then gives up (JobFiles.held). One whose
   run is gone ends.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from shared.quick_imports import quick_imports

with quick_imports():
    import httpx
    import msgspec
    from flwr.common.constant import SubStatus
    from flwr.common.serde import run_from_proto
    from flwr.proto.runtime_pb2 import (
        PullTaskInputRequest,
        PushTaskOutputRequest,
        SendTaskHeartbeatRequest,
    )
    from flwr.supercore.run import RunNotRunningException
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.grid import HttpGrid
    from msgspec import Meta

    from cloud_hub.training.file_job import JobFiles, read_nodes
    from cloud_hub.training.flwr_fleet import FlwrFleet
    from cloud_hub.training.rounds import RoundLoop
    from shared.clock import SystemClock
    from shared.errors import IsthmusError
    from shared.logs import set_up_logging

ACCESS_BYTES_MAX = 64 * 1024
HEARTBEAT_S = 10.0
FAILED = 1

log = logging.getLogger(__name__)


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the SuperLink's Runtime API."""

    address: Annotated[str, Meta(max_length=300)]
    ca_path: Annotated[str, Meta(max_length=4096)]
    token: Annotated[str, Meta(min_length=1, max_length=4096)]


def main() -> int:
    """Run one Job; return 0 when it has its result."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    set_up_logging(stream=sys.stderr)
    folder = Path(sys.argv[1])
    access = msgspec.json.decode(sys.stdin.buffer.readline(ACCESS_BYTES_MAX), type=Access)
    grid = HttpGrid(access.address, False, Path(access.ca_path).read_bytes(), token=access.token)
    grid._retry_invoker.max_tries = 1  # noqa: SLF001 - the loops here try again themselves
    try:
        return _serve(grid, JobFiles(folder))
    finally:
        grid.close()


def _serve(grid: HttpGrid, files: JobFiles) -> int:
    """Run the Job with a grid; tell Flower how it went."""
    try:
        task = grid._runtime_client.PullTaskInput(PullTaskInputRequest())  # noqa: SLF001 - rule 2
        # Flower stamps every message that is made here with these.
        TaskIdentity.task_id = task.task_id
        TaskIdentity.run_id = task.run.run_id
        TaskIdentity.node_id = grid.node.node_id
        grid.set_run(run_from_proto(task.run))
    except (httpx.HTTPError, RunNotRunningException) as error:
        log.error("job.no_task", extra={"error": str(error)[:200]})
        return FAILED
    try:
        plan = files.read_plan()
        fleet = FlwrFleet(grid, lambda: read_nodes(Path(plan.standing_path)))
        with _alive(grid, fleet):
            result = RoundLoop(files, fleet, SystemClock()).run()
    except IsthmusError as error:
        log.error("job.failed", extra={"code": error.code, "text": error.message})
        _push(grid, SubStatus.FAILED, f"{error.code}: {error}")
        return FAILED
    _push(grid, SubStatus.COMPLETED if result.is_completed else SubStatus.FAILED, result.code)
    return 0


@contextmanager
def _alive(grid: HttpGrid, fleet: FlwrFleet) -> Iterator[None]:
    """Keep the task's lease and the fleet; a signal or a lost lease makes the fleet say so."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.is_set():
            try:
                client = grid._runtime_client  # noqa: SLF001 - rule 2
                if not client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                    fleet.lose()
            except RunNotRunningException:
                fleet.lose()
            except httpx.HTTPError as error:
                log.warning("heartbeat.failed", extra={"error": str(error)[:200]})
            stop.wait(HEARTBEAT_S)

    for number in (signal.SIGINT, signal.SIGTERM):  # flwr sends itself SIGINT on a refused token
        signal.signal(number, lambda *_: fleet.lose())
    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    fleet.start()
    try:
        yield
    finally:
        stop.set()
        fleet.stop()


def _push(grid: HttpGrid, sub_status: str, details: str) -> None:
    """Tell Flower how the task ended; a run that is gone needs no telling."""
    request = PushTaskOutputRequest(sub_status=sub_status, details=details[:1000])
    try:
        grid._runtime_client.PushTaskOutput(request)  # noqa: SLF001 - rule 2
    except (httpx.HTTPError, RunNotRunningException) as error:
        log.warning("job.not_told", extra={"error": str(error)[:200]})


if __name__ == "__main__":
    sys.exit(main())
