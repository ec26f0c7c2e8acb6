"""look_at_sinks: whether the sinks of a file's pipelines can do their work. Changes nothing.

A folder is looked at, not made. A broker is connected to and left again, an HTTP address only
connected to: nothing is told to either.
"""

import os
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import assert_never
from urllib.parse import urlsplit

from edge_agent.sinks.paho_broker import NeighbourBroker
from shared.findings import Finding, Level
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

CONNECT_S_MAX = 5.0
PORTS = {"http": 80, "https": 443}
OWNER_REMEDY = "Let the user that the agent runs as write there, or name another path."


def look_at_sinks(pipelines: Iterable[PipelineSettings]) -> Iterator[Finding]:
    """Yield one finding for each sink but the hub's own, which the uplink tells of."""
    for pipeline in pipelines:
        for sink in pipeline.sinks:
            if not isinstance(sink, HubSinkSettings):
                topic = f"{sink.__struct_config__.tag} of {pipeline.name}"
                yield _look(topic, sink, pipeline.name)


def _look(topic: str, sink: SinkSettings, pipeline: str) -> Finding:
    match sink:
        case FileSinkSettings():
            return _folder(topic, Path(sink.path).parent, free_bytes_min=0)
        case SnapshotSinkSettings() | ClipSinkSettings():
            folder = Path(sink.path) / pipeline
            return _folder(topic, folder, free_bytes_min=sink.free_bytes_min)
        case MqttSinkSettings():
            return _broker(topic, sink)
        case WebhookSinkSettings():
            return _webhook(topic, sink)
        case HubSinkSettings():
            return Finding(topic, Level.GOOD, "over the uplink")
        case _:
            assert_never(sink)


def _folder(topic: str, folder: Path, *, free_bytes_min: int) -> Finding:
    existing = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not existing.is_dir():
        return Finding(
            topic, Level.BAD, f"{existing} is no folder.", "Name a folder, or one to be made."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(topic, Level.BAD, f"This user may not write to {existing}.", OWNER_REMEDY)
    status = os.statvfs(existing)
    free = status.f_bavail * status.f_frsize
    if free < free_bytes_min:
        return Finding(
            topic,
            Level.WARNING,
            f"{free >> 20} MiB are free at {existing}; under {free_bytes_min >> 20} MiB it "
            "writes nothing.",
            "Make room, or lower free_bytes_min of this sink.",
        )
    return Finding(topic, Level.GOOD, f"{folder} can be written")


def _broker(topic: str, sink: MqttSinkSettings) -> Finding:
    where = f"{sink.host}:{sink.port}"
    wake = threading.Event()
    broker = NeighbourBroker(
        sink,
        client_id=f"isthmus-doctor-{os.getpid()}",
        will=(f"{sink.prefix}/doctor", b""),
        wake=wake,
    )
    try:
        broker.open()
    except (OSError, ValueError):
        trouble = broker.standing
    else:
        wake.wait(CONNECT_S_MAX)
        trouble = broker.standing
        broker.close()
    if trouble:
        return Finding(
            topic,
            Level.BAD,
            f"{trouble}.",
            "Check that the broker runs, and host, port, username, password_file and ca_file of "
            "this sink.",
        )
    return Finding(topic, Level.GOOD, f"the broker {where} takes this device")


def _webhook(topic: str, sink: WebhookSinkSettings) -> Finding:
    for path in (sink.token_file, sink.ca_file):
        if path and not os.access(path, os.R_OK):
            return Finding(
                topic,
                Level.BAD,
                f"{path} cannot be read: it is not there, or not for this user.",
                "Correct token_file or ca_file of this sink, or let the agent's user read it.",
            )
    url = urlsplit(sink.url)
    address = (url.hostname or "", url.port or PORTS[url.scheme])
    try:
        with socket.create_connection(address, timeout=CONNECT_S_MAX):
            pass
    except OSError as error:
        return Finding(
            topic,
            Level.WARNING,
            f"{address[0]}:{address[1]} cannot be reached: {error}.",
            "Check that it runs, and the url of this sink. What is told waits for it.",
        )
    return Finding(topic, Level.GOOD, f"{address[0]}:{address[1]} can be reached")
