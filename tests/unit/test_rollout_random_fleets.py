"""Whatever devices, time and people do, some things never happen. Hypothesis looks for them."""

import math
from enum import StrEnum

from hypothesis import event, given
from hypothesis import strategies as st

from cloud_hub.rollouts import plan as plans
from cloud_hub.rollouts.order import FailureLimit
from cloud_hub.rollouts.rollout import (
    TRANSITIONS,
    DeviceState,
    RolloutEvent,
    RolloutState,
)
from shared.ids import DeviceId
from shared.wire.report import UpdateState
from tests.support.rollout_world import NEW, OLD, RolloutWorld

DEVICES_MAX = 7


class Act(StrEnum):
    PROVES = "proves"
    CLAIMS = "claims"  # Says it runs the release; no receipt
    TRIES = "tries"
    FAILS = "fails"
    GOES_BACK = "goes back"
    REVOKED = "revoked"
    TAKES_UP = "takes up"  # Has heard the newest Target, changes nothing else


class Wish(StrEnum):
    HOLD = "hold"
    RESUME = "resume"
    RESUME_WITHOUT_SILENT = "resume without silent"
    UNDO = "undo"
    CANCEL = "cancel"


ACTS = st.tuples(st.integers(0, DEVICES_MAX - 1), st.sampled_from(Act))
STEPS = st.one_of(
    st.lists(ACTS, min_size=1, max_size=DEVICES_MAX),
    st.just((("all", Act.PROVES),)),
    st.sampled_from([1.0, 11.0, 101.0]),
    st.sampled_from(Wish),
)
ORDERS = st.fixed_dictionaries(
    {
        "failure_limit": st.builds(
            FailureLimit, share_max=st.sampled_from([0.0, 0.1, 0.5]), count_min=st.integers(1, 3)
        ),
        "success_share_min": st.sampled_from([0.5, 0.9, 1.0]),
        "unknown_share_max": st.sampled_from([0.0, 0.3]),
        "bake_s": st.sampled_from([0.0, 10.0]),
        "undo_on_failure": st.booleans(),
    }
)
WAVES = st.sampled_from([("1", "25%", "100%"), ("100%",), ("2", "50%", "100%"), ("1", "2", "7")])


@given(st.integers(1, DEVICES_MAX), WAVES, ORDERS, st.lists(STEPS, max_size=40))
def test_no_fleet_leads_a_rollout_astray(
    count: int, waves: tuple[str, ...], order: dict[str, object], steps: list[object]
) -> None:
    world = RolloutWorld(count, waves=waves, **order)
    check(world, RolloutState.RUNNING)
    for step in steps:
        before = world.state
        take(world, step)
        for _ in range(2):  # The second finds nothing left, or one state further on.
            world.advance()
            check(world, before)
            before = world.state
        if world.state is RolloutState.RUNNING:
            continue
        assert world.advance().is_empty
    event(world.state)


def take(world: RolloutWorld, step: object) -> None:
    match step:
        case float(seconds):
            world.wait(seconds)
        case Wish():
            wish(world, step)
        case list() | tuple():
            for who, act in step:
                ids = world.ids if who == "all" else world.ids[who : who + 1]
                for device_id in ids:
                    act_on(world, device_id, act)


def act_on(world: RolloutWorld, device_id: DeviceId, act: Act) -> None:
    asked = world.assigned[device_id].release
    match act:
        case Act.PROVES if asked is not None:
            world.runs(device_id, asked)
        case Act.CLAIMS if asked is not None:
            world.runs(device_id, asked, proof=None)
        case Act.TRIES if asked is not None:
            world.runs(device_id, OLD, state=UpdateState.TRIAL)
        case Act.FAILS if asked == NEW:
            world.fails(device_id)
        case Act.GOES_BACK:
            world.runs(device_id, OLD)
        case Act.REVOKED:
            world.active.discard(device_id)
        case Act.TAKES_UP:
            world.taken_up.add(device_id)
        case _:
            pass


def wish(world: RolloutWorld, wish: Wish) -> None:
    """Do what a person asks, where it is possible."""
    snapshot, now_ms = world.snapshot(), world.now_ms
    asked = {
        Wish.HOLD: RolloutEvent.HOLD,
        Wish.RESUME: RolloutEvent.RESUME,
        Wish.RESUME_WITHOUT_SILENT: RolloutEvent.RESUME,
        Wish.UNDO: RolloutEvent.UNDO,
        Wish.CANCEL: RolloutEvent.CANCEL,
    }
    if (world.state, asked[wish]) not in TRANSITIONS:
        return
    match wish:
        case Wish.HOLD:
            made = plans.hold(snapshot, now_ms=now_ms, why="", by="ada")
        case Wish.RESUME | Wish.RESUME_WITHOUT_SILENT:
            excused = wish is Wish.RESUME_WITHOUT_SILENT
            made = plans.resume(snapshot, now_ms=now_ms, why="", by="ada", excuse_silent=excused)
        case Wish.UNDO:
            made = plans.undo(snapshot, now_ms=now_ms, why="", by="ada")
        case Wish.CANCEL:
            made = plans.cancel(snapshot, now_ms=now_ms, why="", by="ada")
    world.apply(made)


def check(world: RolloutWorld, before: RolloutState) -> None:
    rollout, devices = world.rollout, list(world.devices.values())
    counted = [d for d in devices if not d.is_excused and d.state is not DeviceState.REMOVED]
    moved = [d for d in counted if d.state is not DeviceState.WAITING]
    # Never more than the waves allow.
    assert len(moved) <= rollout.wave_limits[rollout.wave]
    assert all(d.wave <= rollout.wave for d in moved)
    # Who was not moved has the Target it had.
    for device in devices:
        if device.state is DeviceState.WAITING:
            assert world.assigned[device.device_id].release == OLD
    # Updated means proved.
    if rollout.state in (RolloutState.RUNNING, RolloutState.HELD):
        for device in devices:
            if device.state is DeviceState.UPDATED:
                assert world.seen[device.device_id].has_settled(NEW)
    if rollout.state is RolloutState.DONE and before is not RolloutState.DONE:
        check_done(world, len(counted))
    # Undone means that nobody who still belongs to the fleet is asked to run it.
    if rollout.state is RolloutState.UNDONE:
        for device in devices:
            if device.state is not DeviceState.REMOVED:
                assert world.assigned[device.device_id].release == OLD
    # An entry for every change of state.
    if rollout.state is not before:
        assert world.entries[-1].text


def check_done(world: RolloutWorld, counted: int) -> None:
    order = world.order
    updated = [d for d in world.devices.values() if d.state is DeviceState.UPDATED]
    proved = [d for d in updated if not d.is_excused]
    assert all(world.seen[d.device_id].has_settled(NEW) for d in updated)
    answered_min = counted - math.floor(order.unknown_share_max * counted + 1e-9)
    assert len(proved) >= math.ceil(order.success_share_min * answered_min - 1e-9)
    assert len(proved) >= 1
    counting = [
        d for d in world.devices.values() if not d.is_excused and d.state is not DeviceState.REMOVED
    ]
    failed = sum(d.failures_count > 0 for d in counting)
    if failed >= order.failure_limit.count_min:
        assert failed <= order.failure_limit.share_max * counted
