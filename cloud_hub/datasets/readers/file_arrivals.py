"""arrivals: samples that devices have sent, as collecting/file_arrivals.py keeps them.

1. A file for each, named by its SHA-256, and LIST_NAME: the first line says what they are, each
   further one what is known of one of them, in the order of arrival.
2. The device is always told. A group is a device's own: that of another device with the same name
   is another group.
3. What is in a file is not believed: its digest must be its name, a picture must be one, a text
   UTF-8, a window as long as its shape says.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from cloud_hub.datasets.manifest import ITEMS_MAX, ItemKind
from cloud_hub.datasets.raw_item import Broken, RawItem
from cloud_hub.datasets.readers.file_source import Source, limited, wrong_layout
from cloud_hub.datasets.readers.item_bytes import checked_picture, checked_text
from cloud_hub.datasets.readers.raw_texts import class_name, short_key
from shared.errors import ContractError
from shared.release.digest import digest_of
from shared.settings import Settings
from shared.wire.limits import Digest, Name, ShortText, UnixMs

LIST_NAME = "arrivals.jsonl"
LINE_BYTES_MAX = 4096
FLOAT_BYTES = 4
NAME_DIGITS = 12  # Of the digest, in an item's name
REMEDY = "It is made by the hub: cloud-hub datasets collect NAME --make-version."

Axis = Annotated[int, Meta(ge=1, le=65_536)]


class ArrivalsHead(msgspec.Struct, frozen=True, array_like=True):
    """The first line."""

    kind: ItemKind
    window_shape: Annotated[tuple[Axis, ...], Meta(max_length=2)] = ()


class ArrivalFacts(Settings, frozen=True):
    """What is known of one item."""

    digest: Digest
    device: Name
    label: ShortText | None = None
    captured_ms: UnixMs | None = None
    site: ShortText = ""
    group: ShortText = ""


@dataclass(frozen=True, slots=True)
class ArrivalsReader:
    """What devices have sent; see the rules above."""

    source: Source
    kind: ItemKind
    window_shape: tuple[int, ...]
    classes: tuple[str, ...] = ()

    def items(self) -> Iterator[RawItem | Broken]:
        """Yield every item of the list."""
        opened = self.source.open(LIST_NAME)
        if isinstance(opened, Broken):
            raise _wrong(self.source, opened.reason)
        another = limited(ITEMS_MAX, self.source.root)
        with closing(opened):
            opened.readline(LINE_BYTES_MAX)
            while line := opened.readline(LINE_BYTES_MAX):
                another()
                yield self._item(line)

    def _item(self, line: bytes) -> RawItem | Broken:
        try:
            facts = msgspec.json.decode(line, type=ArrivalFacts)
        except msgspec.MsgspecError as error:
            return Broken(LIST_NAME, f"has a line that makes no sense: {error}")
        name = f"{facts.device}/{facts.digest[:NAME_DIGITS]}"
        data = self.source.read(facts.digest)
        if isinstance(data, Broken):
            return Broken(name, data.reason)
        if digest_of(data) != facts.digest:
            return Broken(name, "is not what was sent")
        checked = self._checked(data, name)
        if isinstance(checked, Broken):
            return checked
        return RawItem(
            checked,
            name,
            label=class_name(facts.label) if facts.label is not None else None,
            device=facts.device,
            site=short_key(facts.site),
            captured_ms=facts.captured_ms,
            group=short_key(f"{facts.device}/{facts.group}") if facts.group else "",
        )

    def _checked(self, data: bytes, name: str) -> bytes | Broken:
        match self.kind:
            case ItemKind.IMAGE:
                return checked_picture(data, name)
            case ItemKind.TEXT:
                return checked_text(data, name)
            case ItemKind.WINDOW:
                length, channels = self.window_shape
                if len(data) == length * channels * FLOAT_BYTES:
                    return data
                return Broken(name, f"has {len(data)} bytes, no window {self.window_shape}")


def open_arrivals(path: Path) -> ArrivalsReader:
    """Return the reader of a folder of arrivals. Raises ContractError `dataset.layout`."""
    source = Source.at(path)
    opened = source.open(LIST_NAME)
    if isinstance(opened, Broken):
        raise _wrong(source, f"{LIST_NAME} {opened.reason}")
    with closing(opened):
        try:
            head = msgspec.json.decode(opened.readline(LINE_BYTES_MAX), type=ArrivalsHead)
        except msgspec.MsgspecError as error:
            raise _wrong(source, f"{LIST_NAME}: {error}") from error
    if len(head.window_shape) != (2 if head.kind is ItemKind.WINDOW else 0):
        raise _wrong(source, f"{LIST_NAME}: {head.kind} items {head.window_shape}")
    return ArrivalsReader(source, head.kind, head.window_shape)


def _wrong(source: Source, reason: str) -> ContractError:
    return wrong_layout("arrivals", source.root, reason, REMEDY)
