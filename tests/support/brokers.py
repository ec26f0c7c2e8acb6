"""Brokers for tests: memory, amqtt in this process, mosquitto as a process; one way to use them.

Each bench starts its broker, makes links to it, and can kill, restart and cut as the world does.
What brokers do not promise alike:
refuses_subscriptions: it says no to a forbidden one (mosquitto says yes and delivers nothing);
keeps_state: retained and waiting messages outlive its process (amqtt's do not).
"""

import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cloud_hub.inbox.amqtt_broker import BrokerSettings, EmbeddedBroker
from cloud_hub.inbox.mosquitto_broker import Credential, ExternalBroker, ExternalBrokerSettings
from shared.clock import SystemClock
from shared.ids import HUB_ID, DeviceId
from shared.link.link import Link
from shared.link.memory_link import MemoryBroker, MemoryLink, RawMessage
from shared.link.paho_link import LinkSettings, PahoLink
from shared.wire.topics import device_filters, hub_filters
from tests.support.pki import Pki
from tests.support.raw_client import RawClient
from tests.support.requirements import require_program
from tests.support.waiting import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy" / "mosquitto"
HOST = "127.0.0.1"


class Bench(Protocol):
    """A broker and the links to it."""

    keeps_state: bool
    refuses_subscriptions: bool
    quiet_s: float  # After so much silence nothing more is on its way

    def link(
        self, client: DeviceId, *, filters: Sequence[tuple[str, int]] | None = None
    ) -> Link: ...

    def send_raw(
        self, client: DeviceId, path: str, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> None:
        """Send any bytes on any topic, as `client`, and wait until the broker has them."""
        ...

    def cut(self, client: DeviceId) -> None: ...

    def wait_until_saved(self, payload: bytes) -> None:
        """Wait until the message with `payload` would outlive the broker, if any can."""
        ...

    def kill(self) -> None: ...

    def restart(self) -> None: ...

    def close(self) -> None: ...


def _filters_of(client: DeviceId) -> Sequence[tuple[str, int]]:
    return hub_filters() if client == HUB_ID else device_filters(client)


class MemoryBench:
    keeps_state = True
    refuses_subscriptions = True
    quiet_s = 0.01

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self._links: list[Link] = []

    def link(self, client: DeviceId, *, filters: Sequence[tuple[str, int]] | None = None) -> Link:
        link = MemoryLink(
            self.broker,
            client=client,
            filters=_filters_of(client) if filters is None else filters,
            clock=SystemClock(),
            with_last_will=client != HUB_ID,
        )
        self._links.append(link)
        return link

    def send_raw(
        self, client: DeviceId, path: str, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> None:
        self.broker.publish(client, RawMessage(path, payload, qos, retain))

    def cut(self, client: DeviceId) -> None:
        self.broker.cut(client)
        self.broker.restart()  # The link comes back, as the others do by themselves.

    def wait_until_saved(self, payload: bytes) -> None:
        pass

    def kill(self) -> None:
        self.broker.kill()

    def restart(self) -> None:
        self.broker.restart()

    def close(self) -> None:
        for link in self._links:
            link.stop()


class _NetworkBench:
    """What amqtt and mosquitto have in common: certificates, and paho links over TLS."""

    quiet_s = 0.3

    def __init__(self, folder: Path) -> None:
        self.pki = Pki(folder / "pki")
        self.pki.issue("server", is_server=True)
        self.port = 0
        self._links: list[Link] = []

    def link_settings(self, client: DeviceId) -> LinkSettings:
        if not (self.pki.folder / f"{client}.crt").exists():
            self.pki.issue(client)
        return LinkSettings(
            host=HOST,
            port=self.port,
            ca_path=str(self.pki.ca_path),
            certificate_path=str(self.pki.folder / f"{client}.crt"),
            key_path=str(self.pki.folder / f"{client}.key"),
            backoff_s_min=0.05,
            backoff_s_max=0.4,
        )

    def link(self, client: DeviceId, *, filters: Sequence[tuple[str, int]] | None = None) -> Link:
        link = PahoLink(
            settings=self.link_settings(client),
            client=client,
            filters=_filters_of(client) if filters is None else filters,
            clock=SystemClock(),
            with_last_will=client != HUB_ID,
        )
        self._links.append(link)
        return link

    def send_raw(
        self, client: DeviceId, path: str, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> None:
        with self.raw(client) as raw:
            raw.publish(path, payload, qos=qos, retain=retain)

    def raw(
        self,
        name: DeviceId,
        *,
        client_id: str | None = None,
        will_path: str | None = None,
        clean_session: bool = True,
    ) -> RawClient:
        """Connect a bare client with the certificate of `name`, and its id unless said."""
        raw = RawClient(
            self.link_settings(name),
            client_id=client_id or name,
            will_path=will_path,
            clean_session=clean_session,
        )
        raw.connect()
        return raw

    def close_links(self) -> None:
        for link in self._links:
            link.stop()


class AmqttBench(_NetworkBench):
    keeps_state = False
    refuses_subscriptions = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.revoked: set[int] = set()
        self.broker = self._start(port=0)
        self.port = self.broker.port

    def revoke(self, client: DeviceId) -> None:
        """Refuse the certificate of `client` from now on, and end its session."""
        self.revoked.add(self.pki.serial(self.pki.folder / f"{client}.crt"))
        self.broker.cut(client)

    def cut(self, client: DeviceId) -> None:
        self.broker.cut(client)

    def wait_until_saved(self, payload: bytes) -> None:
        pass

    def kill(self) -> None:
        self.broker.stop()

    def restart(self) -> None:
        self.broker = self._start(port=self.port)

    def close(self) -> None:
        self.close_links()
        self.broker.stop()

    def _start(self, *, port: int) -> EmbeddedBroker:
        settings = BrokerSettings(
            host=HOST,
            port=port,
            ca_path=str(self.pki.ca_path),
            certificate_path=str(self.pki.folder / "server.crt"),
            key_path=str(self.pki.folder / "server.key"),
            connections_max=40,
            strangers_per_address_max=20,
        )
        broker = EmbeddedBroker(
            settings, is_allowed=lambda _device, serial: serial not in self.revoked
        )
        broker.start()
        return broker


class MosquittoBench(_NetworkBench):
    """deploy/mosquitto's own files, with the paths of a test folder in them."""

    keeps_state = True
    refuses_subscriptions = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = require_program("mosquitto")
        self._folder = folder
        self.port = _free_port()
        self._config = write_mosquitto_config(folder, pki=self.pki.folder, port=self.port)
        self._process = self._start()
        self.crl_path = folder / "etc" / "crl.pem"
        self.external = ExternalBroker(
            ExternalBrokerSettings(
                host=HOST,
                port=self.port,
                ca_path=str(self.pki.ca_path),
                crl_source_path=str(self.pki.crl_path),
                crl_broker_path=str(self.crl_path),
                reload_s=0.3,
            ),
            mint=self._mint,
            clock=SystemClock(),
        )
        self._watcher = _ReloadOnChange(self.crl_path, self.reload)

    def revoke(self, client: DeviceId) -> None:
        """Refuse the certificate of `client` from now on, and end its session."""
        self.pki.revoke(self.pki.folder / f"{client}.crt")
        self.external.cut(client)

    def cut(self, client: DeviceId) -> None:
        self.external.cut(client)

    def wait_until_saved(self, payload: bytes) -> None:
        store = self._folder / "store" / "mosquitto.db"
        wait_until(lambda: store.exists() and payload in store.read_bytes())

    def reload(self) -> None:
        """What the systemd unit in deploy/mosquitto does when the list changes."""
        self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self._process = self._start()

    def close(self) -> None:
        self._watcher.stop()
        self.close_links()
        self.kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [self._program, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: _is_listening(self.port) or process.poll() is not None)
        assert process.poll() is None, "mosquitto did not start"
        return process

    def _mint(self, device: DeviceId) -> Credential:
        certificate, key = self.pki.issue(device, file=f"{device}.cut")
        return Credential(certificate_pem=certificate.read_bytes(), key_pem=key.read_bytes())


def write_mosquitto_config(folder: Path, *, pki: Path, port: int) -> Path:
    """Write deploy/mosquitto's files, with their paths led into `folder`; return the main one.

    Args: `pki` holds ca.crt, server.crt, server.key and crl.pem.
    """
    etc, store = folder / "etc", folder / "store"
    etc.mkdir(parents=True, exist_ok=True)
    store.mkdir()
    for name in ("ca.crt", "server.crt", "server.key", "crl.pem"):
        shutil.copy(pki / name, etc / name)
    shutil.copy(DEPLOY / "acl", etc / "acl")
    text = (DEPLOY / "mosquitto.conf").read_text()
    for old, new in (
        ("/etc/mosquitto/isthmus", str(etc)),
        ("/var/lib/mosquitto/", f"{store}/"),
        ("listener 8883", f"listener {port} {HOST}"),
        ("log_dest syslog", f"log_dest file {folder / 'log'}"),
    ):
        assert old in text, f"{old} is no longer in mosquitto.conf"
        text = text.replace(old, new)
    config = folder / "mosquitto.conf"
    config.write_text(f"user root\n{text}")  # Only heeded when the tests run as root.
    return config


class _ReloadOnChange:
    """Plays the systemd path unit: calls `reload` when the file changes."""

    def __init__(self, path: Path, reload: object) -> None:
        assert callable(reload)
        self._path, self._reload = path, reload
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        seen = self._path.read_bytes()
        while not self._stop.wait(0.05):
            now = self._path.read_bytes()
            if now != seen:
                seen = now
                self._reload()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
