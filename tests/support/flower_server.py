"""A ServerApp that does nothing but live: `python -m tests.support.flower_server JOB_FOLDER`.

It says in served.json that it has its run, beats until its folder holds a file named `finish`, and
then tells Flower that it is done. A SuperLink that is away is tried again.
"""

import json
import os
import sys
import time
from pathlib import Path

import httpx
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import (
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.superlink.grid import HttpGrid

BEAT_S = 0.1


def main(folder: Path) -> None:
    access = json.loads(sys.stdin.readline())
    grid = HttpGrid(
        runtime_api_address=access["address"],
        insecure=False,
        root_certificates=Path(access["ca_path"]).read_bytes(),
        token=access["token"],
    )
    client = grid._runtime_client
    answer = client.PullTaskInput(PullTaskInputRequest())
    served = {
        "pid": os.getpid(),
        "run": answer.run.run_id,
        "task": answer.task_id,
        "token": access["token"],
        "address": access["address"],
        "beats": 0,
    }
    while not (folder / "finish").exists():
        try:
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            served["beats"] += 1
        except httpx.HTTPError:
            pass
        (folder / "served.tmp").write_text(json.dumps(served))
        (folder / "served.tmp").rename(folder / "served.json")
        time.sleep(BEAT_S)
    client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED, details=""))
    grid.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
