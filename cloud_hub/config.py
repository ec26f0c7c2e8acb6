"""The hub's whole configuration: each part's settings, put together and read once, at start.

Everything has a default: `cloud-hub serve` needs no file. What the command line names wins.
"""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from cloud_hub.api.settings import ApiSettings
from cloud_hub.devices.service import DeviceSettings
from cloud_hub.inbox.block_server import BlockServerSettings
from cloud_hub.releases.service import ReleaseSettings
from cloud_hub.telemetry.service import TelemetrySettings
from shared.errors import ContractError
from shared.settings import Settings, load_toml

Port = Annotated[int, Meta(ge=0, le=65535)]  # 0 takes any free one
BROKER_PORT = 8883


class ListenSettings(Settings, frozen=True):
    """One listening address."""

    host: str
    port: Port


class HubConfig(Settings, frozen=True):
    """The whole file."""

    name: Annotated[str, Meta(max_length=80)] = "isthmus"
    log_level: str = "INFO"
    # An SQLAlchemy URL; empty is hub.db (SQLite) in the state folder.
    database: str = ""
    # For people and programs on this machine, or behind a proxy that speaks TLS.
    http: ListenSettings = ListenSettings(host="127.0.0.1", port=8080)
    # For devices that join, and for people who trust the hub's own CA.
    https: ListenSettings = ListenSettings(host="0.0.0.0", port=8443)  # noqa: S104
    # The embedded broker; unused where `broker` names another.
    mqtt: ListenSettings = ListenSettings(host="0.0.0.0", port=BROKER_PORT)  # noqa: S104
    broker: Annotated[str, Meta(max_length=300)] = ""  # mqtts://host:port
    broker_crl_path: str = ""  # Where an external broker reads revoked certificates
    # Names and addresses under which devices reach the hub; empty: all this machine knows.
    host_names: tuple[str, ...] = ()
    announces_itself: bool = True  # By zeroconf, on the local network
    tick_s: Annotated[float, Meta(ge=0.05, le=60.0)] = 0.5
    api: ApiSettings = ApiSettings()
    devices: DeviceSettings = DeviceSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    releases: ReleaseSettings = ReleaseSettings()
    blocks: BlockServerSettings = BlockServerSettings()


def load_config(path: Path | None) -> HubConfig:
    """Return the configuration file, or the defaults. Raises ContractError naming a wrong key."""
    return HubConfig() if path is None else load_toml(path, HubConfig)


def parse_listen(text: str) -> ListenSettings:
    """Return "HOST:PORT" as an address. Raises ContractError `config.address`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ContractError(
            "config.address", f"{text!r} is not an address.", remedy="Write HOST:PORT."
        )
    return ListenSettings(host=host.strip("[]"), port=int(port))


def parse_broker(text: str) -> tuple[str, int]:
    """Return "mqtts://HOST:PORT" as host and port. Raises ContractError `config.broker`."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port or BROKER_PORT
    except ValueError:
        host, port = None, 0
    if host is None or parts.scheme != "mqtts":
        raise ContractError(
            "config.broker",
            f"{text!r} is not a broker's address.",
            remedy="Write mqtts://HOST:PORT; the hub speaks to brokers over TLS only.",
        )
    return host, port
