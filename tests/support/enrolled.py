"""Devices as a hub meets them: keys, signing requests, and messages as they come in."""

import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from cloud_hub.devices.service import DeviceService, SessionCutter
from cloud_hub.devices.x509_authority import Authority
from cloud_hub.sql_database import Database
from edge_agent.uplink.file_identity import make_csr
from shared.clock import Clock
from shared.ids import DeviceId, SessionId, new_session_id
from shared.wire.codec import Received
from shared.wire.presence import Hardware, Heartbeat, Presence
from shared.wire.topics import Message, topic_of

HARDWARE = Hardware(machine="aarch64", board="Test Pi", cores_count=4, memory_bytes=1 << 30)
HEARTBEAT = Heartbeat(uptime_s=10, outbox_rows=3, outbox_dropped=1)


def make_devices(
    database: Database, folder: Path, clock: Clock, *, cutter: SessionCutter | None = None
) -> DeviceService:
    """Return the hub's device service with its authority in `folder`/pki."""
    authority = Authority(folder / "pki", host_names=("localhost",), clock=clock)
    return DeviceService(database, authority, clock, cutter=cutter)


def new_csr() -> str:
    """Return a signing request for a fresh key."""
    return make_csr(ec.generate_private_key(ec.SECP256R1()))


def enrol(
    devices: DeviceService, *, name: str | None = None, groups: tuple[str, ...] = ()
) -> DeviceId:
    """Let one more device join; return its id."""
    token = devices.create_token(name=name, groups=groups, ttl_s=600)
    return devices.enrol(token.text, new_csr()).device_id


def received(
    device: DeviceId,
    message: Message,
    *,
    session: SessionId | None = None,
    message_id: str | None = None,
    sent_ms: int = 0,
) -> Received:
    """Return `message` as the inbox hands it on."""
    return Received(
        topic=topic_of(message),
        device=device,
        session_id=session or new_session_id(),
        message_id=message_id or secrets.token_hex(8),
        sent_ms=sent_ms,
        message=message,
    )


def birth(device: DeviceId, session: SessionId, *, message_id: str | None = None) -> Received:
    """Return the birth of a session."""
    message = Presence(
        is_online=True, reason="started", agent_version="0.1.0", boot_id="boot", hardware=HARDWARE
    )
    return received(device, message, session=session, message_id=message_id)


def death(device: DeviceId, session: SessionId) -> Received:
    """Return the last will of a session."""
    return received(device, Presence(is_online=False, reason="connection lost"), session=session)


def heartbeat(device: DeviceId, session: SessionId) -> Received:
    """Return a heartbeat of a session."""
    return received(device, HEARTBEAT, session=session)
