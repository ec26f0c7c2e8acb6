"""Identifiers, parsed once where they enter; past that point the type is the proof.

A DeviceId never changes and stands in the device's certificate; its name is a label that people
may change. A release is named by its model and version ("digits:3").
"""

import re
import secrets
from typing import NewType

from shared.errors import ContractError

DeviceId = NewType("DeviceId", str)
ModelName = NewType("ModelName", str)
RolloutId = NewType("RolloutId", str)
SessionId = NewType("SessionId", str)
LineageId = NewType("LineageId", str)

NAME_CHARS_MAX = 63
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
DIGEST_PATTERN = r"^[0-9a-f]{64}$"
HUB_ID = DeviceId("hub")  # The hub's own name on the broker; no device can be given it.

_NAME = re.compile(NAME_PATTERN)
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # No letters that look like digits.


def parse_device_id(text: str) -> DeviceId:
    """Return `text` as a DeviceId. Raises ContractError `id.device`."""
    return DeviceId(_parse(text, "device"))


def parse_model_name(text: str) -> ModelName:
    """Return `text` as a ModelName. Raises ContractError `id.model`."""
    return ModelName(_parse(text, "model"))


def parse_group_name(text: str) -> str:
    """Return `text` as a group's name. Raises ContractError `id.group`."""
    return _parse(text, "group")


def _parse(text: str, what: str) -> str:
    if not _NAME.fullmatch(text):
        raise ContractError(
            f"id.{what}",
            f"{text[:80]!r} is not a {what} name.",
            remedy="Use 1 to 63 lower-case letters, digits and dashes, not starting with a dash.",
        )
    return text


def new_device_id() -> DeviceId:
    """Return a fresh random DeviceId such as "dev-7fk2mq9x"."""
    return DeviceId("dev-" + _random(8))


def new_rollout_id() -> RolloutId:
    """Return a fresh random RolloutId such as "roll-7fk2mq9x"."""
    return RolloutId("roll-" + _random(8))


def new_lineage_id() -> LineageId:
    """Return a fresh LineageId: what ties samples, jobs, candidates and releases together."""
    return LineageId("line-" + _random(12))


def new_session_id() -> SessionId:
    """Return a fresh SessionId: one connection's life of one process."""
    return SessionId(secrets.token_hex(8))


def _random(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))
