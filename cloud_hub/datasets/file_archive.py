"""Archives that strangers have sent: unpacked within limits, into a folder of their own.

1. Only plain files and folders come out. An archive with a link, a device or a name that leads out
   of the folder is refused whole, and so is one that names a file twice.
2. Files, bytes of all files together, and depth have limits; bytes are counted as they come out,
   whatever the archive says.
3. Nothing of an archive's owners, rights or times is taken over.
"""

import errno
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from shared.durable_file import write_failed
from shared.errors import ContractError

FILES_MAX = 2_000_000
DEPTH_MAX = 16
NAME_CHARS_MAX = 1000
PIECE_BYTES = 1 << 20
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
GZIP_MAGIC = b"\x1f\x8b"
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
PART_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


def is_archive(name: str) -> bool:
    """Return whether a file of this name is taken for an archive."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, into: Path, *, bytes_max: int) -> Path:
    """Unpack an archive; return the folder in which its source begins.

    Args:
        archive: a .zip, .tar, .tar.gz or .tgz, known by its bytes.
        into: an empty folder.
        bytes_max: of all files together.

    Raises ContractError `dataset.archive`, TransientError `disk.write_failed`.
    """
    left = bytes_max
    try:
        for count, (name, stream) in enumerate(_members(archive)):
            if count >= FILES_MAX:
                raise _refused(f"it holds more than {FILES_MAX} files")
            left -= _write(stream, _target(into, name), name, left)
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise write_failed(into, error) from error
        raise _refused(str(error) or type(error).__name__) from error
    except (NotImplementedError, RuntimeError, ValueError) as error:  # Encrypted, odd compression
        raise _refused(str(error) or type(error).__name__) from error
    if left == bytes_max:
        raise _refused("it holds nothing")
    return _begin_of(into)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield every file with its bytes. Raises ContractError for whatever is no file or folder."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(f"{info.filename[:80]!r} is a link or a device")
                if not info.is_dir():
                    with zipped.open(info) as stream:
                        yield info.filename, stream
        return
    # Told apart here: tarfile would try every compression, and xz takes minutes over zeros.
    with archive.open("rb") as file:
        is_gzip = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    with tarfile.open(archive, mode="r:gz" if is_gzip else "r:") as tarred:
        for member in tarred:
            if not (member.isfile() or member.isdir()):
                raise _refused(f"{member.name[:80]!r} is a link or a device")
            if member.isfile():
                opened = tarred.extractfile(member)
                assert opened is not None, "a plain file has bytes"
                with opened as stream:
                    yield member.name, stream


def _target(into: Path, name: str) -> Path:
    """Return where a file goes. Raises ContractError for names that lead elsewhere."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = [part for part in path.parts if part != "."]
    if (
        not parts
        or path.is_absolute()
        or ".." in parts
        or ":" in parts[0]
        or len(parts) > DEPTH_MAX
        or len(name) > NAME_CHARS_MAX
        or not name.isprintable()
    ):
        raise _refused(f"the name {name[:80]!r} leads elsewhere or is none")
    return into.joinpath(*parts)


def _write(stream: IO[bytes], target: Path, name: str, left: int) -> int:
    """Write a file; return how many bytes it has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as file:  # Never over another, never through a link
        while piece := stream.read(PIECE_BYTES):
            written += len(piece)
            if written > left:
                raise _refused(f"it unpacks to more than is allowed, at {name[:80]!r}")
            file.write(piece)
    return written


def _begin_of(folder: Path) -> Path:
    """Return the folder itself, or the one within that merely wraps the source.

    A folder of pictures alone is a class, not a wrapping; train/ or test/ is a part.
    """
    with os.scandir(folder) as entries:
        found = list(entries)
    if len(found) != 1 or not found[0].is_dir() or found[0].name.lower() in PART_FOLDERS:
        return folder
    inner = Path(found[0].path)
    with os.scandir(inner) as entries:
        is_class = all(
            entry.is_file() and Path(entry.name).suffix.lower() in PICTURES for entry in entries
        )
    return folder if is_class else inner


def _refused(text: str) -> ContractError:
    return ContractError(
        "dataset.archive",
        f"The archive is not taken: {text}.",
        remedy="Pack plain files into a .zip, .tar or .tar.gz.",
    )
