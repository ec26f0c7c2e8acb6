"""RolloutController: moves devices from release to release. The only writer of Targets.

1. What a person asks is planned (plan.py decides) and written in one transaction, under the
   rollout's lock; only then it is published. What time brings is ticker.py's.
2. Nothing is kept in memory: killed anywhere, the next tick of any hub process goes on.
3. Services and signatures come before a transaction, never within one.
"""

import logging
from collections.abc import Callable, Collection
from functools import partial

from cloud_hub.devices.presence import PresenceState
from cloud_hub.devices.service import DeviceService
from cloud_hub.releases.service import ReleaseService
from cloud_hub.rollouts import plan as plans
from cloud_hub.rollouts import (
    sql_fits,
    sql_history,
    sql_reports,
    sql_rollouts,
    sql_snapshots,
    sql_timeline,
)
from cloud_hub.rollouts.device_model import DeviceModel
from cloud_hub.rollouts.draft import Plan
from cloud_hub.rollouts.fits import PooledFit, pool
from cloud_hub.rollouts.intake import ReportIntake
from cloud_hub.rollouts.order import RolloutOrder, check_order
from cloud_hub.rollouts.pipeline_orders import PipelineOrders
from cloud_hub.rollouts.publisher import TargetPublisher
from cloud_hub.rollouts.rollout import (
    ReleaseRef,
    Rollout,
    RolloutDevice,
    RolloutState,
)
from cloud_hub.rollouts.sql_reports import DeviceReport
from cloud_hub.rollouts.ticker import Ticker, log_change
from cloud_hub.rollouts.timeline import Entry, ReceiptFact
from cloud_hub.rollouts.view import RolloutView, view_rollout
from cloud_hub.rollouts.waves import sort_devices, wave_limits, wave_of
from cloud_hub.sql_database import Database
from cloud_hub.telemetry.service import TelemetryService
from cloud_hub.training.service import TrainingService
from shared.clock import Clock, now_ms
from shared.errors import RefusedError
from shared.ids import NAME_CHARS_MAX, DeviceId, ModelName, RolloutId, new_rollout_id
from shared.link.link import Link
from shared.plural import counted
from shared.wire.codec import Received

log = logging.getLogger(__name__)

OPERATOR = "operator"  # Who, when the caller does not say
NAMED_MAX = 5  # Devices named in one error


class RolloutController:
    """See the rules above. Thread-safe."""

    def __init__(
        self,
        database: Database,
        devices: DeviceService,
        telemetry: TelemetryService,
        releases: ReleaseService,
        link: Link,
        clock: Clock,
        training: TrainingService | None = None,
    ) -> None:
        """Args: training: who says what devices are to learn; None: they learn nothing."""
        self._database = database
        self._devices = devices
        self._releases = releases
        self._clock = clock
        self._intake = ReportIntake(database, devices, releases, clock, training)
        self._publisher = TargetPublisher(database, devices, link, clock)
        self.pipelines = PipelineOrders(database, devices, self._publisher, clock)
        self._ticker = Ticker(database, devices, telemetry, self._publisher, clock, training)

    # What people ask

    def start(self, order: RolloutOrder, *, by: str = OPERATOR) -> Rollout:
        """Start a rollout and target its first wave.

        Raises ContractError `rollout.order` or `rollout.waves` (naming the field); RefusedError
        `release.unknown`, `rollout.no_devices`, `rollout.device_not_active`, `rollout.busy`.
        """
        check_order(order)
        release = self._releases.get(order.model, order.version)
        active = frozenset(self._devices.select())
        rollout_id = new_rollout_id()
        ordered = self._choose(order, active, rollout_id)
        limits = wave_limits(order.waves, len(ordered))
        at_ms = now_ms(self._clock)
        rollout = Rollout(
            rollout_id=rollout_id,
            order=order,
            release=ReleaseRef(release.version, release.manifest_digest),
            state=RolloutState.RUNNING,
            wave=0,
            wave_limits=limits,
            created_ms=at_ms,
            created_by=by[:NAME_CHARS_MAX],
            updated_ms=at_ms,
        )
        places = [
            RolloutDevice(device_id=d, position=i, wave=wave_of(i, limits), since_ms=at_ms)
            for i, d in enumerate(ordered)
        ]
        with self._database.begin() as connection:
            sql_rollouts.lock_model(connection, order.model, now_ms=at_ms)
            _refuse_overlap(
                sql_rollouts.find_overlap(connection, order.model, ordered), order.model
            )
            sql_rollouts.insert_rollout(connection, rollout, places)
            snapshot = sql_snapshots.read_snapshot(connection, rollout.rollout_id, active=active)
            plan = plans.start(snapshot, now_ms=at_ms, by=rollout.created_by)
            sql_snapshots.apply_plan(connection, plan, now_ms=at_ms)
        log.info(
            "rollout.started",
            extra={
                "rollout": rollout.rollout_id,
                "release": f"{order.model}:{order.version}",
                "devices_count": len(ordered),
            },
        )
        self._publisher.publish_pending()
        return plan.rollout

    def hold(self, rollout_id: RolloutId, *, why: str = "", by: str = OPERATOR) -> Rollout:
        """Move nobody else until someone resumes. Raises RefusedError `rollout.cannot_hold`."""
        return self._act(rollout_id, partial(plans.hold, why=why, by=by))

    def resume(
        self,
        rollout_id: RolloutId,
        *,
        why: str = "",
        by: str = OPERATOR,
        excuse_silent: bool = False,
    ) -> Rollout:
        """Go on: failed devices are excused; silent ones get a new deadline, or are excused too.

        Raises RefusedError `rollout.cannot_resume`.
        """
        return self._act(
            rollout_id, partial(plans.resume, why=why, by=by, excuse_silent=excuse_silent)
        )

    def undo(self, rollout_id: RolloutId, *, why: str = "", by: str = OPERATOR) -> Rollout:
        """Send every device back to what it ran before; also after the rollout is done.

        Raises RefusedError `rollout.cannot_undo`, `rollout.busy`.
        """
        with self._database.read() as connection:
            rollout = sql_rollouts.read_rollout(connection, rollout_id)
            devices = [d.device_id for d in sql_rollouts.read_devices(connection, rollout_id)]
            overlap = sql_rollouts.find_overlap(
                connection, rollout.model, devices, other_than=rollout_id
            )
        _refuse_overlap(overlap, rollout.model)
        return self._act(rollout_id, partial(plans.undo, why=why, by=by))

    def cancel(self, rollout_id: RolloutId, *, why: str = "", by: str = OPERATOR) -> Rollout:
        """Stop where it stands: who proved the release keeps it, others go back.

        Raises RefusedError `rollout.cannot_cancel`.
        """
        return self._act(rollout_id, partial(plans.cancel, why=why, by=by))

    # What people look at

    def get(self, rollout_id: RolloutId) -> RolloutView:
        """Return one rollout with its waves and devices. Raises RefusedError `rollout.unknown`."""
        with self._database.read() as connection:
            rollout = sql_rollouts.read_rollout(connection, rollout_id)
            return view_rollout(rollout, sql_rollouts.read_devices(connection, rollout_id))

    def list(
        self, model: ModelName | None = None, *, limit: int = sql_rollouts.LISTED_MAX
    ) -> tuple[Rollout, ...]:
        """Return rollouts, newest first."""
        with self._database.read() as connection:
            return sql_rollouts.read_rollouts(connection, model=model, limit=limit)

    def timeline(
        self, rollout_id: RolloutId, *, limit: int = sql_timeline.LISTED_MAX
    ) -> tuple[Entry, ...]:
        """Return the newest entries, oldest first. Raises RefusedError `rollout.unknown`."""
        with self._database.read() as connection:
            sql_rollouts.read_rollout(connection, rollout_id)
            return sql_timeline.read_entries(connection, rollout_id, limit=limit)

    def why(self, device_id: DeviceId, model: ModelName | None = None) -> tuple[str, ...]:
        """Return in sentences what a device runs, how it proved it, and how it came to it.

        Of one model, or of every model that it reports on or that a rollout asked it to run.
        Raises RefusedError `device.unknown`.
        """
        self._devices.get(device_id)
        with self._database.read() as connection:
            return sql_history.explain(connection, device_id, model)

    def device_models(self, device_id: DeviceId) -> tuple[DeviceModel, ...]:
        """Return what a device's newest Report says of each model."""
        with self._database.read() as connection:
            return sql_reports.read_models(connection, device_id)

    def all_device_models(self) -> tuple[DeviceModel, ...]:
        """Return what every device's newest Report says of each model, in order of device."""
        with self._database.read() as connection:
            return sql_reports.read_all_models(connection)

    def device_report(self, device_id: DeviceId) -> DeviceReport | None:
        """Return a device's newest Report, its models apart: pipelines, and when it came."""
        with self._database.read() as connection:
            return sql_reports.read_report(connection, device_id)

    def receipts(
        self, device_id: DeviceId, *, model: ModelName | None = None, limit: int = 100
    ) -> tuple[ReceiptFact, ...]:
        """Return a device's newest verified receipts first."""
        with self._database.read() as connection:
            return sql_reports.read_receipts(connection, device_id, model=model, limit=limit)

    def releases_at(self, device_id: DeviceId, at_ms: int) -> tuple[ReceiptFact, ...]:
        """Return what a device had proved that it ran at `at_ms`: one receipt for each model."""
        with self._database.read() as connection:
            return sql_reports.read_releases_at(connection, device_id, at_ms)

    def count_receipts(self, rollout_id: RolloutId | None = None) -> int:
        """Return how many receipts were verified, for one rollout or ever."""
        with self._database.read() as connection:
            return sql_reports.count_receipts(connection, rollout_id)

    def fits(self, model: ModelName, version: int) -> tuple[PooledFit, ...]:
        """Return what devices measured of a release, by hardware; most devices first.

        Raises RefusedError `release.unknown`.
        """
        release = self._releases.get(model, version)
        with self._database.read() as connection:
            return pool(sql_fits.read_fits(connection, release.manifest_digest))

    @property
    def pending(self) -> int:
        """Return how many devices' newest Target was not handed to the link yet."""
        return self._publisher.count_pending()

    # What the hub does

    def on_report(self, received: Received) -> None:
        """Store a device's Report, if it is newer than what is known of the device.

        Raises RefusedError `device.not_active`; ContractError `report.duplicate_model`,
        `report.unstorable`; TransientError `database.unavailable`.
        """
        self._intake.take(received)

    def tick(self) -> None:
        """Observe, judge, plan, write, publish. Call it every second or so. See Ticker.tick."""
        self._ticker.tick()

    def on_connected(self) -> None:
        """Take note that the hub's link has connected. See Ticker.on_connected."""
        self._ticker.on_connected()

    def republish_all(self) -> int:
        """Publish every device's Target again now; return how many devices have one.

        Raises TransientError `database.unavailable`.
        """
        return self._publisher.republish_all()

    def _act(self, rollout_id: RolloutId, make: Callable[..., Plan]) -> Rollout:
        active = frozenset(self._devices.select())
        at_ms = now_ms(self._clock)
        with self._database.begin() as connection:
            snapshot = sql_snapshots.read_snapshot(
                connection, rollout_id, active=active, locked=True
            )
            plan = make(snapshot, now_ms=at_ms)
            sql_snapshots.apply_plan(connection, plan, now_ms=at_ms)
        log_change(snapshot.rollout, plan.rollout)
        self._publisher.publish_pending()
        return plan.rollout

    def _choose(
        self, order: RolloutOrder, active: Collection[DeviceId], rollout_id: RolloutId
    ) -> tuple[DeviceId, ...]:
        """Return the devices of an order, as they go. Raises RefusedError."""
        missing = [device_id for device_id in order.devices if device_id not in active]
        if missing:
            names = ", ".join(missing[:NAMED_MAX])
            raise RefusedError(
                "rollout.device_not_active",
                f"{len(missing)} of the devices are unknown or revoked: {names}.",
                remedy="Leave them out.",
            )
        if order.devices:
            return order.devices
        members = self._devices.select(order.group)
        if not members:
            whom = f"Group {order.group}" if order.group else "The fleet"
            raise RefusedError(
                "rollout.no_devices",
                f"{whom} has no devices.",
                remedy="Put devices into the group first, or name devices.",
            )
        online = {
            device.device_id
            for device in self._devices.list_devices()
            if device.presence is PresenceState.ONLINE
        }
        return sort_devices(members, online=online, rollout_id=rollout_id)


def _refuse_overlap(overlap: tuple[RolloutId, int] | None, model: ModelName) -> None:
    if overlap is None:
        return
    other, count = overlap
    raise RefusedError(
        "rollout.busy",
        f"Rollout {other} of {model} is not finished, and shares "
        f"{counted(count, 'device')} with this one.",
        remedy=f"Undo or cancel {other} first, or name other devices.",
    )
