"""Draft: a plan while it is being made, and the values it is made of and turns into. Pure.

Every way to change a rollout, a device's place in it, or a Target is one method here, and each
writes its entry. Which of them to call is plan.py's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cloud_hub.rollouts.device_model import DeviceModel
from cloud_hub.rollouts.judge import ItemTotals, Judgement
from cloud_hub.rollouts.observe import Observation
from cloud_hub.rollouts.rollout import (
    MOVED,
    DeviceEvent,
    DeviceState,
    ReleaseRef,
    Rollout,
    RolloutDevice,
    RolloutEvent,
    next_device_state,
    next_state,
    refuse_unless_possible,
)
from cloud_hub.rollouts.timeline import HUB, Entry
from shared.ids import DeviceId, RolloutId


@dataclass(frozen=True, slots=True)
class Assigned:
    """What a device's Target names for the model; no release is a Target that asks for none."""

    release: ReleaseRef | None
    rollout_id: RolloutId


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One rollout and all that bears on it, read in one transaction."""

    rollout: Rollout
    devices: tuple[RolloutDevice, ...]
    seen: Mapping[DeviceId, DeviceModel]
    assigned: Mapping[DeviceId, Assigned]
    taken_up: frozenset[DeviceId]  # Their newest Report answers their newest Target
    active: frozenset[DeviceId]  # Enrolled and not revoked
    items: ItemTotals | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """One Target to change; no release is to ask for none."""

    device_id: DeviceId
    release: ReleaseRef | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be written, all of it or nothing."""

    rollout: Rollout
    changed: tuple[RolloutDevice, ...]
    assignments: tuple[Assignment, ...]
    entries: tuple[Entry, ...]
    is_rollout_changed: bool

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.is_rollout_changed or self.changed or self.assignments or self.entries)


@dataclass(slots=True)
class Draft:
    """A plan while it is being made."""

    snapshot: Snapshot
    now_ms: int
    rollout: Rollout = field(init=False)
    _devices: dict[DeviceId, RolloutDevice] = field(init=False)
    _changed: set[DeviceId] = field(default_factory=set)
    _assignments: dict[DeviceId, ReleaseRef | None] = field(default_factory=dict)
    _entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rollout = self.snapshot.rollout
        self._devices = {device.device_id: device for device in self.snapshot.devices}

    def finish(self) -> Plan:
        """Return the plan."""
        is_changed = self.rollout != self.snapshot.rollout
        if is_changed:
            self.rollout = replace(self.rollout, updated_ms=self.now_ms)
        rollout_id, known = self.rollout.rollout_id, self.snapshot.assigned
        return Plan(
            rollout=self.rollout,
            changed=tuple(self._devices[device_id] for device_id in sorted(self._changed)),
            assignments=tuple(
                Assignment(device_id, release)
                for device_id, release in sorted(self._assignments.items())
                if known.get(device_id) != Assigned(release, rollout_id)
            ),
            entries=tuple(self._entries),
            is_rollout_changed=is_changed,
        )

    def all_devices(self) -> list[RolloutDevice]:
        """Return every device as it stands in the draft."""
        return list(self._devices.values())

    def note(
        self,
        code: str,
        text: str,
        *,
        by: str = HUB,
        device_id: DeviceId | None = None,
        measured: float | None = None,
        limit: float | None = None,
    ) -> None:
        """Write an entry."""
        self._entries.append(
            Entry(
                rollout_id=self.rollout.rollout_id,
                at_ms=self.now_ms,
                code=code,
                text=text,
                by=by,
                device_id=device_id,
                measured=measured,
                limit=limit,
            )
        )

    def change(self, **fields: object) -> None:
        """Set fields of the rollout other than its state."""
        self.rollout = replace(self.rollout, **fields)  # type: ignore[arg-type]  # names fields

    def move(self, event: RolloutEvent, code: str, text: str, *, by: str = HUB) -> None:
        """Move the rollout by a row of its table, and write it down."""
        self.rollout = replace(self.rollout, state=next_state(self.rollout.state, event))
        self.note(code, text, by=by)

    def ask(self, event: RolloutEvent, code: str, text: str, by: str, **fields: object) -> None:
        """Move the rollout as a person asked. Raises RefusedError `rollout.cannot_<event>`."""
        refuse_unless_possible(self.rollout, event)
        self.move(event, code, text, by=by)
        self.change(**fields)

    def judged(self, event: RolloutEvent, judgement: Judgement, **fields: object) -> None:
        """Move the rollout as the judge said, with what was measured."""
        self.rollout = replace(self.rollout, state=next_state(self.rollout.state, event))
        self.change(**fields)
        self.note(
            judgement.code, judgement.text, measured=judgement.measured, limit=judgement.limit
        )

    def put(self, device: RolloutDevice) -> None:
        """Put a changed device in the place of the one it was."""
        self._devices[device.device_id] = device
        self._changed.add(device.device_id)

    def move_device(
        self, device: RolloutDevice, event: DeviceEvent, text: str, **fields: object
    ) -> None:
        """Move a device by a row of its table, and write it down."""
        state = next_device_state(device.state, event)
        self.put(replace(device, state=state, since_ms=self.now_ms, **fields))  # type: ignore[arg-type]  # names fields
        self.note(f"device.{event}", text, device_id=device.device_id)

    def take(self, device: RolloutDevice, observation: Observation) -> None:
        """Move a device as was observed."""
        match observation.event:
            case DeviceEvent.FAILED:
                count = device.failures_count + 1
                self.move_device(
                    device,
                    observation.event,
                    observation.text,
                    failure=observation.failure,
                    failures_count=count,
                )
            case DeviceEvent.FELL_SILENT if device.state is DeviceState.UNDOING:
                self.put(replace(device, is_silence_noted=True))
                self.note("device.not_back", observation.text, device_id=device.device_id)
            case _:
                self.move_device(device, observation.event, observation.text)

    def target(self, device: RolloutDevice) -> None:
        """Ask a waiting device to run the release."""
        release = self.rollout.release
        before = self._previous_of(device.device_id)
        ran = "nothing" if before is None else f"version {before.version}"
        self._assignments[device.device_id] = release
        self.move_device(
            device,
            DeviceEvent.TARGETED,
            f"Wave {device.wave + 1}: asked to run version {release.version}; it ran {ran} before.",
            targeted_ms=self.now_ms,
            previous=before,
        )

    def renew_deadline(self, device: RolloutDevice) -> None:
        """Give a device that has not answered its whole time again."""
        if device.state is DeviceState.UNKNOWN:
            text = "It gets a new deadline."
            self.move_device(device, DeviceEvent.TARGETED, text, targeted_ms=self.now_ms)
        else:
            self.put(replace(device, targeted_ms=self.now_ms))

    def excuse(self, device: RolloutDevice, text: str, by: str) -> None:
        """Count a device no more."""
        self.put(replace(device, is_excused=True))
        self.note("device.excused", text, by=by, device_id=device.device_id)

    def send_back(self, device: RolloutDevice) -> None:
        """Ask a device to run what it ran before, if its Target names this rollout's release."""
        assigned = self.snapshot.assigned.get(device.device_id)
        names_ours = assigned is not None and assigned.release == self.rollout.release
        if device.state not in MOVED or not names_ours:
            return
        if device.previous is None and device.state is DeviceState.UPDATED:
            return  # Nothing to go back to; see rule 7 of rollout.py.
        before = device.previous
        self._assignments[device.device_id] = before
        to = (
            "to run nothing, as" if before is None else f"to run version {before.version} again, as"
        )
        self.move_device(device, DeviceEvent.SENT_BACK, f"Asked {to} before.")

    def _previous_of(self, device_id: DeviceId) -> ReleaseRef | None:
        """Return what the device goes back to if this rollout is undone.

        What it has proved that it runs, if it has answered its newest Target. A silent one may
        still be on its way back from an older rollout: then what it was asked to run counts.
        """
        seen = self.snapshot.seen.get(device_id)
        proved = seen.running if seen is not None and seen.proof is not None else None
        if proved is not None and device_id in self.snapshot.taken_up:
            return proved
        assigned = self.snapshot.assigned.get(device_id)
        asked = assigned.release if assigned is not None else None
        return proved if asked == self.rollout.release else asked or proved
