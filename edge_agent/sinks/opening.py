"""open_sinks: everybody who listens to one pipeline, as its settings say; and SinkSet, all of them.

1. The hub's own sink stands above this package; who opens says how it is made.
2. Nothing runs before `start`. After `close` a set is done with: another is opened. One of the same
   pipeline is opened after the old one is closed: they have the same name at the broker.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from edge_agent.sinks.file_sink import FileSink
from edge_agent.sinks.http_webhook import WebhookSink
from edge_agent.sinks.live_feeds import LiveFeeds
from edge_agent.sinks.live_settings import LiveSettings
from edge_agent.sinks.mqtt_topics import place_topic
from edge_agent.sinks.opencv_clips import ClipSink
from edge_agent.sinks.opencv_snapshots import SnapshotSink
from edge_agent.sinks.opencv_viewing import ViewedFrames
from edge_agent.sinks.overlay import overlay_of
from edge_agent.sinks.paho_sink import PahoSink
from edge_agent.sinks.sink import Closing, Counting, Forgetting, FrameSink, Sink, Starting
from shared.clock import Clock
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sinks import (
    ClipSinkSettings,
    FileSinkSettings,
    HubSinkSettings,
    MqttSinkSettings,
    SinkSettings,
    SnapshotSinkSettings,
    WebhookSinkSettings,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SinkStanding:
    """How one sink stands."""

    kind: str  # As in the settings
    lost_count: int
    standing: str  # Why it cannot do its work just now; empty: it can


@dataclass(frozen=True, slots=True)
class LiveView:
    """What a pipeline needs to be seen in the live view."""

    settings: LiveSettings
    feeds: LiveFeeds


@dataclass(frozen=True, slots=True)
class SinkSet:
    """The sinks of one pipeline."""

    sinks: tuple[Sink, ...]
    frame_sinks: tuple[FrameSink, ...]
    kinds: tuple[tuple[str, object], ...]  # Each, by its kind

    def start(self) -> None:
        """Start the threads of those that have one."""
        for _, sink in self.kinds:
            if isinstance(sink, Starting):
                sink.start()

    def take_over(self, before: "SinkSet") -> None:
        """Go on with what sinks of `before` have not told yet; before that one is closed."""
        for old in before.sinks:
            for sink in self.sinks:
                if isinstance(sink, WebhookSink) and isinstance(old, WebhookSink):
                    sink.take_over(old)

    def close(self, *, for_good: bool = False) -> None:
        """Let each tell what is left, and close it. Args: for_good: the pipeline is gone."""
        for _, sink in self.kinds:
            if for_good and isinstance(sink, Forgetting):
                sink.forget()
            if isinstance(sink, Closing):
                sink.close()

    def standings(self) -> tuple[SinkStanding, ...]:
        """Return how those stand that count."""
        return tuple(
            SinkStanding(kind, sink.lost_count, sink.standing)
            for kind, sink in self.kinds
            if isinstance(sink, Counting)
        )


def open_sinks(
    settings: PipelineSettings,
    *,
    device: str,
    clock: Clock,
    hub_sink: Callable[[HubSinkSettings], Sink],
    live: LiveView | None = None,
) -> SinkSet:
    """Return the sinks of a pipeline; none runs yet.

    Args: device: its id; live: where it can be seen, None: nowhere.
    """
    overlay, name = overlay_of(settings), settings.name

    def frame_sink(sink: SnapshotSinkSettings | ClipSinkSettings) -> SnapshotSink | ClipSink:
        if isinstance(sink, SnapshotSinkSettings):
            return SnapshotSink(sink, pipeline=name, clock=clock, overlay=overlay)
        return ClipSink(sink, pipeline=name, clock=clock, overlay=overlay)

    sinks: list[tuple[str, Sink]] = []
    frame_sinks: list[tuple[str, FrameSink]] = []
    for sink in settings.sinks:
        kind = _kind(sink)
        match sink:
            case HubSinkSettings():
                sinks.append((kind, hub_sink(sink)))
            case FileSinkSettings():
                sinks.append((kind, FileSink(sink)))
            case MqttSinkSettings():
                sinks.append((kind, _mqtt(sink, settings, device=device, clock=clock)))
            case WebhookSinkSettings():
                sinks.append((kind, WebhookSink(sink, device=device, clock=clock)))
            case SnapshotSinkSettings() | ClipSinkSettings():
                frame_sinks.append((kind, frame_sink(sink)))
            case _:
                assert_never(sink)
    if live is not None:
        viewed = ViewedFrames(
            live.settings, live.feeds, pipeline=name, clock=clock, overlay=overlay
        )
        frame_sinks.append(("live", viewed))
    return SinkSet(
        sinks=tuple(sink for _, sink in sinks),
        frame_sinks=tuple(sink for _, sink in frame_sinks),
        kinds=(*sinks, *frame_sinks),
    )


def _mqtt(
    sink: MqttSinkSettings, settings: PipelineSettings, *, device: str, clock: Clock
) -> PahoSink:
    decisions = settings.decisions
    return PahoSink(
        sink,
        pipeline=settings.name,
        device=device,
        model=settings.model,
        clock=clock,
        places=(
            *(place_topic("lines", line.name) for line in decisions.lines),
            *(place_topic("zones", zone.name) for zone in decisions.zones),
        ),
    )


def _kind(settings: SinkSettings) -> str:
    return str(settings.__struct_config__.tag)
