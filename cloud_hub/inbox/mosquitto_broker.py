"""ExternalBroker: what the hub does about a broker that is a program of its own (mosquitto).

1. Who may do what is in the broker's own files: deploy/mosquitto. The broker knows revoked
   certificates from a revocation list only.
2. `cut` first puts the newest revocation list where the broker reads it and gives the broker
   RELOAD_S to take it up (deploy/mosquitto reloads it when the file changes), and then ends the
   live session by connecting as that device, which makes a broker close the older connection
   (MQTT 3.1.1, section 3.1.4). The certificate for this is made for the purpose.
"""

import logging
import ssl
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import paho.mqtt.client as paho
from msgspec import Meta
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from shared.clock import Clock
from shared.durable_file import write_durably
from shared.errors import TransientError
from shared.ids import DeviceId
from shared.link.ssl_client import make_client_tls
from shared.settings import Settings

log = logging.getLogger(__name__)

RELOAD_S = 2.0
_PASS_S = 0.1


class ExternalBrokerSettings(Settings, frozen=True):
    """Where the broker is, and how it learns of revoked certificates."""

    host: str
    ca_path: str
    crl_source_path: str  # Where the hub's authority writes the revocation list
    crl_broker_path: str | None = None  # Where the broker reads it, if that is elsewhere
    port: Annotated[int, Meta(ge=1, le=65535)] = 8883
    reload_s: Annotated[float, Meta(ge=0.0, le=60.0)] = RELOAD_S
    connect_timeout_s: Annotated[float, Meta(gt=0.0, le=60.0)] = 5.0


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate with its key, short-lived, for one take-over."""

    certificate_pem: bytes
    key_pem: bytes


class ExternalBroker:
    """Implements SessionCutter. Safe to share between threads."""

    def __init__(
        self,
        settings: ExternalBrokerSettings,
        *,
        mint: Callable[[DeviceId], Credential],
        clock: Clock,
    ) -> None:
        """Args: see below.

        mint: makes a certificate with the device's name that lives for minutes.
        """
        self._settings = settings
        self._mint = mint
        self._clock = clock
        self._busy = threading.Lock()
        self._crl = b""
        self._crl_changed_s = 0.0

    def start(self) -> None:
        """Give the broker the revocation list as it is. Raises TransientError."""
        self.publish_crl()

    def stop(self) -> None:
        """Nothing runs here; the broker goes on."""

    def publish_crl(self) -> None:
        """Put the newest revocation list where the broker reads it.

        Raises TransientError `broker.crl` or `disk.write_failed`.
        """
        source, target = self._settings.crl_source_path, self._settings.crl_broker_path
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise TransientError("broker.crl", f"Cannot read {source}: {error}.") from error
        if data == self._crl:
            return
        if target is not None and target != source:
            write_durably(Path(target), data)
        self._crl, self._crl_changed_s = data, self._clock.monotonic_s()

    def cut(self, device_id: DeviceId) -> None:
        """End the device's live connection; see the rules above.

        Blocks for `reload_s`, if the list changed just now, and for a connection. Raises
        TransientError `broker.crl`, `disk.write_failed` or `broker.cut`.
        """
        with self._busy:
            self.publish_crl()
            reloaded_s = self._crl_changed_s + self._settings.reload_s
            left_s = reloaded_s - self._clock.monotonic_s()
            if left_s > 0:
                self._clock.wait(threading.Event(), left_s)
            self._take_over(device_id)
        log.info("broker.cut", extra={"device": device_id})

    def _take_over(self, device_id: DeviceId) -> None:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=device_id,
            clean_session=True,  # What waited for a revoked device is of no use any more.
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = self._settings.connect_timeout_s
        client.tls_set_context(self._make_tls(self._mint(device_id)))
        try:
            client.connect(self._settings.host, self._settings.port)
            self._wait_connected(client)
        except (OSError, ValueError) as error:
            raise TransientError("broker.cut", f"Cannot take over {device_id}: {error}.") from error
        finally:
            client.disconnect()
            client.loop(_PASS_S)

    def _wait_connected(self, client: paho.Client) -> None:
        """Raise ConnectionError unless the broker lets this client in, in time."""
        deadline_s = self._clock.monotonic_s() + self._settings.connect_timeout_s
        while not client.is_connected():
            code = client.loop(_PASS_S)
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise ConnectionError(paho.error_string(code))
            if self._clock.monotonic_s() > deadline_s:
                raise ConnectionError("no answer in time")

    def _make_tls(self, credential: Credential) -> ssl.SSLContext:
        tls = make_client_tls(self._settings.ca_path)
        # ssl reads certificates from files only.
        with tempfile.TemporaryDirectory(prefix="isthmus-cut-") as folder:
            pair = Path(folder) / "pair.pem"
            pair.touch(mode=0o600)
            pair.write_bytes(credential.key_pem + credential.certificate_pem)
            tls.load_cert_chain(pair)
        return tls
