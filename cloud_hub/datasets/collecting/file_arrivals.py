"""FileArrivals: the bytes of samples that have arrived, each in a file named by its SHA-256.

1. A file is whole and on the disk before `put` returns. One that no row names is removed by `keep`.
2. `write_list` says what is known of each, for the reader of this layout
   (readers/file_arrivals.py).
"""

import os
import shutil
from collections.abc import Iterable, Set
from pathlib import Path

import msgspec

from cloud_hub.datasets.collecting.collection import Arrival, Collection
from cloud_hub.datasets.manifest import ItemKind
from cloud_hub.datasets.readers.file_arrivals import LIST_NAME, ArrivalFacts, ArrivalsHead
from shared.durable_file import create_durably, make_folder, make_private_folder, write_failed
from shared.errors import TransientError
from shared.release.digest import digest_of

ITEMS = "devices"  # In a dataset's folder: what an import says that it read
FILE_MODE = 0o600


class FileArrivals:
    """See the rules above. Its callers see to it that one of them changes it at a time."""

    def __init__(self, folder: Path, *, free_bytes_min: int) -> None:
        """Args: folder: of this alone. free_bytes_min: of its disk, that nothing is put into."""
        self._folder = folder
        self._free_bytes_min = free_bytes_min

    def open(self) -> None:
        """Make the folder. Raises TransientError."""
        make_private_folder(self._folder)

    def folder_of(self, dataset: str) -> Path:
        """Return where the arrivals of a dataset lie."""
        return self._folder / dataset / ITEMS

    def put(self, dataset: str, digest: str, data: bytes) -> None:
        """Keep one item's bytes.

        Raises TransientError `collection.disk_full`, `disk.write_failed`.
        """
        assert digest_of(data) == digest, "checked by whoever took it"
        self.require_room(len(data))
        make_folder(self.folder_of(dataset))
        create_durably(self.folder_of(dataset) / digest, data, mode=FILE_MODE)

    def remove(self, dataset: str, digest: str) -> None:
        """Forget one item's bytes that no row names."""
        (self.folder_of(dataset) / digest).unlink(missing_ok=True)

    def require_room(self, bytes_count: int) -> None:
        """Raise TransientError `collection.disk_full` if so much is too much for the disk."""
        try:
            found = os.statvfs(self._folder)
        except OSError as error:
            raise write_failed(self._folder, error) from error
        if found.f_bavail * found.f_frsize - bytes_count < self._free_bytes_min:
            raise TransientError(
                "collection.disk_full",
                "The hub's disk has no room for more samples.",
                remedy="Free some space in the hub's state folder, or make versions of what waits.",
            )

    def write_list(self, collection: Collection, arrivals: Iterable[Arrival]) -> Path:
        """Write down what an import of these is to know; return the folder it reads.

        Raises TransientError `disk.write_failed`.
        """
        assert collection.kind is not None, "what has arrived has a kind"
        folder = self.folder_of(collection.dataset)
        encoder = msgspec.json.Encoder()
        head = ArrivalsHead(ItemKind(collection.kind.value), collection.window_shape)
        path = folder / LIST_NAME
        try:
            with path.open("wb") as file:
                file.write(encoder.encode(head) + b"\n")
                file.writelines(encoder.encode(_facts(each)) + b"\n" for each in arrivals)
        except OSError as error:
            raise write_failed(path, error) from error
        return folder

    def keep(self, named: Set[tuple[str, str]]) -> int:
        """Remove every item but these (dataset, digest); return how many were removed.

        What cannot be removed now is removed the next time.
        """
        count = 0
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            items = folder / ITEMS
            for path in items.iterdir() if items.is_dir() else ():
                if path.name != LIST_NAME and (folder.name, path.name) not in named:
                    path.unlink(missing_ok=True)
                    count += 1
            if not any(dataset == folder.name for dataset, _ in named):
                shutil.rmtree(folder, ignore_errors=True)
        return count


def _facts(arrival: Arrival) -> ArrivalFacts:
    return ArrivalFacts(
        digest=arrival.digest,
        device=arrival.device,
        label=arrival.label,
        captured_ms=arrival.captured_ms,
        site=arrival.site,
        group=arrival.group,
    )
