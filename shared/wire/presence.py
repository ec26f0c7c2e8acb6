"""Presence and Heartbeat: whether a device is there, told by itself or by its last will.

1. Birth (`is_online`) and death (the last will, or a clean goodbye) are the same retained topic.
2. Every message carries the session id in its envelope. The death of an older session than the
   newest birth says nothing: brokers deliver a last will late, after the device came back.
"""

from typing import ClassVar

import msgspec

from shared.wire.limits import Count, ShortText


class Hardware(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the device is made of; the fingerprint that pools measurements of equal devices."""

    machine: ShortText  # "aarch64", "x86_64"
    board: ShortText  # "Raspberry Pi 5 Model B Rev 1.0"; then its processor
    cores_count: Count
    memory_bytes: Count


class Presence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Birth or death of one session of one device."""

    schema: ClassVar[int] = 1

    is_online: bool
    reason: ShortText = ""  # "started", "stopped", or "connection lost" from the last will
    agent_version: ShortText = ""
    boot_id: ShortText = ""  # Changes when the device restarts, not when the agent does
    hardware: Hardware | None = None


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """I am still here."""

    schema: ClassVar[int] = 1

    uptime_s: Count
    outbox_rows: Count
    outbox_dropped: Count
