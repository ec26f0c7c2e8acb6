"""open_source: the one table from settings to sources."""

from typing import assert_never

from edge_agent.sources.csv_source import CsvSource
from edge_agent.sources.file_lines import LinesSource
from edge_agent.sources.modbus_source import ModbusSource
from edge_agent.sources.opencv_files import FolderSource, VideoSource
from edge_agent.sources.opencv_live import CameraSource, StreamSource
from edge_agent.sources.opencv_setup import set_up_opencv
from edge_agent.sources.paho_sensors_source import MqttSensorsSource
from edge_agent.sources.paho_source import MqttSource, MqttTextSource
from edge_agent.sources.procfs_source import HostSource
from edge_agent.sources.source import Source
from shared.clock import Clock
from shared.pipeline.sources import (
    CameraSettings,
    CsvSettings,
    FolderSettings,
    HostSettings,
    LinesSettings,
    ModbusSettings,
    MqttSettings,
    MqttTextSettings,
    SourceSettings,
    StreamSettings,
    VideoSettings,
)


def open_source(settings: SourceSettings, clock: Clock, *, fps_max: float = 0.0) -> Source:
    """Return the source that `settings` describe; it is brought up by its own `open`.

    Args: at most `fps_max` frames a second of a video, stream or camera; 0: all.
    """
    match settings:
        case FolderSettings() | VideoSettings() | StreamSettings() | CameraSettings():
            return _open_pictures(settings, clock, fps_max)
        case CsvSettings():
            return CsvSource(settings, clock)
        case MqttSettings(is_of_many=True):
            return MqttSensorsSource(settings, clock)
        case MqttSettings():
            return MqttSource(settings, clock)
        case MqttTextSettings():
            return MqttTextSource(settings, clock)
        case LinesSettings():
            return LinesSource(settings, clock)
        case HostSettings():
            return HostSource(settings, clock)
        case ModbusSettings():
            return ModbusSource(settings, clock)
        case _:
            assert_never(settings)


def _open_pictures(
    settings: FolderSettings | VideoSettings | StreamSettings | CameraSettings,
    clock: Clock,
    fps_max: float,
) -> Source:
    set_up_opencv()
    match settings:
        case FolderSettings():
            return FolderSource(settings, clock)
        case VideoSettings():
            return VideoSource(settings, clock, fps_max=fps_max)
        case StreamSettings():
            return StreamSource(settings, clock, fps_max=fps_max)
        case CameraSettings():
            return CameraSource(settings, clock, fps_max=fps_max)
        case _:
            assert_never(settings)
