"""How items are named in label tools: so that the digest comes back whatever a tool does. Pure.

1. An exported file is called `<what it was called>-<SHA-256>.<suffix>`. Tools put words before a
   name (Label Studio) or folders (CVAT, YOLO), and keep its end.
2. What comes back without a digest is matched by name, with or without its suffix: all of the
   item's name, else its last part, if only one item has it.
"""

import re
from collections.abc import Sequence
from urllib.parse import unquote

from cloud_hub.datasets.manifest import Item
from shared.release.digest import digest_of

STEM_CHARS_MAX = 60
SEVERAL = ""
_DIGEST = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?:\.[A-Za-z0-9]{1,8})?\Z")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def exported_name(item: Item, suffix: str) -> str:
    """Return what an item's file is called in an export."""
    clean = _UNSAFE.sub("_", _stem(item.name))[-STEM_CHARS_MAX:].strip("._-")
    return f"{clean or 'item'}-{item.digest}{suffix}"


def _stem(name: str) -> str:
    return re.sub(r"\.[A-Za-z0-9]{1,5}\Z", "", name)


class ItemNames:
    """Which item a name from a label tool means."""

    def __init__(self, items: Sequence[Item]) -> None:
        """Look at all items of a version."""
        self._digests = {item.digest for item in items}
        self._by_name: dict[str, str] = {}
        for item in items:
            last = item.name.rpartition("/")[2]
            for name in {item.name, last, _stem(item.name), _stem(last)}:
                other = self._by_name.setdefault(name, item.digest)
                if other != item.digest:
                    self._by_name[name] = SEVERAL

    def digest(self, file: str, text: str | None = None) -> str | None:
        """Return the digest of the item that is meant, None if none is, SEVERAL if many are."""
        path = unquote(file.partition("?d=")[2] or file)
        found = _DIGEST.search(path)
        if found is not None and found[1] in self._digests:
            return found[1]
        if text is not None and (told := digest_of(text.encode())) in self._digests:
            return told
        whole = self._by_name.get(path)
        return self._by_name.get(path.rpartition("/")[2]) if whole is None else whole
