"""PipelineOrders: the pipelines that the hub would have devices run, beside those of their own.

1. An order is checked here with the device's own words (shared/pipeline), so that the one who
   writes it is told which field is wrong. Whether a device's owner allows it only the device says:
   its Report has the pipeline as "refused", with the reason.
2. An order is of one device. Of a group it is written once for each device that is in it now.
3. It is written, and the device's Target with it, in one transaction; then it is published.
"""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from cloud_hub.devices.service import DeviceService
from cloud_hub.rollouts import sql_pipelines
from cloud_hub.rollouts.publisher import TargetPublisher
from cloud_hub.rollouts.sql_pipelines import OrderedPipeline
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import ContractError, RefusedError
from shared.ids import NAME_CHARS_MAX, DeviceId
from shared.pipeline.pipeline import PipelineSettings, parse_pipeline
from shared.wire.target import ORDERS_MAX, PIPELINE_BYTES_MAX

ORDERS_BYTES_MAX = 160 * 1024  # Of one device in all: a Target carries 256 KiB
NAMED_MAX = 5  # Devices named in one error


class PipelineOrders:
    """See the rules above. Thread-safe."""

    def __init__(
        self, database: Database, devices: DeviceService, publisher: TargetPublisher, clock: Clock
    ) -> None:
        self._database = database
        self._devices = devices
        self._publisher = publisher
        self._clock = clock

    def set(
        self, devices: Collection[DeviceId], settings: Mapping[str, Any], *, by: str
    ) -> PipelineSettings:
        """Order one pipeline of every one of `devices`; one of the same name is replaced.

        Raises ContractError `pipeline.invalid` (naming the field) or `pipeline.too_large`;
        RefusedError `device.unknown`, `pipeline.not_active`, `pipeline.too_many`.
        """
        parsed, data = _parse(settings)
        self._check_active(devices)
        at_ms = now_ms(self._clock)
        ordered = [
            OrderedPipeline(
                device_id=device_id,
                name=parsed.name,
                settings=data,
                changed_ms=at_ms,
                changed_by=by[:NAME_CHARS_MAX],
            )
            for device_id in sorted(devices)
        ]
        with self._database.begin() as connection:
            sql_pipelines.write_pipelines(connection, ordered)
            for device_id, found in sql_pipelines.read_pipelines(connection, devices).items():
                _check_count(device_id, found)
        self._publisher.publish_pending()
        return parsed

    def remove(self, device_id: DeviceId, name: str) -> None:
        """Take an order back: a pipeline of the device's own with that name runs again.

        Raises RefusedError `device.unknown`, `pipeline.unknown`.
        """
        self._devices.get(device_id)
        with self._database.begin() as connection:
            if not sql_pipelines.delete_pipeline(connection, device_id, name):
                raise RefusedError(
                    "pipeline.unknown",
                    f"The hub orders no pipeline {name} of {device_id}.",
                    remedy="Pipelines in the device's own file are changed there.",
                )
        self._publisher.publish_pending()

    def list(self, device_id: DeviceId) -> tuple[OrderedPipeline, ...]:
        """Return what is ordered of a device, by name. Raises RefusedError `device.unknown`."""
        self._devices.get(device_id)
        with self._database.read() as connection:
            return sql_pipelines.read_pipelines(connection, [device_id]).get(device_id, ())

    def _check_active(self, devices: Collection[DeviceId]) -> None:
        for device_id in devices:
            self._devices.get(device_id)
        gone = sorted(d for d in devices if not self._devices.is_active(d))
        if gone or not devices:
            names = ", ".join(gone[:NAMED_MAX]) or "none"
            raise RefusedError(
                "pipeline.not_active",
                f"There is no device to order it of; not in the fleet any more: {names}.",
                remedy="Name devices that are enrolled, or a group that has some.",
            )


def _parse(settings: Mapping[str, Any]) -> tuple[PipelineSettings, bytes]:
    """Return an order as settings and as the bytes that travel. Raises as `set`."""
    parsed = parse_pipeline(settings)
    data = msgspec.json.encode(parsed)
    if len(data) > PIPELINE_BYTES_MAX:
        raise ContractError(
            "pipeline.too_large",
            f"The pipeline has {len(data)} bytes as JSON, over {PIPELINE_BYTES_MAX}.",
            remedy="Use fewer points, lines and zones.",
        )
    return parsed, data


def _check_count(device_id: DeviceId, ordered: tuple[OrderedPipeline, ...]) -> None:
    total = sum(len(one.settings) for one in ordered)
    if len(ordered) > ORDERS_MAX or total > ORDERS_BYTES_MAX:
        raise RefusedError(
            "pipeline.too_many",
            f"{device_id} would have {len(ordered)} ordered pipelines of {total} bytes; "
            f"{ORDERS_MAX} and {ORDERS_BYTES_MAX} are the most.",
            remedy="Take one back first.",
        )
