"""What commands read of the hub's answers about Jobs; see answers.py."""

import msgspec


class Order(msgspec.Struct, frozen=True):
    """What commands read of an order."""

    is_released: bool


class Job(msgspec.Struct, frozen=True):
    """One Job."""

    job_id: str
    model: str
    state: str
    outcome: str | None
    code: str
    sentence: str
    checkpoint_id: str
    result_checkpoint_id: str | None
    candidate_id: str | None
    release_version: int | None
    rounds: int
    rounds_done: int
    created_ms: int
    created_by: str
    order: Order


class Jobs(msgspec.Struct, frozen=True):
    """Jobs, newest first."""

    jobs: tuple[Job, ...]


class JobDevice(msgspec.Struct, frozen=True):
    """One device's part."""

    device_id: str
    state: str | None
    sentence: str
    rounds_answered: int
    updates_refused: int
    bytes_up: int
    accuracy_before: float | None
    accuracy_after: float | None


class JobDevices(msgspec.Struct, frozen=True):
    """Every device of a Job."""

    devices: tuple[JobDevice, ...]


class Distribution(msgspec.Struct, frozen=True):
    """Values of the devices that told."""

    count: int
    mean: float
    minimum: float
    quartile_1: float
    median: float
    quartile_3: float
    maximum: float


class Accuracy(msgspec.Struct, frozen=True):
    """Accuracy per device before and after, as a distribution; None: no device told."""

    devices_count: int
    before: Distribution | None
    after: Distribution | None
    change: Distribution | None
    worse_count: int


class Round(msgspec.Struct, frozen=True):
    """One Round."""

    round: int
    devices_asked: int
    devices_counted: int
    devices_refused: int
    devices_silent: int
    bytes_up: int
    loss: float | None
    accuracy: float | None
    epsilon: float | None


class Rounds(msgspec.Struct, frozen=True):
    """Rounds, first to last."""

    rounds: tuple[Round, ...]


class JobEvent(msgspec.Struct, frozen=True):
    """One thing that happened."""

    number: int
    at_ms: int
    code: str
    device: str | None
    sentence: str


class JobEvents(msgspec.Struct, frozen=True):
    """What happened, oldest first."""

    events: tuple[JobEvent, ...]
