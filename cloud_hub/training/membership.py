"""Membership: who takes part in which live Job now. A shell over the database and the devices.

A device takes part while it was planned with, belongs to the fleet, and, where the order names a
group, is still in it. Whoever comes into the group later is of the next Job.
"""

from collections.abc import Iterable, Mapping

from cryptography.hazmat.primitives import serialization

from cloud_hub.devices.service import DeviceService
from cloud_hub.sql_database import Database
from cloud_hub.training import sql_jobs
from cloud_hub.training.job import JobId
from cloud_hub.training.record import JobRecord
from shared.errors import RefusedError
from shared.ids import DeviceId


class Membership:
    """See the rules above. Safe to share between threads."""

    def __init__(self, database: Database, devices: DeviceService) -> None:
        self._database = database
        self._devices = devices
        self._keys: dict[DeviceId, str] = {}  # A device keeps its key for life

    def members(self, records: Iterable[JobRecord]) -> Mapping[JobId, tuple[DeviceId, ...]]:
        """Return who takes part in each of these Jobs, in order of id."""
        group_of = {record.job.job_id: record.job.order.group for record in records}
        if not group_of:
            return {}
        active = {group: frozenset(self._devices.select(group)) for group in {*group_of.values()}}
        with self._database.read() as connection:
            planned = sql_jobs.read_plan_devices(connection, list(group_of))
        return {
            job_id: tuple(d for d in planned[job_id] if d in active[group])
            for job_id, group in group_of.items()
        }

    def keys(self, members: Iterable[DeviceId]) -> Mapping[DeviceId, str]:
        """Return the public keys of devices, as PEM; those of no known key are left out."""
        known = {}
        for device_id in set(members):
            pem = self._keys.get(device_id) or self._read_key(device_id)
            if pem is not None:
                known[device_id] = pem
        self._keys = known  # Only of who is asked about: it stays as small as the live Jobs
        return known

    def _read_key(self, device_id: DeviceId) -> str | None:
        try:
            key = self._devices.public_key(device_id)
        except RefusedError:
            return None
        return key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
