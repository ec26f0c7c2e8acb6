"""Texts from outside as the manifest can hold them: bounded, printable, valid Unicode. Pure."""

from cloud_hub.datasets.manifest import Part
from shared.release.digest import digest_of

TEXT_CHARS_MAX = 120  # ShortText
DIGEST_CHARS = 16

PARTS = {
    "train": Part.TRAIN,
    "training": Part.TRAIN,
    "val": Part.VALIDATION,
    "valid": Part.VALIDATION,
    "validation": Part.VALIDATION,
    "dev": Part.VALIDATION,
    "test": Part.TEST,
    "testing": Part.TEST,
}


def short_name(text: str) -> str:
    """Return where an item came from, its end where it is too long to keep."""
    clean = printable(text)
    return clean if len(clean) <= TEXT_CHARS_MAX else "…" + clean[1 - TEXT_CHARS_MAX :]


def short_key(text: str) -> str:
    """Return a device, site or group, at most TEXT_CHARS_MAX long; two that differ stay two."""
    clean = printable(text)
    if len(clean) <= TEXT_CHARS_MAX and clean == text:
        return clean
    digest = digest_of(text.encode("utf-8", "surrogatepass"))[:DIGEST_CHARS]
    return f"{clean[: TEXT_CHARS_MAX - DIGEST_CHARS - 1]}-{digest}"


def class_name(text: str) -> str | None:
    """Return a class name, or None if it is not one: empty, too long or not printable."""
    name = text.strip()
    return name if 0 < len(name) <= TEXT_CHARS_MAX and name.isprintable() else None


def part_named(text: str) -> Part | None:
    """Return the part that a folder or cell names, or None."""
    return PARTS.get(text.strip().lower())


def printable(text: str) -> str:
    """Return `text` with what cannot be shown or encoded replaced by "?"."""
    return "".join(character if character.isprintable() else "?" for character in text)
