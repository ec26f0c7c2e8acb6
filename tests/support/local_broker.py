"""A mosquitto on loopback as stands beside devices: plain, or with a password and TLS."""

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.pki import Pki
from tests.support.requirements import require_program
from tests.support.waiting import wait_until

HOST = "127.0.0.1"


class LocalBroker:
    """Keeps nothing over a restart, as a broker without persistence."""

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        pki: Pki | None = None,
        password: tuple[str, str] = ("", ""),
    ) -> None:
        self.port = port
        self._program = require_program("mosquitto")
        self._config = folder / "local-broker.conf"
        lines = ["user root", f"listener {port} {HOST}", "set_tcp_nodelay true"]
        if pki is not None:
            lines += [f"certfile {pki.folder}/server.crt", f"keyfile {pki.folder}/server.key"]
        if password[0]:
            known = folder / "passwords"
            known.write_text(":".join(password) + "\n")
            known.chmod(0o600)
            subprocess.run([require_program("mosquitto_passwd"), "-U", known], check=True)
            lines += [f"password_file {known}", "allow_anonymous false"]
        else:
            lines += ["allow_anonymous true"]
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


class Listener:
    """Hears everything at a broker; knows what is retained there now."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.last: dict[str, str] = {}
        self._is_subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._is_subscribed.set()
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        wait_until(lambda: self._connects(port))
        self._client.loop_start()
        assert self._is_subscribed.wait(10)

    def _connects(self, port: int) -> bool:
        try:
            return self._client.connect(HOST, port) == 0
        except OSError:
            return False

    def _on_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        self.heard.append((message.topic, message.payload))
        self.last[message.topic] = message.payload.decode()

    def all(self, topic: str) -> list[Any]:
        return [json.loads(payload) for heard, payload in self.heard if heard == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
