"""Groups and labels: what people call devices and sets of devices."""

from collections.abc import Iterable

from shared.errors import ContractError, RefusedError
from shared.ids import NAME_CHARS_MAX, parse_group_name

GROUPS_PER_DEVICE_MAX = 32


def normalize_groups(names: Iterable[str]) -> tuple[str, ...]:
    """Return group names sorted, each once.

    Raises ContractError `id.group`, RefusedError `device.too_many_groups`.
    """
    groups = tuple(sorted({parse_group_name(name) for name in names}))
    if len(groups) > GROUPS_PER_DEVICE_MAX:
        raise RefusedError(
            "device.too_many_groups",
            f"A device can be in {GROUPS_PER_DEVICE_MAX} groups at most, not {len(groups)}.",
        )
    return groups


def parse_label(text: str) -> str:
    """Return a device's name as people may give it. Raises ContractError `device.name_invalid`."""
    label = " ".join(text.split())
    if not 1 <= len(label) <= NAME_CHARS_MAX or not label.isprintable():
        raise ContractError(
            "device.name_invalid",
            f"{text[:80]!r} cannot be a device's name.",
            remedy=f"Use 1 to {NAME_CHARS_MAX} printable characters.",
        )
    return label
