"""SourceSettings: where a pipeline's items come from.

1. `delivery` "every": each item counts; the source waits until inference has room.
   "newest": an item that inference did not take in time is replaced by the next and counted.
2. Cameras and streams are always "newest": the world does not wait. Sensors and texts on MQTT are
   "every", behind a bounded queue of messages; when that runs over, they start again with empty
   windows. Host readings and Modbus registers are "every" too: what is not polled is not missed.
3. A topic with a level {sensor} ("plant/{sensor}/vibration") is of many sensors: that level names
   each, and windows that are complete together go through the model together.
4. Resampling, where it is asked for: irregular rows become rows at a fixed rate; see resampling.py.
5. A recording whose every item counts begins when a model serves, and pauses while none does: it
   has no time of its own that would go on without it. Everything else is captured when it comes.
"""

import re
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from shared.settings import Settings
from shared.wire.limits import Number

PathText = Annotated[str, Meta(min_length=1, max_length=4096)]
# Nothing else of /dev: to open some devices does something (a watchdog).
CameraPath = Annotated[
    str, Meta(pattern=r"^/dev/(video[0-9]{1,3}|v4l/by-(id|path)/[^/]+)$", max_length=512)
]
UrlText = Annotated[
    str, Meta(pattern=r"^(rtsp|rtsps|rtmp|http|https|tcp|udp)://.+", max_length=2048)
]
Rate = Annotated[float, Meta(ge=0.0, le=100_000.0)]
SamplesCount = Annotated[int, Meta(ge=1, le=4096)]
ChannelsCount = Annotated[int, Meta(ge=1, le=256)]
TimeoutSeconds = Annotated[float, Meta(ge=0.1, le=600.0)]
Port = Annotated[int, Meta(ge=1, le=65535)]
TopicText = Annotated[str, Meta(min_length=1, max_length=1024)]
HostText = Annotated[str, Meta(min_length=1, max_length=253)]
PollRate = Annotated[float, Meta(gt=0.0, le=1000.0)]

SENSOR_LEVEL = "{sensor}"
SENSORS_MAX = 65_536
RINGS_BYTES_MAX = 1 << 30  # All windows of one source together
RESAMPLED_ROWS_MAX = 65_536  # Between two readings: rate_hz x gap_s_max
MODBUS_CHANNELS_MAX = 256


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
    # At least so often its size is asked for, over a second connection for a moment; MJPEG needs
    # none. 0: never, for a camera that takes one connection only.
    size_check_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 600.0


class CameraSettings(Settings, frozen=True, tag="camera", tag_field="kind"):
    """A camera on this machine; 0 in `width`, `height` or `fps` leaves it at its own.

    `device` is N of /dev/videoN, or a path ("/dev/v4l/by-id/..." stays when others are plugged in).
    """

    device: Annotated[int, Meta(ge=0, le=255)] | CameraPath = 0
    width: Annotated[int, Meta(ge=0, le=16384)] = 0
    height: Annotated[int, Meta(ge=0, le=16384)] = 0
    fps: Annotated[float, Meta(ge=0.0, le=1000.0)] = 0.0


class WindowSettings(Settings, frozen=True):
    """How rows become windows; the rules are in windowing.py."""

    samples: SamplesCount
    step: SamplesCount = 1  # Rows between two windows
    hold_rows_max: Annotated[int, Meta(ge=0, le=4096)] = 5
    gap_s_max: Rate = 0.0  # A longer pause between two rows empties the window; 0: never


class ResampleMethod(StrEnum):
    """How a row at a fixed time is made of readings at others."""

    LINEAR = "linear"  # Between the reading before and the one after
    HOLD = "hold"  # The reading before
    MEAN = "mean"  # Of the readings since the row before; a row without any is missing


class ResampleSettings(Settings, frozen=True):
    """Rows at a fixed rate out of readings at any time; the rules are in resampling.py."""

    rate_hz: PollRate
    method: ResampleMethod = ResampleMethod.LINEAR
    gap_s_max: Annotated[float, Meta(gt=0.0, le=86_400.0)] = 10.0  # A longer pause cuts

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.rate_hz * self.gap_s_max > RESAMPLED_ROWS_MAX:
            raise ValueError(f"rate_hz x gap_s_max must not be over {RESAMPLED_ROWS_MAX} rows")


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
    resample: ResampleSettings | None = None  # By the times of `time_column`
    speed: Annotated[float, Meta(gt=0.0, le=1e9)] = 1.0
    loop: bool = False
    delivery: Delivery = Delivery.EVERY

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.time_column and self.rate_hz:
            raise ValueError("name either time_column or rate_hz, not both")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("columns names a column twice")
        if self.resample is not None and not self.time_column:
            raise ValueError("resample needs time_column")


class PayloadForm(StrEnum):
    """What a sensor's message holds; the forms are in readings.py."""

    AUTO = "auto"  # JSON if it starts with "{", else binary
    BINARY = "binary"  # float32 rows, never looked at as JSON
    TIMED_BINARY = "timed-binary"  # Rows of one float64 time in seconds and the float32 values


class BatchSettings(Settings, frozen=True):
    """Windows of several sensors that go through the model together."""

    windows_max: Annotated[int, Meta(ge=1, le=4096)] = 32
    wait_s_max: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.05  # Of the first for the others


class MqttSettings(Settings, frozen=True, tag="mqtt", tag_field="kind"):
    """Sensors that publish to a broker near the device; payloads are in readings.py."""

    topic: TopicText  # With a level {sensor}: of many sensors
    window: WindowSettings
    channels: ChannelsCount = 1
    payload: PayloadForm = PayloadForm.AUTO
    resample: ResampleSettings | None = None  # By the payload's times, else by arrival
    batch: BatchSettings = BatchSettings()  # Of many sensors only, as the two below
    sensors_max: Annotated[int, Meta(ge=1, le=SENSORS_MAX)] = 1024
    forget_s: Rate = 3600.0  # A sensor silent for longer gives its place to another; 0: never
    host: HostText = "127.0.0.1"
    port: Port = 1883
    username: str = ""
    password_file: str = ""
    ca_file: str = ""  # Named: TLS
    silent_s_max: Rate = 60.0  # No message at all for longer: a lost source; 0: never

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        count = self.topic.count(SENSOR_LEVEL)
        if count > 1 or count != self.topic.split("/").count(SENSOR_LEVEL):
            raise ValueError(f"topic must have {SENSOR_LEVEL} as one whole level, or not at all")
        _check_filter(self.topic)
        ring_bytes = 2 * self.window.samples * self.channels * 4
        if self.is_of_many and self.sensors_max * ring_bytes > RINGS_BYTES_MAX:
            raise ValueError(f"sensors_max windows take more than {RINGS_BYTES_MAX} bytes")

    @property
    def is_of_many(self) -> bool:
        """Whether the topic is of many sensors."""
        return SENSOR_LEVEL in self.topic.split("/")


class MqttTextSettings(Settings, frozen=True, tag="mqtt-text", tag_field="kind"):
    """Short messages from a broker near the device: each payload is one text in UTF-8."""

    topic: TopicText
    text_bytes_max: Annotated[int, Meta(ge=1, le=65_536)] = 4096
    host: HostText = "127.0.0.1"
    port: Port = 1883
    username: str = ""
    password_file: str = ""
    ca_file: str = ""  # Named: TLS
    silent_s_max: Rate = 0.0  # As in MqttSettings; messages of people come when they come

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        _check_filter(self.topic)


class LinesSettings(Settings, frozen=True, tag="lines", tag_field="kind"):
    """A text file in UTF-8, one text a line; empty lines are left out."""

    path: PathText
    text_bytes_max: Annotated[int, Meta(ge=1, le=65_536)] = 4096
    rate_hz: Rate = 0.0  # 0: as fast as they are taken
    loop: bool = False
    delivery: Delivery = Delivery.EVERY


class HostChannel(StrEnum):
    """One reading of this machine."""

    CPU_SHARE = "cpu_share"  # Of all cores together, 0..1, since the reading before
    LOAD_1M = "load_1m"
    MEMORY_SHARE = "memory_share"  # In use, 0..1
    TEMPERATURE_C = "temperature_c"  # Of the hottest zone
    DISK_READ_BYTES_S = "disk_read_bytes_s"  # All block devices
    DISK_WRITTEN_BYTES_S = "disk_written_bytes_s"
    NETWORK_IN_BYTES_S = "network_in_bytes_s"  # All interfaces but the loopback
    NETWORK_OUT_BYTES_S = "network_out_bytes_s"


class HostSettings(Settings, frozen=True, tag="host", tag_field="kind"):
    """Readings of this machine itself, as a sensor."""

    channels: Annotated[tuple[HostChannel, ...], Meta(min_length=1, max_length=len(HostChannel))]
    window: WindowSettings
    rate_hz: PollRate = 1.0

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("channels names a channel twice")


class RegisterType(StrEnum):
    """How one or two 16-bit registers are read."""

    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    UINT32 = "uint32"
    FLOAT32 = "float32"


class RegisterTable(StrEnum):
    """Which of a Modbus device's tables."""

    HOLDING = "holding"
    INPUT = "input"


class WordOrder(StrEnum):
    """Which of two registers holds the upper half."""

    HIGH_FIRST = "high-first"
    LOW_FIRST = "low-first"


class RegisterChannel(Settings, frozen=True):
    """One value: number x scale + offset."""

    address: Annotated[int, Meta(ge=0, le=65_535)]  # As sent: from 0
    type: RegisterType = RegisterType.INT16
    table: RegisterTable = RegisterTable.HOLDING
    words: WordOrder = WordOrder.HIGH_FIRST
    scale: Number = 1.0
    offset: Number = 0.0

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.address + self.words_count > 65_536:
            raise ValueError("address: the value would end behind the last register")

    @property
    def words_count(self) -> int:
        """Return how many registers the value takes."""
        return 1 if self.type in (RegisterType.INT16, RegisterType.UINT16) else 2


class ModbusSettings(Settings, frozen=True, tag="modbus", tag_field="kind"):
    """Registers of a device that speaks Modbus/TCP, polled."""

    host: HostText
    channels: Annotated[
        tuple[RegisterChannel, ...], Meta(min_length=1, max_length=MODBUS_CHANNELS_MAX)
    ]
    window: WindowSettings
    rate_hz: PollRate = 1.0
    port: Port = 502
    unit: Annotated[int, Meta(ge=0, le=255)] = 1
    timeout_s: Annotated[float, Meta(ge=0.05, le=60.0)] = 2.0  # Of one request


SourceSettings = (
    FolderSettings
    | VideoSettings
    | StreamSettings
    | CameraSettings
    | CsvSettings
    | MqttSettings
    | MqttTextSettings
    | LinesSettings
    | HostSettings
    | ModbusSettings
)


def waits_for_model(settings: SourceSettings) -> bool:
    """Return whether nothing is lost or late by giving no item before a model serves; rule 5."""
    match settings:
        case FolderSettings() | VideoSettings() | CsvSettings() | LinesSettings():
            return settings.delivery is Delivery.EVERY
        case _:
            return False


def _check_filter(topic: str) -> None:
    """Refuse what no broker takes for a topic filter (MQTT 5.0, 4.7.1)."""
    *before, last = topic.split("/")
    is_wild = ["#" in level or ("+" in level and level != "+") for level in before]
    if any(is_wild) or ("#" in last and last != "#") or ("+" in last and last != "+"):
        raise ValueError("topic must have + as a whole level, and # as the last one only")
    if "\0" in topic:
        raise ValueError("topic must not hold a zero character")


_USER_INFO = re.compile(r"//[^/?#]*@")  # To the last @ before the path, as ffmpeg takes it
# A password with a sign that ends the host too early: what stands for the port is no number.
_BROKEN_USER_INFO = re.compile(r"//[^/?#@\[]*:(?!\d*(?:[/?#]|\Z)).*@")
_NAMED = re.compile(
    r"(?i)(?<=[/?&;_])(user(?:name)?|usr|login|pass(?:wd|word)?|pwd|psw|token|key|auth|secret)="
    r"[^&;#/]+"
)


def without_password(url: str) -> str:
    """Return `url` without the user name and password that it may hold, anywhere in it."""
    return _NAMED.sub(r"\1=***", _BROKEN_USER_INFO.sub("//", _USER_INFO.sub("//", url)))
