"""LocalItem: one sample on this device, ready to be offered. Values only."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Protocol

from shared.wire.device_samples import SampleKind

READ_BYTES_MAX = 64 << 20  # Of one row as it lies there
WRITTEN_S = 2.0  # A file that was changed later than so long ago is left alone
ITEMS_MAX = 200_000  # Of one place; what comes after them is not looked at


@dataclass(frozen=True, slots=True)
class LocalItem:
    """One sample; its bytes are as shared/wire/device_samples.py, rule 4, says."""

    key: int  # The same while the file is; known without reading it
    kind: SampleKind
    data: bytes
    digest: str
    window_shape: tuple[int, ...] = ()
    label: str | None = None
    captured_ms: int | None = None


class LocalItems(Protocol):
    """One place with samples."""

    def items(self, done: Container[int], *, now_s: float) -> Iterator[LocalItem]:
        """Yield every item but those whose key is `done`, one at a time in memory.

        Raises RefusedError `samples.missing`, `samples.invalid`.
        """
        ...
