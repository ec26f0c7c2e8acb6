"""SourceSettings: where a pipeline's items come from, as written in the agent's TOML file.

1. `delivery` "every": each item counts; the source waits until inference has room.
   "newest": an item that inference did not take in time is replaced by the next and counted.
2. Cameras and streams are always "newest": the world does not wait. A sensor on MQTT is "every",
   behind a bounded queue of messages; when that runs over, it starts again with an empty window.
"""

import re
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from shared.settings import Settings

PathText = Annotated[str, Meta(min_length=1, max_length=4096)]
UrlText = Annotated[
    str, Meta(pattern=r"^(rtsp|rtsps|rtmp|http|https|tcp|udp)://.+", max_length=2048)
]
Rate = Annotated[float, Meta(ge=0.0, le=100_000.0)]
SamplesCount = Annotated[int, Meta(ge=1, le=4096)]
ChannelsCount = Annotated[int, Meta(ge=1, le=256)]
TimeoutSeconds = Annotated[float, Meta(ge=0.1, le=600.0)]


class Delivery(StrEnum):
    """See rule 1."""

    EVERY = "every"
    NEWEST = "newest"


class Pace(StrEnum):
    """How fast a recording is played."""

    REALTIME = "realtime"
    AS_FAST = "asfast"


class FolderSettings(Settings, frozen=True, tag="folder", tag_field="kind"):
    """The images of a folder, sorted by name."""

    path: PathText
    fps: Rate = 10.0  # 0: as fast as they are taken
    loop: bool = False
    delivery: Delivery = Delivery.EVERY


class VideoSettings(Settings, frozen=True, tag="video", tag_field="kind"):
    """A video file."""

    path: PathText
    pace: Pace = Pace.REALTIME
    loop: bool = False
    delivery: Delivery = Delivery.EVERY


class StreamSettings(Settings, frozen=True, tag="stream", tag_field="kind"):
    """A network stream: RTSP (over TCP), MJPEG or MPEG-TS over HTTP, whatever ffmpeg reads."""

    url: UrlText
    open_timeout_s: TimeoutSeconds = 10.0
    read_timeout_s: TimeoutSeconds = 5.0  # A stream that is silent for longer is opened again


class CameraSettings(Settings, frozen=True, tag="camera", tag_field="kind"):
    """A camera on this machine; 0 in `width`, `height` or `fps` leaves it at its own."""

    device: Annotated[int, Meta(ge=0, le=255)] = 0
    width: Annotated[int, Meta(ge=0, le=16384)] = 0
    height: Annotated[int, Meta(ge=0, le=16384)] = 0
    fps: Annotated[float, Meta(ge=0.0, le=1000.0)] = 0.0


class WindowSettings(Settings, frozen=True):
    """How rows become windows; the rules are in windowing.py."""

    samples: SamplesCount
    step: SamplesCount = 1  # Rows between two windows
    hold_rows_max: Annotated[int, Meta(ge=0, le=4096)] = 5
    gap_s_max: Rate = 0.0  # A longer pause between two rows empties the window; 0: never


class CsvSettings(Settings, frozen=True, tag="csv", tag_field="kind"):
    """A CSV file with a header line, replayed.

    At `rate_hz` rows a second (0: as fast as they are taken) or, where `time_column` is named, with
    the pauses of its own timestamps (seconds, or ISO 8601) divided by `speed`.
    """

    path: PathText
    columns: Annotated[tuple[str, ...], Meta(min_length=1, max_length=256)]
    window: WindowSettings
    rate_hz: Rate = 0.0
    time_column: str = ""
    speed: Annotated[float, Meta(gt=0.0, le=1e9)] = 1.0
    loop: bool = False
    delivery: Delivery = Delivery.EVERY

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.time_column and self.rate_hz:
            raise ValueError("name either time_column or rate_hz, not both")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("columns names a column twice")


class MqttSettings(Settings, frozen=True, tag="mqtt", tag_field="kind"):
    """A sensor that publishes to a broker near the device; payloads are in readings.py."""

    topic: Annotated[str, Meta(min_length=1, max_length=1024)]
    window: WindowSettings
    channels: ChannelsCount = 1
    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    username: str = ""
    password_file: str = ""
    ca_file: str = ""  # Named: TLS
    silent_s_max: Rate = 60.0  # No message for longer counts as a lost sensor; 0: never


SourceSettings = (
    FolderSettings | VideoSettings | StreamSettings | CameraSettings | CsvSettings | MqttSettings
)

_USER_INFO = re.compile(r"//[^/@]*@")


def without_password(url: str) -> str:
    """Return `url` without the user name and password that it may hold."""
    return _USER_INFO.sub("//", url)
