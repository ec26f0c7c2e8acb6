"""What the pages about releases and rollouts show, gathered from the services."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloud_hub.api.services import Services
from cloud_hub.candidates.candidate import Candidate
from cloud_hub.dashboard.charts import Segment, count_states, strip
from cloud_hub.releases.release import Release
from cloud_hub.rollouts.device_model import DeviceModel
from cloud_hub.rollouts.order import RolloutOrder
from cloud_hub.rollouts.rollout import (
    TRANSITIONS,
    DeviceState,
    Rollout,
    RolloutDevice,
    RolloutEvent,
    RolloutState,
)
from cloud_hub.rollouts.timeline import Entry
from cloud_hub.rollouts.view import RolloutView
from shared.ids import DeviceId, ModelName, RolloutId
from shared.plural import counted
from shared.wire.report import UpdateState

DEVICES_SHOWN = 200
ENTRIES_SHOWN = 100
ROLLOUTS_SHOWN = 30
REFUSED_SHOWN = 5
CANDIDATES_LOOKED_AT = 50
# Whom to look at first.
_URGENCY = (
    DeviceState.FAILED,
    DeviceState.UNKNOWN,
    DeviceState.UNDOING,
    DeviceState.UPDATING,
    DeviceState.TARGETED,
    DeviceState.UNDONE,
    DeviceState.UPDATED,
    DeviceState.WAITING,
    DeviceState.REMOVED,
)
_ACTS = (RolloutEvent.HOLD, RolloutEvent.RESUME, RolloutEvent.UNDO, RolloutEvent.CANCEL)
_BY_PERSON = "person"


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """One release in its model's table."""

    release: Release
    channels: tuple[str, ...]
    devices_count: int


@dataclass(frozen=True, slots=True)
class ModelSection:
    """One model with its releases."""

    name: str
    task: str
    running_count: int
    rows: tuple[ReleaseRow, ...]


@dataclass(frozen=True, slots=True)
class ReleasesView:
    """The page of releases."""

    models: tuple[ModelSection, ...]
    refused: tuple[Candidate, ...]
    devices_count: int


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One rollout in the list."""

    rollout: Rollout
    counts: Mapping[str, int]
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class WaveStrip:
    """One wave as a strip of its devices' states."""

    size: str
    text: str
    is_current: bool
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class DevicePart:
    """One device in a rollout's table."""

    part: RolloutDevice
    name: str
    progress: str | None


@dataclass(frozen=True, slots=True)
class RolloutPage:
    """One rollout's page."""

    rollout: Rollout
    possible: frozenset[str]
    counts: Mapping[str, int]
    waves: tuple[WaveStrip, ...]
    devices: tuple[DevicePart, ...]
    hidden_count: int
    silent_count: int
    entries: tuple[Entry, ...]  # Newest first
    names: Mapping[DeviceId, str]
    hold_text: str
    undo_text: str


@dataclass(frozen=True, slots=True)
class NewRolloutView:
    """The form that starts a rollout."""

    releases: tuple[Release, ...]
    chosen: str
    groups: Mapping[str, int]
    devices_count: int
    waves: str
    order: RolloutOrder  # For its defaults


def view_releases(services: Services) -> ReleasesView:
    """Return every model with its releases, and what the gate refused lately."""
    channels = services.releases.channels()
    enrolled = frozenset(services.devices.select())
    running = Counter(
        (m.model, m.version)
        for m in services.rollouts.all_device_models()
        if m.device_id in enrolled
    )
    by_model: dict[ModelName, list[Release]] = {}
    for release in services.releases.releases():
        by_model.setdefault(release.model, []).append(release)
    candidates = services.releases.candidates.candidates(limit=CANDIDATES_LOOKED_AT)
    return ReleasesView(
        models=tuple(
            ModelSection(
                name=model,
                task=services.releases.manifest(model, own[0].version).spec.task.value,
                running_count=sum(n for (name, v), n in running.items() if name == model and v),
                rows=tuple(
                    ReleaseRow(
                        release=release,
                        channels=tuple(
                            c.name.value
                            for c in channels
                            if (c.model, c.version) == (model, release.version)
                        ),
                        devices_count=running[(model, release.version)],
                    )
                    for release in sorted(own, key=_by_version, reverse=True)
                ),
            )
            for model, own in sorted(by_model.items())
        ),
        refused=tuple(c for c in candidates if not c.verdict.is_passed)[:REFUSED_SHOWN],
        devices_count=len(enrolled),
    )


def view_rollouts(services: Services) -> tuple[RolloutRow, ...]:
    """Return the newest rollouts."""
    rows = []
    for rollout in services.rollouts.list(limit=ROLLOUTS_SHOWN):
        view = services.rollouts.get(rollout.rollout_id)
        counts = count_states(device.state.value for device in view.devices)
        rows.append(RolloutRow(rollout=view.rollout, counts=counts, segments=strip(counts)))
    return tuple(rows)


def view_rollout_page(services: Services, rollout_id: RolloutId) -> RolloutPage:
    """Return one rollout. Raises RefusedError `rollout.unknown`."""
    view = services.rollouts.get(rollout_id)
    rollout = view.rollout
    names = {device.device_id: device.name for device in services.devices.list_devices()}
    reported = {
        model.device_id: model
        for model in services.rollouts.all_device_models()
        if model.model == rollout.model
    }
    entries = tuple(reversed(services.rollouts.timeline(rollout_id, limit=ENTRIES_SHOWN)))
    ranked = sorted(view.devices, key=lambda d: (_URGENCY.index(d.state), d.position))
    return RolloutPage(
        rollout=rollout,
        possible=frozenset(a.value for a in _ACTS if _is_offered(rollout, a)),
        counts=count_states(device.state.value for device in view.devices),
        waves=_wave_strips(view),
        devices=tuple(
            DevicePart(
                part=device,
                name=names.get(device.device_id, device.device_id),
                progress=_progress(device, reported.get(device.device_id)),
            )
            for device in ranked[:DEVICES_SHOWN]
        ),
        hidden_count=max(0, len(ranked) - DEVICES_SHOWN),
        silent_count=sum(d.state is DeviceState.UNKNOWN for d in view.devices),
        entries=entries,
        names=names,
        hold_text=_newest_text(entries, "held"),
        undo_text=_newest_text(entries, "undoing", "failed"),
    )


def view_new_rollout(services: Services, chosen: str) -> NewRolloutView:
    """Return the form; `chosen` is the release to begin with ("digits:3")."""
    order = RolloutOrder(model=ModelName("any"), version=1)
    return NewRolloutView(
        releases=services.releases.releases(),
        chosen=chosen,
        groups=services.devices.group_counts(),
        devices_count=len(services.devices.select()),
        waves=", ".join(str(wave) for wave in order.waves),
        order=order,
    )


def _by_version(release: Release) -> int:
    return release.version


def _is_offered(rollout: Rollout, act: RolloutEvent) -> bool:
    is_held_by_person = rollout.state is RolloutState.HELD and rollout.hold_code == _BY_PERSON
    if act is RolloutEvent.HOLD and is_held_by_person:
        return False  # Allowed, but it would change nothing.
    return (rollout.state, act) in TRANSITIONS


def _wave_strips(view: RolloutView) -> tuple[WaveStrip, ...]:
    strips = []
    is_open = view.rollout.state in (RolloutState.RUNNING, RolloutState.HELD)
    for wave in view.waves:
        own = [device.state.value for device in view.devices if device.wave == wave.index]
        counts = count_states(own)
        size = counted(wave.devices_count, "device")
        text = ", ".join(f"{count} {state}" for state, count in counts.items())
        is_current = is_open and wave.index == view.rollout.wave
        strips.append(WaveStrip(size, text, is_current, strip(counts)))
    return tuple(strips)


def _progress(device: RolloutDevice, model: DeviceModel | None) -> str | None:
    if model is None or device.state not in (DeviceState.UPDATING, DeviceState.UNDOING):
        return None
    if model.state is UpdateState.FETCHING:
        return f"fetched {model.progress * 100:.0f} %"
    if model.state is UpdateState.TRIAL:
        return f"on trial, {model.trial_items} items"
    return model.state.value


def _newest_text(entries: Sequence[Entry], *endings: str) -> str:
    """Return what the newest entry about the whole rollout with such a code says."""
    for entry in entries:
        if entry.device_id is None and entry.code.rpartition(".")[2] in endings:
            return entry.text
    return ""
