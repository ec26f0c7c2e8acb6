"""A hub that publishes a release and is killed -9 at the Nth write of its repository.

Arguments: its state folder, its database, N, and where its releases lie if not in that folder.
"""

import json
import os
import signal
import sys
from pathlib import Path

from cloud_hub.candidates.service import CandidateService
from cloud_hub.object_store import ObjectStore
from cloud_hub.releases.service import ReleaseService
from cloud_hub.releases.tuf_keys import KeyFolder
from cloud_hub.releases.tuf_repository import TufRepository
from cloud_hub.sql_database import Database
from shared.clock import SystemClock
from tests.support.release_hub import add


class KillingStore(ObjectStore):
    """`cut_at` counts from 0: that write happens, and is the last thing that does."""

    def __init__(self, place: str, *, cut_at: int) -> None:
        super().__init__(place)
        self._left = cut_at

    def put(self, path: str, data: bytes) -> None:
        super().put(path, data)
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def main() -> None:
    state, url, cut_at = Path(sys.argv[1]), sys.argv[2], int(json.loads(sys.argv[3]))
    database, clock = Database(url), SystemClock()
    place = sys.argv[4] if len(sys.argv) > 4 else str(state / "repository")
    store = KillingStore(place, cut_at=cut_at)
    repository = TufRepository(store, KeyFolder(state / "keys"), clock)
    service = ReleaseService(database, CandidateService(database, clock), repository, store, clock)
    add(service)


if __name__ == "__main__":
    main()
