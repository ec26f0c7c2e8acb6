"""Queries on fits: what devices measured of releases, and the hints that come of it.

1. A device is pooled by the hardware that the hub knows of it (its birth), not by what a table
   says of it.
2. A device keeps at most FITS_PER_DEVICE_MAX tables, the newest.
"""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from cloud_hub.devices.sql_store import DEVICES
from cloud_hub.rollouts.fits import DeviceFit, hint_of
from cloud_hub.rollouts.sql_store import release_fits
from cloud_hub.sql_database import upsert
from shared.ids import DeviceId
from shared.wire.fit import FitHint, FitReport, fingerprint_of
from shared.wire.presence import Hardware

FITS_PER_DEVICE_MAX = 64
POOLED_MAX = 1000  # Newest tables of one release that are looked at
_REPORTS = msgspec.json.Decoder(FitReport)
_GIB = 1 << 30


def put_fit(
    connection: sa.Connection, device_id: DeviceId, report: FitReport, *, received_ms: int
) -> None:
    """Store a device's table, if it says something new and the hub knows the device's hardware."""
    hardware = read_hardware(connection, [device_id]).get(device_id)
    if hardware is None:
        return
    fingerprint, text = fingerprint_of(hardware), msgspec.json.encode(report).decode()
    own = release_fits.c.device_id == device_id
    known = connection.execute(
        sa.select(release_fits.c.fingerprint, release_fits.c.report_json).where(
            own, release_fits.c.manifest_digest == report.manifest_digest
        )
    ).one_or_none()
    if known is not None and tuple(known) == (fingerprint, text):
        return
    row = {
        "device_id": device_id,
        "manifest_digest": report.manifest_digest,
        "fingerprint": fingerprint,
        "report_json": text,
        "received_ms": received_ms,
    }
    update = ["fingerprint", "report_json", "received_ms"]
    upsert(connection, release_fits, row, key=["device_id", "manifest_digest"], update=update)
    kept = (
        sa.select(release_fits.c.manifest_digest)
        .where(own)
        .order_by(release_fits.c.received_ms.desc(), release_fits.c.manifest_digest)
        .limit(FITS_PER_DEVICE_MAX)
    )
    digests = connection.execute(kept).scalars().all()
    if len(digests) == FITS_PER_DEVICE_MAX:
        connection.execute(
            sa.delete(release_fits).where(own, release_fits.c.manifest_digest.not_in(digests))
        )


def read_fits(connection: sa.Connection, manifest_digest: str) -> tuple[DeviceFit, ...]:
    """Return the newest tables of a release, newest first."""
    query = (
        sa.select(release_fits)
        .where(release_fits.c.manifest_digest == manifest_digest)
        .order_by(release_fits.c.received_ms.desc(), release_fits.c.device_id)
        .limit(POOLED_MAX)
    )
    rows = connection.execute(query).all()
    hardware = read_hardware(connection, [DeviceId(row.device_id) for row in rows])
    return tuple(
        DeviceFit(
            device_id=DeviceId(row.device_id),
            fingerprint=row.fingerprint,
            hardware=_hardware_text(hardware.get(DeviceId(row.device_id))),
            report=_REPORTS.decode(row.report_json),
            received_ms=row.received_ms,
        )
        for row in rows
    )


class Hints:
    """What equal devices came to, asked once for each kind of hardware and release."""

    def __init__(self, connection: sa.Connection, devices: Sequence[DeviceId]) -> None:
        """Use it within the transaction of `connection`."""
        self._connection = connection
        self._fingerprints = {
            device_id: fingerprint_of(hardware)
            for device_id, hardware in read_hardware(connection, devices).items()
        }
        self._known: dict[tuple[str, str], FitHint | None] = {}

    def find(self, device_id: DeviceId, manifest_digest: str) -> FitHint | None:
        """Return the hint for a device's release, if there is one."""
        fingerprint = self._fingerprints.get(device_id)
        if fingerprint is None:
            return None
        key = (fingerprint, manifest_digest)
        if key not in self._known:
            self._known[key] = self._read(*key)
        return self._known[key]

    def _read(self, fingerprint: str, manifest_digest: str) -> FitHint | None:
        query = (
            sa.select(release_fits.c.report_json)
            .where(
                release_fits.c.manifest_digest == manifest_digest,
                release_fits.c.fingerprint == fingerprint,
            )
            .order_by(release_fits.c.received_ms.desc())
            .limit(POOLED_MAX)
        )
        rows = self._connection.execute(query).scalars()
        return hint_of(_REPORTS.decode(text) for text in rows)


def read_hardware(
    connection: sa.Connection, devices: Sequence[DeviceId]
) -> dict[DeviceId, Hardware]:
    """Return the hardware of those devices that said what they are made of."""
    query = sa.select(
        DEVICES.c.device_id,
        DEVICES.c.machine,
        DEVICES.c.board,
        DEVICES.c.cores_count,
        DEVICES.c.memory_bytes,
    ).where(DEVICES.c.device_id.in_(devices), DEVICES.c.cores_count.is_not(None))
    return {
        DeviceId(row.device_id): Hardware(
            machine=row.machine,
            board=row.board,
            cores_count=row.cores_count,
            memory_bytes=row.memory_bytes,
        )
        for row in connection.execute(query)
    }


def _hardware_text(hardware: Hardware | None) -> str:
    if hardware is None:
        return "unknown"
    memory_gib = round(hardware.memory_bytes / _GIB)
    return f"{hardware.board}, {hardware.machine}, {hardware.cores_count} cores, {memory_gib} GiB"
