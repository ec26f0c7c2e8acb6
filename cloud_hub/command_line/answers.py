"""What commands read of the hub's answers. Fields they do not read are not named here.

These are the client's own: the command line talks to a hub of another version over the API only.
"""

import msgspec


class Part(msgspec.Struct, frozen=True):
    """One part of the hub."""

    name: str
    is_good: bool
    detail: str


class Hub(msgspec.Struct, frozen=True):
    """The hub."""

    version: str
    join_url: str
    broker_url: str
    started_ms: int
    now_ms: int
    is_good: bool
    parts: tuple[Part, ...]
    records_ingested: int
    rejected_by_code: dict[str, int]


class AuditEntry(msgspec.Struct, frozen=True):
    """Who did what."""

    id: int
    at_ms: int
    operator: str
    action: str
    subject: str
    detail: str
    outcome: str
    code: str


class Audit(msgspec.Struct, frozen=True):
    """Entries, newest first."""

    entries: tuple[AuditEntry, ...]


class OperatorToken(msgspec.Struct, frozen=True):
    """A new operator token."""

    name: str
    token: str


class Hardware(msgspec.Struct, frozen=True):
    """What a device is made of."""

    machine: str
    board: str
    cores_count: int
    memory_bytes: int


class Device(msgspec.Struct, frozen=True):
    """One device."""

    device_id: str
    name: str
    groups: tuple[str, ...]
    state: str
    presence: str
    presence_reason: str
    last_seen_ms: int | None
    certificate_expires_ms: int
    agent_version: str
    hardware: Hardware | None
    outbox_rows: int | None
    outbox_dropped: int | None


class Devices(msgspec.Struct, frozen=True):
    """One page of devices, each as the hub said it."""

    devices: tuple[msgspec.Raw, ...]
    next: str | None


class Failure(msgspec.Struct, frozen=True):
    """Why a device did not keep a release."""

    code: str
    text: str


class DeviceModel(msgspec.Struct, frozen=True):
    """One model on one device."""

    model: str
    state: str
    version: int
    precision: str
    target_version: int
    proof: str | None
    receipt_problem: str
    failure: Failure | None


class DeviceModels(msgspec.Struct, frozen=True):
    """What a device runs."""

    models: tuple[DeviceModel, ...]


class Pipeline(msgspec.Struct, frozen=True):
    """One pipeline of a device."""

    name: str
    model: str
    is_ordered: bool
    state: str
    detail: str
    changed_ms: int | None
    changed_by: str | None


class Pipelines(msgspec.Struct, frozen=True):
    """A device's pipelines."""

    device_id: str
    pipelines: tuple[Pipeline, ...]


class OrderedPipelines(msgspec.Struct, frozen=True):
    """Of whom a pipeline is ordered now."""

    name: str
    devices: tuple[str, ...]


class OpenToken(msgspec.Struct, frozen=True):
    """A join token that nobody used yet."""

    token_id: str
    name: str | None
    groups: tuple[str, ...]
    created_ms: int
    expires_ms: int


class OpenTokens(msgspec.Struct, frozen=True):
    """Join tokens, the one that ends first, first."""

    tokens: tuple[OpenToken, ...]


class JoinToken(msgspec.Struct, frozen=True):
    """A new join token."""

    expires_ms: int
    join_command: str


class Reason(msgspec.Struct, frozen=True):
    """One thing the gate found."""

    code: str
    text: str
    measured: str = ""
    limit: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """The gate's answer."""

    is_passed: bool
    reasons: tuple[Reason, ...]
    remarks: tuple[Reason, ...]


class Release(msgspec.Struct, frozen=True):
    """One release."""

    model: str
    version: int
    manifest_digest: str
    lineage_id: str
    created_ms: int
    precisions: tuple[str, ...]
    metrics: dict[str, float]
    notes: str
    channels: tuple[str, ...]
    verdict: Verdict | None = None


class Releases(msgspec.Struct, frozen=True):
    """Releases, newest first."""

    releases: tuple[Release, ...]


class Model(msgspec.Struct, frozen=True):
    """One model."""

    model: str
    newest_version: int
    releases_count: int
    channels: dict[str, int]


class Models(msgspec.Struct, frozen=True):
    """Every model."""

    models: tuple[Model, ...]


class Channel(msgspec.Struct, frozen=True):
    """A named pointer to a release."""

    model: str
    channel: str
    version: int


class Rollout(msgspec.Struct, frozen=True):
    """One rollout."""

    rollout_id: str
    model: str
    version: int
    state: str
    group: str | None
    waves: tuple[str, ...]
    wave: int
    wave_limits: tuple[int, ...]
    hold_code: str
    created_ms: int
    created_by: str
    notes: str
    counts: dict[str, int]


class Rollouts(msgspec.Struct, frozen=True):
    """Rollouts, newest first."""

    rollouts: tuple[Rollout, ...]


class RolloutDevice(msgspec.Struct, frozen=True):
    """One device's part in a rollout."""

    device_id: str
    wave: int
    state: str
    since_ms: int
    failure: Failure | None


class RolloutDetail(msgspec.Struct, frozen=True):
    """A rollout with its devices."""

    rollout: Rollout
    devices: tuple[RolloutDevice, ...]


class Entry(msgspec.Struct, frozen=True):
    """One line of a timeline."""

    at_ms: int
    code: str
    text: str
    by: str
    device_id: str | None


class Timeline(msgspec.Struct, frozen=True):
    """What happened, oldest first."""

    entries: tuple[Entry, ...]


class WhyPart(msgspec.Struct, frozen=True):
    """One part of an explanation: sentences, and a table."""

    heading: str
    sentences: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Why(msgspec.Struct, frozen=True):
    """Sentences that explain."""

    subject: str
    sentences: tuple[str, ...]
    parts: tuple[WhyPart, ...] = ()
