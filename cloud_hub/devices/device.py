"""Device: one enrolled machine as the hub knows it. Values, and what is said of one not there."""

from dataclasses import dataclass
from enum import StrEnum

from cloud_hub.devices.presence import PresenceState, Standing
from shared.errors import RefusedError
from shared.ids import DeviceId, SessionId
from shared.wire.presence import Hardware


class DeviceState(StrEnum):
    """Whether a device belongs to the fleet. There is no way back from revoked."""

    ENROLLED = "enrolled"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Device:
    """One enrolled machine."""

    device_id: DeviceId  # Never changes; stands in its certificate
    name: str  # A label that people may change
    groups: tuple[str, ...]
    state: DeviceState
    enrolled_ms: int
    revoked_ms: int | None
    certificate_serial: str  # Of its newest certificate, hexadecimal
    certificate_expires_ms: int
    standing: Standing
    agent_version: str = ""  # This and what follows: as the device last said
    boot_id: str = ""
    hardware: Hardware | None = None
    uptime_s: int | None = None
    outbox_rows: int | None = None
    outbox_dropped: int | None = None

    @property
    def presence(self) -> PresenceState:
        """Return whether it is there."""
        return self.standing.state

    @property
    def presence_reason(self) -> str:
        """Return how the hub knows: "started", "connection lost", "no heartbeat", …."""
        return self.standing.reason

    @property
    def last_seen_ms(self) -> int | None:
        """Return when the hub last heard of it, by the hub's clock."""
        return self.standing.last_seen_ms

    @property
    def session_id(self) -> SessionId | None:
        """Return its current, or last, session."""
        return self.standing.session_id


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a device gets that joined."""

    device_id: DeviceId
    certificate_pem: str


def require_device(device: Device | None) -> Device:
    """Return the device that was found. Raises RefusedError `device.unknown`."""
    if device is None:
        raise unknown_device()
    return device


def unknown_device() -> RefusedError:
    """Return the error for a device that is not there."""
    return RefusedError(
        "device.unknown",
        "There is no such device.",
        remedy="See the list: cloud-hub devices list.",
    )
