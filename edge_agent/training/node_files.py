"""Names and shapes of the files by which the agent and its learning process meet.

The agent never imports flwr or torch; the learning process never touches the agent's database.
All they share is `<state>/learning/`:

    node.json        NodeOrder: written by the agent before the process starts
    standing.json    NodeStanding: written by the process, at least every STANDING_S
    ledger.json      the privacy ledger (file_ledger.py): written by the process, read by both
    replies/         the process's own: its last answer for each Job, and what rounding lost
    personal/        the process's own: parameters that never leave the device

Every file is written whole (shared/durable_file.py).
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_agent.training.settings import LearningSettings
from shared.wire.limits import Count, LongText, Name, UnixMs

FOLDER = "learning"  # Of the state folder
ORDER = "node.json"
STANDING = "standing.json"
LEDGER = "ledger.json"
REPLIES = "replies"
PERSONAL = "personal"
STANDING_S = 1.0
FILE_BYTES_MAX = 1 << 20


class NodeOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which Jobs to learn in, with which hub, under which policy."""

    device: Name
    jobs: Annotated[tuple[Name, ...], Meta(max_length=8)]
    address: Annotated[str, Meta(max_length=300)]  # HOST:PORT of the Fleet API
    ca_path: Annotated[str, Meta(max_length=4096)]
    key_path: Annotated[str, Meta(max_length=4096)]  # The enrolment's own key
    settings: LearningSettings
    until_ms: UnixMs  # The process ends by itself then


class NodeState(StrEnum):
    """How the process stands to the hub."""

    CONNECTING = "connecting"
    ONLINE = "online"
    WORKING = "working"
    ENDED = "ended"


class NodeStanding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the process last said of itself."""

    at_ms: UnixMs
    pid: Count
    state: NodeState
    answered_ms: UnixMs = 0  # When the hub last answered a heartbeat or a pull; 0: never
    node_id: Annotated[int, Meta(ge=0)] = 0
    job: Name | None = None  # Of the message in work
    round: Count = 0
    rounds_count: Count = 0  # Answered since the process started
    text: LongText = ""  # Of the last thing that went wrong
