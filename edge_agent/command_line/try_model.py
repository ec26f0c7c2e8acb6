"""run_try: a model on a source, without a hub: what it concludes, how fast, how much memory.

The same source, session, runner and decisions as in a pipeline; only the update part is left out.
Where no source settings are given, `guess_source` tells them from a path or an address.

What must not live here: pipelines of a file (try_pipelines.py), counting (try_summary.py), printing
(the command line's), anything that enrols or sends.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

from edge_agent.command_line.model_files import read_spec, tokenize_beside
from edge_agent.command_line.try_live import TryLive
from edge_agent.command_line.try_summary import Tally, TrySummary
from edge_agent.inference.item_runner import ItemRunner
from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.sinks.opencv_drawing import write_snapshot
from edge_agent.sources.item import Item
from edge_agent.sources.opening import open_source
from edge_agent.sources.source import Source
from shared.clock import Clock, SystemClock
from shared.errors import ContractError
from shared.model.spec import ModelSpec, TextInput, WindowInput
from shared.pipeline.decisions import DecisionSettings
from shared.pipeline.sources import (
    CameraSettings,
    CsvSettings,
    FolderSettings,
    LinesSettings,
    ModbusSettings,
    MqttSettings,
    MqttTextSettings,
    Pace,
    RegisterChannel,
    SourceSettings,
    StreamSettings,
    VideoSettings,
    WindowSettings,
)

ITEMS_DEFAULT = 1000
PORT_MAX = 65_535
REGISTERS_COUNT = 65_536
TIME_COLUMNS = ("t", "time", "timestamp", "date", "datetime", "index", "id")  # In lower case
STREAM_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "tcp://", "udp://")


def run_try(
    model: Path,
    spec: Path,
    source: SourceSettings | str,
    *,
    items_max: int = ITEMS_DEFAULT,
    snapshot: Path | None = None,
    tokenizer: Path | None = None,
    settings: DecisionSettings | None = None,
    live: TryLive | None = None,
    clock: Clock | None = None,
    stop: threading.Event | None = None,
) -> TrySummary:
    """Return what `model` does with the first `items_max` items of `source`.

    Args:
        model: the ONNX file.
        spec: its ModelSpec as TOML.
        source: settings, or a path or address for `guess_source`.
        items_max: 0 goes on to the end of the source.
        snapshot: where to write the frame of which the model is surest, as a PNG.
        tokenizer: of a model of texts that has one; None: tokenizer.json beside the model.
        settings: how this device reads outputs.
        live: where it can be watched; recordings then play at their own pace, over and over.
        clock: for tests.
        stop: set to end early; what was seen until then is returned.

    Raises:
        ContractError: the spec, the source or the tokenizer is wrong.
        TransientError: a stream or camera cannot be reached; a try does not retry.
        RefusedError: the model cannot be loaded or does not fit, or the snapshot not be written.
    """
    clock = clock or SystemClock()
    model_spec = read_spec(spec)
    tokenize = tokenize_beside(model, model_spec, tokenizer)
    session = load_onnx_session(model, model_spec)
    source_settings = (
        guess_source(source, model_spec, is_watched=live is not None)
        if isinstance(source, str)
        else source
    )
    opened = open_source(source_settings, clock)
    runner = ItemRunner(session, settings or DecisionSettings(), clock, tokenize=tokenize)
    tally = Tally(runner)
    started_s = clock.monotonic_s()
    opened.open()
    try:
        for item in _items(opened, items_max, stop or threading.Event()):
            run = tally.add(item)
            if live is not None and run is not None:
                live.show(item, run, model=model_spec.model)
    finally:
        opened.close()
    seconds = clock.monotonic_s() - started_s
    if snapshot is not None and tally.best is not None:
        write_snapshot(snapshot, *tally.best)
    return tally.summary(
        model=str(model),
        runtime=session.runtime,
        source=opened.description,
        seconds=seconds,
        snapshot=str(snapshot) if snapshot is not None and tally.best is not None else "",
    )


def guess_source(text: str, spec: ModelSpec, *, is_watched: bool = False) -> SourceSettings:
    """Return settings for a path or address that a person typed.

    A folder of images; a .csv file (all its numeric columns, as many as the model's channels); an
    rtsp or http address; "0" or "/dev/video0" for a camera; "mqtt://host:port/topic";
    "modbus://host:port/address" (as many registers from there on as the model has channels); any
    other file is a video. For a model of texts: a text file, or "mqtt://host:port/topic".
    Recordings play as fast as they can; videos and folders that are watched at their own pace,
    over and over.

    Raises ContractError `source.missing` or `source.guess`.
    """
    if isinstance(spec.input, TextInput):
        return _texts(text, spec)
    window = WindowSettings(samples=1)
    if isinstance(spec.input, WindowInput):
        window = WindowSettings(samples=spec.input.samples, step=spec.input.samples)
    path = Path(text)
    if text.startswith("mqtt://"):
        return _mqtt(text, window, spec.channels_count)
    if text.startswith("modbus://"):
        return _modbus(text, window, spec.channels_count)
    if text.startswith(STREAM_SCHEMES):
        return StreamSettings(url=text)
    device = text.removeprefix("/dev/video")
    if device.isdigit() and not path.is_file():
        return CameraSettings(device=int(device))
    if path.is_dir():
        return (
            FolderSettings(path=text, loop=True) if is_watched else FolderSettings(path=text, fps=0)
        )
    if not path.is_file():
        raise ContractError(
            "source.missing",
            f"There is no {text}.",
            remedy="Name a video, a folder of images, a .csv file, a camera or an address.",
        )
    if path.suffix.lower() == ".csv":
        return CsvSettings(
            path=text, columns=_numeric_columns(path, spec.channels_count), window=window
        )
    pace = Pace.REALTIME if is_watched else Pace.AS_FAST
    return VideoSettings(path=text, pace=pace, loop=is_watched)


def _items(source: Source, items_max: int, stop: threading.Event) -> Iterator[Item]:
    count = 0
    while not items_max or count < items_max:
        item = source.read(stop)
        if item is None:
            return
        count += 1
        yield item


def _numeric_columns(path: Path, count: int) -> tuple[str, ...]:
    """Return the first `count` columns whose first value is a number; a time only if it must be."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = [name.strip() for name in file.readline().rstrip("\n").split(",")]
        first = file.readline().rstrip("\n").split(",")
    numeric = [name for name, cell in zip(header, first, strict=False) if _is_number(cell)]
    if len(numeric) < count:
        raise ContractError(
            "source.guess",
            f"{path} has {len(numeric)} columns of numbers; the model takes {count}.",
            remedy="Name the columns in the agent's configuration.",
        )
    measured = [name for name in numeric if name.lower() not in TIME_COLUMNS]
    return tuple((measured if len(measured) >= count else numeric)[:count])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _mqtt(text: str, window: WindowSettings, channels_count: int) -> MqttSettings:
    host, port, topic = _address(text, "mqtt://", "topic")
    return MqttSettings(
        host=host, port=port or 1883, topic=topic, window=window, channels=channels_count
    )


def _modbus(text: str, window: WindowSettings, channels_count: int) -> ModbusSettings:
    host, port, address = _address(text, "modbus://", "address")
    first = int(address) if address.isdecimal() else REGISTERS_COUNT
    if first + channels_count > REGISTERS_COUNT:
        raise ContractError(
            "source.guess",
            f"{text} names no registers of a Modbus device.",
            remedy=f"Write modbus://host:port/address; addresses are 0 to {REGISTERS_COUNT - 1}.",
        )
    channels = tuple(RegisterChannel(address=first + index) for index in range(channels_count))
    return ModbusSettings(host=host, port=port or 502, channels=channels, window=window)


def _texts(text: str, spec: ModelSpec) -> MqttTextSettings | LinesSettings:
    if text.startswith("mqtt://"):
        host, port, topic = _address(text, "mqtt://", "topic")
        return MqttTextSettings(host=host, port=port or 1883, topic=topic)
    if not Path(text).is_file():
        raise ContractError(
            "source.guess",
            f"The model {spec.model} takes texts; {text} is no source of them.",
            remedy="Name a text file with one text a line, or mqtt://host:port/topic.",
        )
    return LinesSettings(path=text)


def _address(text: str, scheme: str, last: str) -> tuple[str, int, str]:
    """Return host, port (0 where none is named) and what follows of scheme://host:port/last."""
    address, _, rest = text.removeprefix(scheme).partition("/")
    host, _, port = address.partition(":")
    if not rest or not host or (port and not (port.isdecimal() and 0 < int(port) <= PORT_MAX)):
        raise ContractError(
            "source.guess", f"{text} names no {last}.", remedy=f"Write {scheme}host:port/{last}."
        )
    return host, int(port or 0), rest
