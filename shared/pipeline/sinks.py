"""SinkSettings: who is told what a pipeline decides.

1. "hub": numbers and decisions for the hub, over the outbox. "jsonl": a file. "mqtt": a broker near
   the device. "webhook": an HTTP address. "snapshots" and "clips": pictures kept on the device, in
   a folder of the pipeline's name under `path`; what caps the disk says holds for that folder.
2. Pictures and local addresses are the device owner's matter: what a hub may order of them stands
   in the device's own file.
"""

from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from shared.pipeline.sources import Port, TopicText
from shared.settings import Settings
from shared.wire.limits import ShortText

FolderText = Annotated[str, Meta(min_length=1, max_length=4096)]
WebUrlText = Annotated[str, Meta(pattern=r"^https?://[!-~]+\Z", max_length=2048)]
SinkSeconds = Annotated[float, Meta(ge=0.0, le=86_400.0)]
DiskBytes = Annotated[int, Meta(ge=1 << 20, le=1 << 44)]


class Which(StrEnum):
    """Which decisions are told."""

    ALL = "all"
    CHANGES = "changes"  # When the conclusion is another one, and once per repeat_s
    NONE = "none"


class HubSinkSettings(Settings, frozen=True, tag="hub", tag_field="kind"):
    """Which decisions the hub is told."""

    which: Which = Which.CHANGES
    repeat_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 60.0


class FileSinkSettings(Settings, frozen=True, tag="jsonl", tag_field="kind"):
    """Where decisions are written, and how much of it is kept."""

    path: str
    bytes_max: Annotated[int, Meta(ge=4096, le=1 << 40)] = 16 << 20  # Of one file
    files_max: Annotated[int, Meta(ge=1, le=1000)] = 4


class MqttSinkSettings(Settings, frozen=True, tag="mqtt", tag_field="kind"):
    """Decisions as JSON on a broker near the device: `<prefix>/<device>/<pipeline>/...`."""

    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Port = 1883
    username: str = ""
    password_file: str = ""
    ca_file: str = ""  # Named: TLS
    prefix: TopicText = "isthmus"
    which: Which = Which.CHANGES
    repeat_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 60.0
    # Home Assistant finds the pipeline by itself, under this topic (there it is "homeassistant");
    # empty: not told.
    discovery_prefix: Annotated[str, Meta(max_length=256)] = ""

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        for topic in (self.prefix, self.discovery_prefix):
            if any(char in topic for char in "+#\0") or topic.startswith("$"):
                raise ValueError("a prefix is a plain topic: no +, no # and no $ at its start")


class WebhookSinkSettings(Settings, frozen=True, tag="webhook", tag_field="kind"):
    """Decisions as JSON to an HTTP address, again and again until it takes them."""

    url: WebUrlText
    which: Which = Which.CHANGES
    repeat_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 60.0
    token_file: str = ""  # Its content goes along as "Authorization: Bearer ..."
    ca_file: str = ""
    timeout_s: Annotated[float, Meta(ge=0.1, le=120.0)] = 10.0
    queue_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000  # Past that the oldest go, counted
    age_s_max: SinkSeconds = 3600.0  # Older ones are not worth telling any more; 0: always

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        url = urlsplit(self.url)
        if not url.hostname:
            raise ValueError("url names no host")
        if url.username is not None or url.password is not None:
            raise ValueError("url must hold no password: put a token into token_file")
        _ = url.port  # Raises ValueError for one that is none


class SnapshotSinkSettings(Settings, frozen=True, tag="snapshots", tag_field="kind"):
    """Annotated frames as JPEG files, under a cap of the disk."""

    path: FolderText
    labels: Annotated[tuple[ShortText, ...], Meta(max_length=64)] = ()  # Empty: every conclusion
    confidence_min: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5
    interval_s: SinkSeconds = 5.0  # At most one in this time
    bytes_max: DiskBytes = 256 << 20  # Of the pipeline's folder; the oldest go
    age_s_max: Annotated[float, Meta(ge=60.0, le=31_536_000.0)] = 7 * 86_400.0
    free_bytes_min: DiskBytes = 512 << 20  # Nothing is written where less is free
    quality: Annotated[int, Meta(ge=1, le=100)] = 85


class ClipSinkSettings(Settings, frozen=True, tag="clips", tag_field="kind"):
    """Short videos around what was seen, under a cap of the disk."""

    path: FolderText
    labels: Annotated[tuple[ShortText, ...], Meta(max_length=64)] = ()
    confidence_min: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5
    before_s: Annotated[float, Meta(ge=0.0, le=30.0)] = 3.0
    after_s: Annotated[float, Meta(ge=0.5, le=60.0)] = 5.0
    clip_s_max: Annotated[float, Meta(ge=1.0, le=600.0)] = 60.0
    fps: Annotated[float, Meta(ge=1.0, le=60.0)] = 5.0
    side_max: Annotated[int, Meta(ge=64, le=4096)] = 640  # Pixels of the longer side
    annotated: bool = True  # With what was concluded drawn on it
    memory_bytes_max: Annotated[int, Meta(ge=1 << 20, le=1 << 30)] = 16 << 20  # Frames held back
    bytes_max: DiskBytes = 512 << 20
    age_s_max: Annotated[float, Meta(ge=60.0, le=31_536_000.0)] = 7 * 86_400.0
    free_bytes_min: DiskBytes = 512 << 20


SinkSettings = (
    HubSinkSettings
    | FileSinkSettings
    | MqttSinkSettings
    | WebhookSinkSettings
    | SnapshotSinkSettings
    | ClipSinkSettings
)
