"""open_source: the one table from settings to sources."""

from typing import assert_never

from edge_agent.sources.csv_source import CsvSource
from edge_agent.sources.opencv_files import FolderSource, VideoSource
from edge_agent.sources.opencv_live import CameraSource, StreamSource
from edge_agent.sources.opencv_setup import set_up_opencv
from edge_agent.sources.paho_source import MqttSource
from edge_agent.sources.settings import (
    CameraSettings,
    CsvSettings,
    FolderSettings,
    MqttSettings,
    SourceSettings,
    StreamSettings,
    VideoSettings,
)
from edge_agent.sources.source import Source
from shared.clock import Clock


def open_source(settings: SourceSettings, clock: Clock) -> Source:
    """Return the source that `settings` describe; it is brought up by its own `open`."""
    set_up_opencv()
    match settings:
        case FolderSettings():
            return FolderSource(settings, clock)
        case VideoSettings():
            return VideoSource(settings, clock)
        case StreamSettings():
            return StreamSource(settings, clock)
        case CameraSettings():
            return CameraSource(settings, clock)
        case CsvSettings():
            return CsvSource(settings, clock)
        case MqttSettings():
            return MqttSource(settings, clock)
        case _:
            assert_never(settings)
