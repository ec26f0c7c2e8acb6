"""Ticker: what time brings to rollouts, once a second.

1. A tick observes, judges and plans from the database (plan.py decides), writes everything it
   decided in one transaction per rollout, and only then publishes. Killed anywhere, the next tick
   goes on; nothing is kept in memory but whether Targets must be published again.
2. A plan is made from a snapshot without locks; only if it would change anything, it is made again
   under the rollout's lock and written. Two hub processes may tick at once.
3. One rollout that the database refuses now does not stop the others.
"""

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from cloud_hub.devices.service import DeviceService
from cloud_hub.rollouts import plan as plans
from cloud_hub.rollouts import sql_rollouts, sql_snapshots, sql_targets
from cloud_hub.rollouts.draft import Snapshot
from cloud_hub.rollouts.judge import ItemTotals
from cloud_hub.rollouts.publisher import TargetPublisher
from cloud_hub.rollouts.rollout import DeviceState, Rollout
from cloud_hub.sql_database import Database
from cloud_hub.telemetry.service import TelemetryService
from cloud_hub.training.service import TrainingService
from shared.clock import Clock, now_ms
from shared.errors import TransientError
from shared.ids import DeviceId, RolloutId

log = logging.getLogger(__name__)


class Ticker:
    """See the rules above. Thread-safe."""

    def __init__(
        self,
        database: Database,
        devices: DeviceService,
        telemetry: TelemetryService,
        publisher: TargetPublisher,
        clock: Clock,
        training: TrainingService | None = None,
    ) -> None:
        """Args: training: who says what devices are to learn; None: nothing."""
        self._database = database
        self._devices = devices
        self._telemetry = telemetry
        self._publisher = publisher
        self._clock = clock
        self._training = training
        # A hub that starts may bring a new broker with it, one that retains nothing yet.
        self._must_republish = threading.Event()
        self._must_republish.set()

    def tick(self) -> None:
        """Observe, judge, plan, write, publish. Call it every second or so.

        Raises TransientError `database.unavailable` when even reading fails.
        """
        with self._database.read() as connection:
            watched = sql_rollouts.read_watched(connection)
            absorbing = sql_rollouts.read_absorbing(connection)
        active = frozenset(self._devices.select()) if watched or absorbing else frozenset()
        for rollout_id in watched:
            self._retry_later(partial(self._advance, rollout_id, active))
        for rollout in absorbing:
            self._retry_later(partial(self._absorb, rollout, active))
        self._retry_later(self._assign_learning)
        if self._must_republish.is_set():
            self._retry_later(self._republish)
        self._publisher.publish_pending()

    def on_connected(self) -> None:
        """Take note that the hub's link has connected: the next tick publishes every Target again.

        The broker may have lost what it retained. Cheap, never raises.
        """
        self._must_republish.set()

    def _republish(self) -> None:
        self._must_republish.clear()
        try:
            self._publisher.republish_all()
        except TransientError:
            self._must_republish.set()
            raise

    def _advance(self, rollout_id: RolloutId, active: Collection[DeviceId]) -> None:
        at_ms = now_ms(self._clock)
        with self._database.read() as connection:
            snapshot = sql_snapshots.read_snapshot(connection, rollout_id, active=active)
        items = self._count_items(snapshot)
        snapshot = replace(snapshot, items=items)
        if plans.advance(snapshot, now_ms=at_ms).is_empty:
            return
        with self._database.begin() as connection:
            locked = sql_snapshots.read_snapshot(
                connection, rollout_id, active=active, items=items, locked=True
            )
            plan = plans.advance(locked, now_ms=at_ms)
            sql_snapshots.apply_plan(connection, plan, now_ms=at_ms)
        log_change(locked.rollout, plan.rollout)

    def _absorb(self, rollout: Rollout, active: Collection[DeviceId]) -> None:
        members = self._devices.select(rollout.order.group)
        at_ms = now_ms(self._clock)
        with self._database.read() as connection:
            if not sql_snapshots.read_unserved(connection, rollout.rollout_id, members):
                return
        with self._database.begin() as connection:
            snapshot = sql_snapshots.read_snapshot(
                connection, rollout.rollout_id, active=active, locked=True
            )
            joined = sql_snapshots.read_unserved(connection, rollout.rollout_id, members)
            plan = plans.absorb(snapshot, joined, now_ms=at_ms)
            sql_snapshots.apply_plan(connection, plan, now_ms=at_ms)

    def _assign_learning(self) -> None:
        """Write into Targets what the Jobs that live now ask of devices; withdraw the rest."""
        if self._training is None:
            return
        orders = self._training.orders()
        with self._database.read() as connection:
            if not sql_targets.find_learning_changes(connection, orders):
                return
        at_ms = now_ms(self._clock)
        with self._database.begin() as connection:
            sql_targets.lock_learning(connection)
            orders = self._training.orders()  # Another hub may have been here meanwhile.
            changes = sql_targets.find_learning_changes(connection, orders)
            sql_targets.assign_learning(connection, changes, now_ms=at_ms)
        log.info("targets.learning_changed", extra={"devices_count": len(changes)})

    def _count_items(self, snapshot: Snapshot) -> ItemTotals | None:
        """Return what the wave decided since it has been good, if the order asks for that."""
        rollout = snapshot.rollout
        if rollout.order.bake_items_min == 0 or rollout.wave_good_ms is None:
            return None
        wave = [
            device.device_id
            for device in snapshot.devices
            if device.wave == rollout.wave and device.state is DeviceState.UPDATED
        ]
        totals = self._telemetry.window_totals(
            wave, rollout.model, rollout.release.version, rollout.wave_good_ms
        )
        return ItemTotals(
            decided=sum(total.items_decided for total in totals.values()),
            failed=sum(total.items_failed for total in totals.values()),
        )

    def _retry_later(self, step: Callable[[], None]) -> None:
        """Do one step of a tick; one that the database refuses now must not stop the others."""
        try:
            step()
        except TransientError as error:
            log.warning("rollout.delayed", extra={"code": error.code})


def log_change(before: Rollout, after: Rollout) -> None:
    """Write into the log that a rollout has another state or wave."""
    if (before.state, before.wave) == (after.state, after.wave):
        return
    log.info(
        f"rollout.{after.state}",
        extra={
            "rollout": after.rollout_id,
            "wave": after.wave + 1,
            "hold_code": after.hold_code,
        },
    )
