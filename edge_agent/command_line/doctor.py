"""Doctor: what may keep this device from its work, each finding with how to fix it.

A finding is a value; looking is done here, one function per question, none of them changes
anything. What must not live here: printing.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from edge_agent.command_line.learning_view import look_at_learning
from edge_agent.command_line.sharing_view import look_at_sharing
from edge_agent.command_line.sink_findings import look_at_sinks
from edge_agent.config import AgentConfig, load_config
from edge_agent.file_status import StatusFile
from edge_agent.sources.opening import open_source
from edge_agent.uplink.file_identity import FileIdentity
from edge_agent.uplink.http_enrolment import fetch_introduction, parse_hub_url
from shared.clock import Clock, now_ms
from shared.errors import IsthmusError
from shared.file_findings import look_at_disk, look_at_folder
from shared.findings import Finding, Level
from shared.pipeline.sources import (
    CsvSettings,
    HostSettings,
    ModbusSettings,
    MqttSettings,
    MqttTextSettings,
    SourceSettings,
    WindowSettings,
)
from shared.plural import counted

CONNECT_S_MAX = 5.0
SOURCE_S_MAX = 10.0
CLOCK_DIFFERENCE_S_MAX = 300
CERTIFICATE_DAYS_MIN = 14
DISK_BYTES_MIN = 500 << 20
DAY_S = 86_400


def examine(state: Path, config: Path | None, clock: Clock) -> Iterator[Finding]:
    """Yield one finding after the other, in the order in which they should be fixed."""
    folder = look_at_folder(state, made_by="It is made when the device joins")
    yield folder
    if folder.level is not Level.BAD:  # Else this user may not look into it.
        yield from _membership(FileIdentity(state / "identity"), clock)
    if config is not None:
        yield from _configuration(config, state, clock)
    yield look_at_disk(state, bytes_min=DISK_BYTES_MIN)
    if folder.level is not Level.BAD:
        yield _running(state, clock)


def _membership(identity: FileIdentity, clock: Clock) -> Iterator[Finding]:
    finding = _identity(identity)
    yield finding
    if finding.level is not Level.BAD:
        yield from _guarded("certificate", lambda: _certificate(identity, clock))
        yield from _guarded("clock", lambda: _clock(identity, clock))
        yield from _guarded("broker", lambda: _broker(identity))


def _guarded(topic: str, look: Callable[[], Finding]) -> Iterator[Finding]:
    try:
        yield look()
    except IsthmusError as error:
        yield Finding(topic, Level.BAD, error.message, error.remedy)


def _identity(identity: FileIdentity) -> Finding:
    try:
        if not identity.is_joined:
            return Finding(
                "identity",
                Level.BAD,
                "This device has not joined a hub.",
                "On the hub run `cloud-hub token create`, then here the command that it prints.",
            )
        identity.check()
    except IsthmusError as error:
        return Finding("identity", Level.BAD, error.message, error.remedy)
    hub = identity.hub
    return Finding("identity", Level.GOOD, f"{hub.device_id} of the hub {hub.url}")


def _certificate(identity: FileIdentity, clock: Clock) -> Finding:
    expires_s = identity.certificate.not_valid_after_utc.timestamp()
    days = (expires_s - clock.now_s()) / DAY_S
    if days < 0:
        return Finding(
            "certificate",
            Level.BAD,
            f"It expired {-days:.0f} days ago, or this device's clock is wrong.",
            "Check the clock; else make a new token on the hub and join again with --again.",
        )
    level = Level.WARNING if days < CERTIFICATE_DAYS_MIN else Level.GOOD
    remedy = "It renews itself while the agent reaches the hub." if level is Level.WARNING else ""
    return Finding("certificate", level, f"good for {days:.0f} more days", remedy)


def _clock(identity: FileIdentity, clock: Clock) -> Finding:
    introduction = fetch_introduction(parse_hub_url(identity.hub.url))
    ahead_s = (now_ms(clock) - introduction.now_ms) / 1000
    if abs(ahead_s) > CLOCK_DIFFERENCE_S_MAX:
        return Finding(
            "clock",
            Level.BAD,
            f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the hub's.",
            "timedatectl set-ntp true",
        )
    return Finding("clock", Level.GOOD, f"within {abs(ahead_s):.1f} s of the hub's")


def _broker(identity: FileIdentity) -> Finding:
    hub = identity.hub
    where = f"{hub.broker_host}:{hub.broker_port}"
    address = (hub.broker_host, hub.broker_port)
    try:
        tls = ssl.create_default_context(cafile=str(identity.ca_path))
        tls.load_cert_chain(identity.certificate_path, identity.key_path)
        with (
            socket.create_connection(address, timeout=CONNECT_S_MAX) as plain,
            tls.wrap_socket(plain, server_hostname=hub.broker_host),
        ):
            pass
    except ssl.SSLError as error:
        return Finding(
            "broker",
            Level.BAD,
            f"{where} answers, but TLS fails: {error.reason or error}.",
            "If the hub was set up anew, join it again with --again.",
        )
    except OSError as error:
        return Finding(
            "broker",
            Level.BAD,
            f"{where} cannot be reached: {error}.",
            f"Let this device through to TCP port {hub.broker_port} of the hub.",
        )
    return Finding("broker", Level.GOOD, f"{where} answers over TLS")


def _configuration(path: Path, state: Path, clock: Clock) -> Iterator[Finding]:
    try:
        config = load_config(path)
    except IsthmusError as error:
        yield Finding("configuration", Level.BAD, error.message, error.remedy)
        return
    count = len(config.pipelines)
    yield Finding("configuration", Level.GOOD, f"{path}: {counted(count, 'pipeline')}")
    yield from _sources(config, clock)
    yield from look_at_sinks(config.pipelines)
    try:
        yield from look_at_learning(config, state, clock)
    except IsthmusError as error:
        yield Finding("learning", Level.BAD, error.message, error.remedy)
    try:
        yield from look_at_sharing(config, state, clock)
    except IsthmusError as error:
        yield Finding("sharing", Level.BAD, error.message, error.remedy)


def _sources(config: AgentConfig, clock: Clock) -> Iterator[Finding]:
    for pipeline in config.pipelines:
        topic = f"source of {pipeline.name}"
        source = open_source(_of_one_sample(pipeline.source), clock)
        stop = threading.Event()
        timer = threading.Timer(SOURCE_S_MAX, stop.set)
        timer.start()
        try:
            source.open()
            item = source.read(stop)
        except IsthmusError as error:
            yield Finding(topic, Level.BAD, error.message, error.remedy)
            continue
        finally:
            timer.cancel()
            source.close()
        if item is None:
            yield Finding(
                topic,
                Level.WARNING,
                f"{source.description} gave nothing within {SOURCE_S_MAX:.0f} s.",
                _silent_remedy(pipeline.source),
            )
        else:
            yield Finding(topic, Level.GOOD, f"{source.description} gives items")


def _of_one_sample(source: SourceSettings) -> SourceSettings:
    """Return a source of windows with windows of one sample: whether any comes is the question."""
    if isinstance(source, CsvSettings | HostSettings | ModbusSettings | MqttSettings):
        return msgspec.structs.replace(source, window=WindowSettings(samples=1))
    return source


def _silent_remedy(source: SourceSettings) -> str:
    if isinstance(source, MqttSettings | MqttTextSettings):
        topic = source.topic.replace("{sensor}", "+")
        return f"See what comes: mosquitto_sub -h {source.host} -p {source.port} -t '{topic}'"
    return "Check that it is switched on, and that no other program holds it."


def _running(state: Path, clock: Clock) -> Finding:
    status = StatusFile(state / "run").read(now_s=clock.now_s())
    if status is None:
        return Finding(
            "agent", Level.WARNING, "It does not run.", "edge-agent run --config agent.toml"
        )
    if not status.is_connected:
        return Finding(
            "agent", Level.WARNING, "It runs, but has no connection to the hub.", "See above."
        )
    return Finding("agent", Level.GOOD, f"runs, connected, process {status.pid}")
