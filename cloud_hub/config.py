"""The hub's whole configuration: each part's settings, put together and read once, at start.

Everything has a default: `cloud-hub serve` needs no file. What the command line names wins.
"""

import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from cloud_hub.api.settings import ApiSettings
from cloud_hub.datasets.collecting.settings import CollectionSettings
from cloud_hub.datasets.settings import DatasetSettings
from cloud_hub.devices.service import DeviceSettings
from cloud_hub.inbox.block_server import BlockServerSettings
from cloud_hub.releases.service import ReleaseSettings
from cloud_hub.serving.settings import ServingSettings
from cloud_hub.telemetry.service import TelemetrySettings
from cloud_hub.training.cloud.settings import CloudTrainingSettings
from cloud_hub.training.settings import LearningHubSettings
from shared.errors import ContractError
from shared.logs import LogLevel
from shared.settings import Settings, load_toml

PORT_MAX = 65535
PORT_DIGITS_MAX = 5
Port = Annotated[int, Meta(ge=0, le=PORT_MAX)]  # 0 takes any free one
BROKER_PORT = 8883
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")


class ListenSettings(Settings, frozen=True):
    """One listening address."""

    host: str
    port: Port


class HubConfig(Settings, frozen=True):
    """The whole file."""

    name: Annotated[str, Meta(max_length=80)] = "isthmus"
    log_level: LogLevel = "INFO"
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
    datasets: DatasetSettings = DatasetSettings()
    collection: CollectionSettings = CollectionSettings()  # Samples that devices send
    serving: ServingSettings = ServingSettings()
    # Federated Jobs: where devices find the SuperLink, and how many Jobs run at a time.
    learning: LearningHubSettings = LearningHubSettings()
    # Training in the cloud: slots of this machine, a Ray cluster, limits.
    training: CloudTrainingSettings = CloudTrainingSettings()

    def __post_init__(self) -> None:
        """Refuse what the types cannot.

        Raises ContractError `config.broker`, `config.host_name`.
        """
        if self.broker:
            parse_broker(self.broker)
        for host in self.host_names:
            _require_host(host)


def load_config(path: Path | None) -> HubConfig:
    """Return the configuration file, or the defaults. Raises ContractError naming a wrong key."""
    return HubConfig() if path is None else load_toml(path, HubConfig)


def parse_listen(text: str) -> ListenSettings:
    """Return "HOST:PORT" as an address. Raises ContractError `config.address`."""
    host, _, port = text.rpartition(":")
    is_number = port.isascii() and port.isdecimal() and len(port) <= PORT_DIGITS_MAX
    if not host or not is_number or int(port) > PORT_MAX:
        raise ContractError(
            "config.address",
            f"{text!r} is not an address to listen on.",
            remedy="Write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080.",
        )
    return ListenSettings(host=host.strip("[]"), port=int(port))


def _require_host(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        if not _HOST_NAME.fullmatch(text):
            raise ContractError(
                "config.host_name",
                f"{text!r} is no host name and no address.",
                remedy="Write one like hub.example or 192.0.2.7; names with other letters in their "
                "ASCII form (xn--...).",
            ) from error


def parse_broker(text: str) -> tuple[str, int]:
    """Return "mqtts://HOST:PORT" as host and port. Raises ContractError `config.broker`."""
    try:
        parts = urlsplit(text)
        host, port, is_mqtts = parts.hostname, parts.port or BROKER_PORT, parts.scheme == "mqtts"
    except ValueError:
        host, port, is_mqtts = None, 0, False
    if not host or not is_mqtts:
        raise ContractError(
            "config.broker",
            f"{text!r} is not a broker's address.",
            remedy="Write mqtts://HOST:PORT; the hub speaks to brokers over TLS only.",
        )
    return host, port
