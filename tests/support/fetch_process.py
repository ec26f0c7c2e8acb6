"""A device that fetches a release and is killed -9 when its Nth block of the model comes."""

import json
import os
import signal
import sys
from pathlib import Path

from cloud_hub.sql_database import Database
from shared.wire.blocks import Block
from shared.wire.target import TargetRelease
from tests.support.release_hub import make_device, open_hub
from tests.support.repository_peer import RepositoryPeer


def main() -> None:
    state, folder, killed_at, digest = sys.argv[1:]
    hub = open_hub(Path(state), Database(f"sqlite:///{state}/hub.db"))
    seen: list[int] = []

    def before_block(block: Block) -> None:
        if ".onnx" in block.path:
            seen.append(block.index)
            if len(seen) > int(killed_at):
                os.kill(os.getpid(), signal.SIGKILL)

    peer = RepositoryPeer(hub, before_block=before_block)
    device = make_device(Path(folder), peer)
    device.fetch(
        TargetRelease(
            model="digits", version=1, manifest_digest=json.loads(digest), rollout="roll-test"
        )
    )


if __name__ == "__main__":
    main()
