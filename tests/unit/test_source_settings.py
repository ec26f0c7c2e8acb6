"""SourceSettings as written in TOML: what is taken, what is refused by name."""

import msgspec
import pytest

from edge_agent.sources.opening import open_source
from shared.pipeline.sources import (
    BatchSettings,
    CameraSettings,
    CsvSettings,
    Delivery,
    FolderSettings,
    HostChannel,
    HostSettings,
    LinesSettings,
    ModbusSettings,
    MqttSettings,
    MqttTextSettings,
    Pace,
    PayloadForm,
    RegisterChannel,
    RegisterTable,
    RegisterType,
    ResampleSettings,
    SourceSettings,
    StreamSettings,
    VideoSettings,
    WindowSettings,
    waits_for_model,
    without_password,
)
from tests.support.manual_clock import ManualClock

EXAMPLES = {
    'kind = "folder"\npath = "/pictures"\nfps = 5\nloop = true': FolderSettings(
        path="/pictures", fps=5.0, loop=True
    ),
    'kind = "video"\npath = "a.mp4"\npace = "asfast"\ndelivery = "newest"': VideoSettings(
        path="a.mp4", pace=Pace.AS_FAST, delivery=Delivery.NEWEST
    ),
    'kind = "stream"\nurl = "rtsp://10.0.0.1/a"\nread_timeout_s = 2': StreamSettings(
        url="rtsp://10.0.0.1/a", read_timeout_s=2.0
    ),
    'kind = "camera"\ndevice = "/dev/v4l/by-id/usb-cam"': CameraSettings(
        device="/dev/v4l/by-id/usb-cam"
    ),
    'kind = "camera"\ndevice = 1\nwidth = 640': CameraSettings(device=1, width=640),
    'kind = "csv"\npath = "a.csv"\ncolumns = ["x"]\nrate_hz = 10\nwindow = {samples = 8}': (
        CsvSettings(path="a.csv", columns=("x",), rate_hz=10.0, window=WindowSettings(samples=8))
    ),
    'kind = "mqtt"\ntopic = "a/b"\nchannels = 3\nwindow = {samples = 8, step = 4}': MqttSettings(
        topic="a/b", channels=3, window=WindowSettings(samples=8, step=4)
    ),
    'kind = "mqtt"\ntopic = "p/{sensor}/v"\npayload = "binary"\nwindow = {samples = 8}\n'
    "batch = {windows_max = 8, wait_s_max = 0.2}\nresample = {rate_hz = 2}": MqttSettings(
        topic="p/{sensor}/v",
        payload=PayloadForm.BINARY,
        window=WindowSettings(samples=8),
        batch=BatchSettings(windows_max=8, wait_s_max=0.2),
        resample=ResampleSettings(rate_hz=2.0),
    ),
    'kind = "mqtt-text"\ntopic = "alarms/#"\ntext_bytes_max = 500': MqttTextSettings(
        topic="alarms/#", text_bytes_max=500
    ),
    'kind = "lines"\npath = "a.txt"\nrate_hz = 2': LinesSettings(path="a.txt", rate_hz=2.0),
    'kind = "host"\nchannels = ["cpu_share"]\nwindow = {samples = 8}': HostSettings(
        channels=(HostChannel.CPU_SHARE,), window=WindowSettings(samples=8)
    ),
    'kind = "modbus"\nhost = "plc"\nwindow = {samples = 8}\n'
    'channels = [{address = 1}, {address = 2, type = "float32", table = "input"}]': ModbusSettings(
        host="plc",
        window=WindowSettings(samples=8),
        channels=(
            RegisterChannel(address=1),
            RegisterChannel(address=2, type=RegisterType.FLOAT32, table=RegisterTable.INPUT),
        ),
    ),
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_source_as_written_by_a_person(text: str) -> None:
    settings = msgspec.toml.decode(text.encode(), type=SourceSettings)
    assert settings == EXAMPLES[text]
    source = open_source(settings, ManualClock())
    assert source.is_every_item is (
        settings.__struct_config__.tag not in ("stream", "camera")
        and getattr(settings, "delivery", Delivery.EVERY) is Delivery.EVERY
    )
    source.close()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('kind = "folder"\npath = "a"\nfsp = 5', "fsp"),
        ('kind = "folder"\npath = "a"\nfps = -1', "fps"),
        ('kind = "movie"\npath = "a"', "movie"),
        ('kind = "stream"\nurl = "file:///etc/passwd"', "url"),
        ('kind = "stream"\nurl = "rtsp://a/b"\nsize_check_s = -1', "size_check_s"),
        ('kind = "camera"\ndevice = 256', "device"),
        ('kind = "camera"\ndevice = "/dev/watchdog"', "device"),
        ('kind = "camera"\ndevice = "/dev/v4l/by-id/../../watchdog"', "device"),
        ('kind = "csv"\npath = "a"\ncolumns = []\nwindow = {samples = 8}', "columns"),
        ('kind = "csv"\npath = "a"\ncolumns = ["x", "x"]\nwindow = {samples = 8}', "twice"),
        ('kind = "csv"\npath = "a"\ncolumns = ["x"]\nwindow = {samples = 0}', "samples"),
        (
            'kind = "csv"\npath = "a"\ncolumns = ["x"]\nwindow = {samples = 1}\n'
            'rate_hz = 1\ntime_column = "t"',
            "time_column",
        ),
        (
            'kind = "csv"\npath = "a"\ncolumns = ["x"]\nwindow = {samples = 1}\n'
            "resample = {rate_hz = 1}",
            "time_column",
        ),
        (
            'kind = "csv"\npath = "a"\ncolumns = ["x"]\nwindow = {samples = 1}\n'
            'time_column = "t"\nresample = {rate_hz = 1000, gap_s_max = 100}',
            "rows",
        ),
        ('kind = "mqtt"\ntopic = "a/x{sensor}"\nwindow = {samples = 8}', "whole level"),
        ('kind = "mqtt"\ntopic = "{sensor}/{sensor}"\nwindow = {samples = 8}', "whole level"),
        ('kind = "mqtt"\ntopic = "a/#/b"\nwindow = {samples = 8}', "topic"),
        ('kind = "mqtt"\ntopic = "a/b+/{sensor}"\nwindow = {samples = 8}', "topic"),
        ('kind = "mqtt-text"\ntopic = "chat#"', "topic"),
        ('kind = "mqtt-text"\ntopic = "chat\\u0000"', "topic"),
        (
            'kind = "mqtt"\ntopic = "{sensor}"\nsensors_max = 65536\nchannels = 64\n'
            "window = {samples = 4096}",
            "sensors_max",
        ),
        ('kind = "host"\nchannels = ["mood"]\nwindow = {samples = 8}', "mood"),
        (
            'kind = "host"\nchannels = ["load_1m", "load_1m"]\nwindow = {samples = 8}',
            "twice",
        ),
        ('kind = "modbus"\nhost = "plc"\nchannels = []\nwindow = {samples = 8}', "channels"),
    ],
)
def test_a_wrong_key_or_value_is_named(text: str, named: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=named):
        msgspec.toml.decode(text.encode(), type=SourceSettings)


def test_a_password_never_shows() -> None:
    source = open_source(StreamSettings(url="rtsp://user:secret@10.0.0.1/a"), ManualClock())
    assert source.description == "the stream rtsp://10.0.0.1/a"
    assert without_password("http://u:p@host:80/x@y") == "http://host:80/x@y"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rtsp://me:hid@den@host/x", "rtsp://host/x"),
        ("rtsp://me:hid/den@host/x", "rtsp://host/x"),
        ("rtsp://me:hid#den@host:554/x", "rtsp://host:554/x"),
        ("rtsp://me:4/hid@host/x", "rtsp://me:4/hid@host/x"),  # A host and a port, then a path
        ("rtsp://host/x?user=me&password=hidden&n=1", "rtsp://host/x?user=***&password=***&n=1"),
        ("rtsp://host:554/user=me_password=hidden&n=1", "rtsp://host:554/user=***&n=1"),
        ("http://host/live?camera=2", "http://host/live?camera=2"),
        ("rtsp://[::1]:554/x@y", "rtsp://[::1]:554/x@y"),
        ("rtsp://host:554", "rtsp://host:554"),
    ],
)
def test_a_password_with_odd_signs_or_in_the_path_never_shows(url: str, said: str) -> None:
    assert without_password(url) == said


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        ('kind = "video"\npath = "a.mp4"', True),
        ('kind = "video"\npath = "a.mp4"\ndelivery = "newest"', False),
        ('kind = "lines"\npath = "a.txt"', True),
        ('kind = "camera"', False),
        ('kind = "host"\nchannels = ["cpu_share"]\nwindow = {samples = 8}', False),
    ],
)
def test_only_a_recording_whose_every_item_counts_waits_for_its_model(
    text: str, waits: bool
) -> None:
    settings = msgspec.toml.decode(text.encode(), type=SourceSettings)
    assert waits_for_model(settings) is waits
