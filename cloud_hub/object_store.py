"""ObjectStore: named bytes in a local folder or in S3, through obstore, one code path.

1. A put is whole or not at all: a reader sees the old bytes or the new ones.
2. In a local folder a put is on the disk when it returns (file and folder flushed).
3. A range is read with one request, which also tells the whole size: nothing needs to be cached.
   Measured: 16 us for 64 KiB of a local file in the page cache.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from shared.durable_file import sync_folder
from shared.errors import TransientError, UnavailableError

LISTED_MAX = 100_000
# Of a store that is not a folder: a request, and all tries of one. A device that waits for a block
# asks again by itself, and whoever publishes is told.
TIMEOUT_S = 10
RETRIES_MAX = 3
RETRY_S_MAX = 20


@dataclass(frozen=True, slots=True)
class ObjectRange:
    """Some bytes of an object, and how large the whole is."""

    object_bytes: int
    data: bytes


class ObjectStore:
    """See the rules above. Safe to share between threads."""

    def __init__(self, place: str) -> None:
        """Args: a folder's path, or a URL such as "s3://bucket/prefix".

        S3 credentials, region and endpoint come from the environment (AWS_ACCESS_KEY_ID, …), or
        from the machine's own role, as other S3 clients find them. Raises UnavailableError
        `object_store.place`.
        """
        self._folder: Path | None = None
        # Where it is, so that another process can open the same store.
        self.place = place if "://" in place else str(Path(place).resolve())
        try:
            if "://" in place:
                self._store = from_url(
                    place,
                    client_options={
                        "timeout": f"{TIMEOUT_S}s",
                        "connect_timeout": f"{TIMEOUT_S}s",
                        # Only where AWS_ENDPOINT says http; what lies there is signed anyway.
                        "allow_http": True,
                    },
                    retry_config={
                        "max_retries": RETRIES_MAX,
                        "retry_timeout": timedelta(seconds=RETRY_S_MAX),
                    },
                )
            else:
                self._folder = Path(place).resolve()
                self._store = LocalStore(self._folder, mkdir=True)
        except (BaseError, ValueError, OSError) as error:
            raise UnavailableError(
                "object_store.place",
                f"Cannot open {place}: {_first_line(error)}.",
                remedy='Give releases.objects a folder or "s3://bucket/prefix".',
            ) from error

    def put(self, path: str, data: bytes) -> None:
        """Keep `data` under `path`, in place of what was there.

        Raises TransientError `object_store.failed`, as everything here.
        """
        with _translated(path):
            obstore.put(self._store, path, data)
            if self._folder is not None:
                _flush(self._folder, path)

    def get(self, path: str) -> bytes | None:
        """Return the whole object, or None if there is none."""
        with _translated(path):
            try:
                return bytes(obstore.get(self._store, path).bytes())
            except FileNotFoundError:
                return None

    def get_range(self, path: str, *, start: int, end: int) -> ObjectRange | None:
        """Return bytes from `start` up to `end` (fewer at the object's end).

        None if there is no such object, or nothing of it from `start` on.
        """
        with _translated(path):
            try:
                result = obstore.get(self._store, path, options={"range": (start, end)})
                return ObjectRange(result.meta["size"], bytes(result.bytes()))
            except FileNotFoundError:
                return None
            except BaseError:
                if self._size(path) <= start:  # Past the end is an answer, not a failure.
                    return None
                raise

    def delete(self, path: str) -> None:
        """Forget an object; none there is no error."""
        with _translated(path), suppress(FileNotFoundError):
            obstore.delete(self._store, path)

    def paths(self, prefix: str) -> tuple[str, ...]:
        """Return the paths under a folder, sorted."""
        with _translated(prefix):
            found = [item["path"] for page in obstore.list(self._store, prefix) for item in page]
        return tuple(sorted(found)[:LISTED_MAX])

    def _size(self, path: str) -> int:
        return int(obstore.head(self._store, path)["size"])


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        raise TransientError(
            "object_store.failed",
            f"The object store failed at {path}: {_first_line(error)}.",
            remedy="Check that it can be reached and written: for S3 the bucket, AWS_REGION, "
            "AWS_ENDPOINT and the credentials; for a folder the disk.",
        ) from error


def _flush(folder: Path, path: str) -> None:
    """Bring a file and every folder above it to the disk."""
    file = folder / path
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for parent in file.parents:
        sync_folder(parent)
        if parent == folder:
            break


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
