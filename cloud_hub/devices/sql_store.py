"""The tables of devices, their groups and certificates, and of join tokens (see sql_tokens.py).

Functions take the connection of a transaction that the service opened. What must not live here:
any rule about what may happen to a device.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from cloud_hub.devices.device import Device, DeviceState
from cloud_hub.devices.presence import PresenceState, Standing
from cloud_hub.devices.x509_certificates import IssuedCertificate
from cloud_hub.sql_database import METADATA
from shared.ids import DeviceId, SessionId
from shared.wire.presence import Hardware, Heartbeat, Presence

DEVICES = sa.Table(
    "devices",
    METADATA,
    sa.Column("device_id", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("enrolled_ms", sa.BigInteger, nullable=False),
    sa.Column("revoked_ms", sa.BigInteger),
    sa.Column("certificate_serial", sa.String(40), nullable=False),
    sa.Column("certificate_expires_ms", sa.BigInteger, nullable=False),
    sa.Column("presence", sa.String(16), nullable=False),
    sa.Column("presence_reason", sa.String(120), nullable=False),
    sa.Column("session_id", sa.String(16)),
    sa.Column("birth_message_id", sa.String(16)),
    sa.Column("ended_sessions", sa.String(300), nullable=False),  # Separated by spaces
    sa.Column("last_seen_ms", sa.BigInteger),
    sa.Column("agent_version", sa.String(120), nullable=False),
    sa.Column("boot_id", sa.String(120), nullable=False),
    sa.Column("machine", sa.String(120), nullable=False),
    sa.Column("board", sa.String(120), nullable=False),
    sa.Column("cores_count", sa.BigInteger),  # NULL: the device never said what it is made of
    sa.Column("memory_bytes", sa.BigInteger),
    sa.Column("uptime_s", sa.BigInteger),
    sa.Column("outbox_rows", sa.BigInteger),
    sa.Column("outbox_dropped", sa.BigInteger),
)
GROUPS = sa.Table(
    "device_groups",
    METADATA,
    sa.Column("device_id", sa.ForeignKey(DEVICES.c.device_id), primary_key=True),
    sa.Column("group_name", sa.String(63), primary_key=True, index=True),
)
CERTIFICATES = sa.Table(
    "device_certificates",
    METADATA,
    sa.Column("serial", sa.String(40), primary_key=True),
    sa.Column("device_id", sa.ForeignKey(DEVICES.c.device_id), nullable=False, index=True),
    sa.Column("public_key", sa.LargeBinary, nullable=False),  # DER, SubjectPublicKeyInfo
    sa.Column("certificate_pem", sa.Text, nullable=False),
    sa.Column("issued_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sa.Column("revoked_ms", sa.BigInteger),
)
TOKENS = sa.Table(
    "join_tokens",
    METADATA,
    sa.Column("token_hash", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(63)),
    sa.Column("group_names", sa.Text, nullable=False),  # Separated by spaces
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sa.Column("redeemed_ms", sa.BigInteger),
    sa.Column("device_id", sa.ForeignKey(DEVICES.c.device_id)),
)


def insert_device(
    connection: sa.Connection,
    device: DeviceId,
    *,
    name: str,
    certificate: IssuedCertificate,
    now_ms: int,
) -> None:
    """Add a device that has just joined."""
    connection.execute(
        DEVICES.insert().values(
            device_id=device,
            name=name,
            state=DeviceState.ENROLLED,
            enrolled_ms=now_ms,
            certificate_serial=certificate.serial,
            certificate_expires_ms=certificate.expires_ms,
            agent_version="",
            boot_id="",
            machine="",
            board="",
            **_columns_of(Standing()),
        )
    )


def insert_certificate(
    connection: sa.Connection,
    device: DeviceId,
    certificate: IssuedCertificate,
    *,
    public_key: bytes,
) -> None:
    """Keep a device's new certificate beside its older ones, and call it the newest."""
    connection.execute(
        CERTIFICATES.insert().values(
            serial=certificate.serial,
            device_id=device,
            public_key=public_key,
            certificate_pem=certificate.certificate_pem,
            issued_ms=certificate.issued_ms,
            expires_ms=certificate.expires_ms,
        )
    )
    change_device(
        connection,
        device,
        certificate_serial=certificate.serial,
        certificate_expires_ms=certificate.expires_ms,
    )


def newest_certificate(
    connection: sa.Connection, device: DeviceId
) -> tuple[IssuedCertificate, bytes] | None:
    """Return a device's newest certificate and its public key (DER)."""
    query = CERTIFICATES.select().join(
        DEVICES, DEVICES.c.certificate_serial == CERTIFICATES.c.serial
    )
    row = connection.execute(query.where(DEVICES.c.device_id == device)).one_or_none()
    if row is None:
        return None
    certificate = IssuedCertificate(
        certificate_pem=row.certificate_pem,
        serial=row.serial,
        issued_ms=row.issued_ms,
        expires_ms=row.expires_ms,
    )
    return certificate, bytes(row.public_key)


def has_certificate(connection: sa.Connection, device: DeviceId, serial: str) -> bool:
    """Return whether this certificate is an enrolled device's own and not revoked."""
    query = (
        sa.select(CERTIFICATES.c.serial)
        .join(DEVICES, DEVICES.c.device_id == CERTIFICATES.c.device_id)
        .where(CERTIFICATES.c.serial == serial, CERTIFICATES.c.revoked_ms.is_(None))
        .where(DEVICES.c.device_id == device, DEVICES.c.state == DeviceState.ENROLLED)
    )
    return connection.execute(query).one_or_none() is not None


def revoke_certificates(connection: sa.Connection, device: DeviceId, *, now_ms: int) -> None:
    """Note that none of a device's certificates is good any more."""
    query = CERTIFICATES.update().where(
        CERTIFICATES.c.device_id == device, CERTIFICATES.c.revoked_ms.is_(None)
    )
    connection.execute(query.values(revoked_ms=now_ms))


def revoked_serials(connection: sa.Connection, *, now_ms: int) -> list[tuple[str, int]]:
    """Return (serial, since when) of revoked certificates that have not expired by themselves."""
    query = (
        sa.select(CERTIFICATES.c.serial, CERTIFICATES.c.revoked_ms)
        .where(CERTIFICATES.c.revoked_ms.is_not(None), CERTIFICATES.c.expires_ms > now_ms)
        .order_by(CERTIFICATES.c.revoked_ms, CERTIFICATES.c.serial)
    )
    return [(row.serial, row.revoked_ms) for row in connection.execute(query)]


def set_groups(connection: sa.Connection, device: DeviceId, groups: Sequence[str]) -> None:
    """Make these, and no others, the device's groups."""
    connection.execute(GROUPS.delete().where(GROUPS.c.device_id == device))
    if groups:
        rows = [{"device_id": device, "group_name": group} for group in groups]
        connection.execute(GROUPS.insert(), rows)


def group_counts(connection: sa.Connection) -> dict[str, int]:
    """Return how many enrolled devices each group has."""
    query = (
        sa.select(GROUPS.c.group_name, sa.func.count().label("devices_count"))
        .join(DEVICES, DEVICES.c.device_id == GROUPS.c.device_id)
        .where(DEVICES.c.state == DeviceState.ENROLLED)
        .group_by(GROUPS.c.group_name)
        .order_by(GROUPS.c.group_name)
    )
    return {row.group_name: row.devices_count for row in connection.execute(query)}


def get_device(
    connection: sa.Connection, device: DeviceId, *, for_update: bool = False
) -> Device | None:
    """Return a device; with `for_update` nobody else can change it until the transaction ends."""
    query = DEVICES.select().where(DEVICES.c.device_id == device)
    row = connection.execute(query.with_for_update() if for_update else query).one_or_none()
    if row is None:
        return None
    groups = GROUPS.select().where(GROUPS.c.device_id == device).order_by(GROUPS.c.group_name)
    return _device(row, tuple(entry.group_name for entry in connection.execute(groups)))


def list_devices(connection: sa.Connection) -> list[Device]:
    """Return every device ever enrolled, by name."""
    groups: dict[str, list[str]] = {}
    for entry in connection.execute(GROUPS.select().order_by(GROUPS.c.group_name)):
        groups.setdefault(entry.device_id, []).append(entry.group_name)
    rows = connection.execute(DEVICES.select().order_by(DEVICES.c.name, DEVICES.c.device_id))
    return [_device(row, tuple(groups.get(row.device_id, ()))) for row in rows]


def enrolled_ids(connection: sa.Connection, *, group: str | None) -> tuple[DeviceId, ...]:
    """Return the enrolled devices, of one group or all, in order of id."""
    query = sa.select(DEVICES.c.device_id).where(DEVICES.c.state == DeviceState.ENROLLED)
    if group is not None:
        query = query.join(GROUPS, GROUPS.c.device_id == DEVICES.c.device_id)
        query = query.where(GROUPS.c.group_name == group)
    return _ids(connection, query)


def revoked_ids(connection: sa.Connection, *, now_ms: int) -> tuple[DeviceId, ...]:
    """Return the revoked devices with a certificate that has not expired, in order of id."""
    query = sa.select(DEVICES.c.device_id).where(
        DEVICES.c.state == DeviceState.REVOKED, DEVICES.c.certificate_expires_ms > now_ms
    )
    return _ids(connection, query)


def online_ids(connection: sa.Connection) -> tuple[DeviceId, ...]:
    """Return the devices that are thought to be online, in order of id."""
    query = sa.select(DEVICES.c.device_id).where(DEVICES.c.presence == PresenceState.ONLINE)
    return _ids(connection, query)


def change_device(connection: sa.Connection, device: DeviceId, **columns: object) -> bool:
    """Set columns of a device; return whether there is such a device."""
    query = DEVICES.update().where(DEVICES.c.device_id == device).values(**columns)
    return connection.execute(query).rowcount == 1


def set_standing(connection: sa.Connection, device: DeviceId, standing: Standing) -> None:
    """Keep what is known of a device's presence."""
    change_device(connection, device, **_columns_of(standing))


def set_birth_details(connection: sa.Connection, device: DeviceId, birth: Presence) -> None:
    """Keep what a device says of itself when it starts."""
    change_device(connection, device, agent_version=birth.agent_version, boot_id=birth.boot_id)
    if birth.hardware is not None:
        set_hardware(connection, device, birth.hardware)


def set_hardware(connection: sa.Connection, device: DeviceId, hardware: Hardware) -> None:
    """Keep what a device is made of."""
    change_device(
        connection,
        device,
        machine=hardware.machine,
        board=hardware.board,
        cores_count=hardware.cores_count,
        memory_bytes=hardware.memory_bytes,
    )


def set_heartbeat(
    connection: sa.Connection, device: DeviceId, standing: Standing, heartbeat: Heartbeat
) -> None:
    """Keep what is known of a device's presence, and the numbers of its heartbeat."""
    change_device(
        connection,
        device,
        uptime_s=heartbeat.uptime_s,
        outbox_rows=heartbeat.outbox_rows,
        outbox_dropped=heartbeat.outbox_dropped,
        **_columns_of(standing),
    )


def _ids(connection: sa.Connection, query: sa.Select[tuple[str]]) -> tuple[DeviceId, ...]:
    rows = connection.execute(query.order_by(DEVICES.c.device_id))
    return tuple(DeviceId(row.device_id) for row in rows)


def _columns_of(standing: Standing) -> dict[str, object]:
    return {
        "presence": standing.state,
        "presence_reason": standing.reason,
        "session_id": standing.session_id,
        "birth_message_id": standing.birth_message_id,
        "ended_sessions": " ".join(standing.ended_sessions),
        "last_seen_ms": standing.last_seen_ms,
    }


def _device(row: sa.Row[tuple[object, ...]], groups: tuple[str, ...]) -> Device:
    hardware = None
    if row.cores_count is not None:
        hardware = Hardware(
            machine=row.machine,
            board=row.board,
            cores_count=row.cores_count,
            memory_bytes=row.memory_bytes,
        )
    standing = Standing(
        state=PresenceState(row.presence),
        reason=row.presence_reason,
        session_id=row.session_id,
        birth_message_id=row.birth_message_id,
        ended_sessions=tuple(SessionId(session) for session in row.ended_sessions.split()),
        last_seen_ms=row.last_seen_ms,
    )
    return Device(
        device_id=row.device_id,
        name=row.name,
        groups=groups,
        state=DeviceState(row.state),
        enrolled_ms=row.enrolled_ms,
        revoked_ms=row.revoked_ms,
        certificate_serial=row.certificate_serial,
        certificate_expires_ms=row.certificate_expires_ms,
        standing=standing,
        agent_version=row.agent_version,
        boot_id=row.boot_id,
        hardware=hardware,
        uptime_s=row.uptime_s,
        outbox_rows=row.outbox_rows,
        outbox_dropped=row.outbox_dropped,
    )
