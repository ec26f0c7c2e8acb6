"""EmbeddedBroker: amqtt inside the hub, behind our own TLS gate.

1. Its event loop runs in its own thread; `start` returns when it listens.
2. TLS 1.2 or newer; a client certificate of the hub's own CA is demanded in the handshake.
3. The gate reads the CONNECT packet itself, within CONNECT_S_MAX and CONNECT_BYTES_MAX. The client
   id must be the certificate's common name, the last will (if any) that client's presence, and
   `is_allowed` must say yes. Only then does amqtt hear of the connection. (amqtt alone keeps the
   TLS object of a session's first connection, and ends a live session before it authenticates.)
4. One live connection per client: the newer one, which holds the same certificate name, closes
   the older, and amqtt sees the older end before the newer begins.
5. `cut` waits its turn behind a connection attempt of the same client, so none slips through
   between the check and the cut.
6. At most `connections_max` sockets, those still in their handshake included; of those that have
   not passed the gate yet, at most `strangers_per_address_max` from one address (tcp_door.py).
"""

import asyncio
import contextlib
import errno
import functools
import logging
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from amqtt.errors import AMQTTError, MQTTError
from msgspec import Meta

from cloud_hub.inbox import mqtt_packets as packets
from cloud_hub.inbox.amqtt_rules import LISTENER, GuardedBroker
from cloud_hub.inbox.amqtt_streams import READ_BYTES, GuardedReader, GuardedWriter, PacketStream
from cloud_hub.inbox.log_limit import LogLimit
from cloud_hub.inbox.mqtt_packets import CONNECT_BYTES_MAX, Connect, Refusal
from cloud_hub.tcp_door import Door, Guest
from shared.errors import ContractError, IsthmusError, TransientError, UnavailableError
from shared.ids import DeviceId, parse_device_id
from shared.link.topic_rules import may_leave_will
from shared.settings import Settings

log = logging.getLogger(__name__)

CONNECT_S_MAX = 5.0  # For the handshake, and again for CONNECT
CLOSE_S_MAX = 3.0
START_S_MAX = 10.0
STOP_S_MAX = 5.0
KEEPALIVE_S_MAX = 3600
LOG_PERIOD_S = 10.0  # One line per kind of refusal
LOG_KEYS_MAX = 100
REASON_CHARS_MAX = 200
T = TypeVar("T")

IsAllowed = Callable[[DeviceId, int], bool]


class BrokerSettings(Settings, frozen=True):
    """Where the embedded broker listens, and with which files."""

    ca_path: str
    certificate_path: str
    key_path: str
    host: str = "0.0.0.0"  # noqa: S104  (devices come from outside; the gate asks who they are)
    port: Annotated[int, Meta(ge=0, le=65535)] = 8883  # 0 takes any free one
    connections_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    strangers_per_address_max: Annotated[int, Meta(ge=1, le=100_000)] = 64


@dataclass(frozen=True, slots=True)
class _Live:
    """One connection that amqtt serves."""

    writer: asyncio.StreamWriter
    reader: GuardedReader
    guarded_writer: GuardedWriter
    done: asyncio.Event


class EmbeddedBroker:
    """Owns one thread between `start` and `stop`. Implements SessionCutter."""

    def __init__(self, settings: BrokerSettings, *, is_allowed: IsAllowed) -> None:
        """Args: see below.

        is_allowed: whether a device may connect with the certificate of this serial number.
            Called in a pool thread, once per connection, so it may read the database; the hub
            itself is asked about, too: an older certificate of its is no longer its own.
        """
        self.refused_count = 0  # Connections that did not pass the gate
        self._settings = settings
        self._is_allowed = is_allowed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None
        self._live: dict[str, _Live] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._log_limit = LogLimit(period_s=LOG_PERIOD_S, keys_max=LOG_KEYS_MAX)

    @property
    def port(self) -> int:
        """Return the port it listens on. Raises AssertionError before `start`."""
        assert self._listener is not None, "not started"
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Listen, and return.

        Raises UnavailableError `broker.port_busy`, `broker.listen`, `broker.certificate` or
        `broker.start`.
        """
        for name in ("amqtt", "transitions"):  # They log every packet, and errors that are none.
            logging.getLogger(name).setLevel(logging.CRITICAL)
        tls = _make_tls(self._settings)
        self._listener = _listen(self._settings.host, self._settings.port)
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(tls, ready), name="broker", daemon=True
        )
        self._thread.start()
        ready.result(timeout=START_S_MAX)
        log.info("broker.listening", extra={"host": self._settings.host, "port": self.port})

    def stop(self) -> None:
        """Close every connection and end the thread. A second call does nothing."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout=2 * STOP_S_MAX)
        if self._listener is not None:
            self._listener.close()

    def cut(self, device_id: DeviceId) -> None:
        """End the device's live connection, if it has one; its last will is published.

        Not to be called from the broker's own thread. Raises TransientError `broker.cut`.
        """
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            return
        try:
            self._call(self._cut(device_id)).result(timeout=2 * (CONNECT_S_MAX + CLOSE_S_MAX))
        except TimeoutError as error:
            raise TransientError("broker.cut", f"{device_id} was not cut in time.") from error

    # Everything below runs in the broker's thread.

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _run(self, tls: ssl.SSLContext, ready: "Future[None]") -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._loop.set_exception_handler(_log_failed_task)
            self._stopping = asyncio.Event()
            runner.run(self._serve(tls, ready))

    async def _serve(self, tls: ssl.SSLContext, ready: "Future[None]") -> None:
        assert self._listener is not None
        self._broker = GuardedBroker()
        try:
            await self._broker.start()
        except AMQTTError as error:
            ready.set_exception(UnavailableError("broker.start", f"amqtt: {error}."))
            return
        door = Door(
            self._listener,
            functools.partial(self._greet, tls),
            connections_max=self._settings.connections_max,
            strangers_max=self._settings.strangers_per_address_max,
            on_refused=lambda reason, who: self._refuse(f"broker.{reason}", who),
        )
        door.open()
        ready.set_result(None)
        await self._stopping.wait()
        door.close()
        for live in list(self._live.values()):
            live.writer.transport.abort()
        await door.empty(seconds_max=STOP_S_MAX)
        # Its own task: amqtt 0.11 lets the cancellation of what it cancelled out of `shutdown`.
        await asyncio.wait({asyncio.create_task(self._broker.shutdown())}, timeout=STOP_S_MAX)

    async def _greet(self, tls: ssl.SSLContext, connection: socket.socket, guest: Guest) -> None:
        """Shake hands and serve one connection to its end."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=tls,
                ssl_handshake_timeout=CONNECT_S_MAX,
                ssl_shutdown_timeout=CLOSE_S_MAX,
            )
        except (OSError, ConnectionError) as error:
            self._refuse("broker.handshake", str(error))
            connection.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self._admit(reader, writer, guest)
        except (IsthmusError, TimeoutError, OSError) as error:
            code = error.code if isinstance(error, IsthmusError) else "broker.connect"
            self._refuse(code, str(error))
        finally:
            writer.close()
            loop.call_later(CLOSE_S_MAX, transport.abort)

    async def _admit(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guest: Guest
    ) -> None:
        """Check who this is, and let amqtt serve it. Raises what is wrong with it."""
        stream = PacketStream(reader)
        name, serial = _peer_of(writer)
        async with asyncio.timeout(CONNECT_S_MAX):
            packet = await stream.next_packet(bytes_max=CONNECT_BYTES_MAX)
        if packet is None:
            raise ContractError("mqtt.malformed", "The connection ended before CONNECT.")
        refusal = Refusal.PROTOCOL
        try:
            connect = packets.parse_connect(packet)
            refusal = Refusal.IDENTIFIER
            client = _check_identity(connect, name)
            refusal = Refusal.NOT_AUTHORIZED
            _check_will(connect, client)
            async with self._turns[client]:
                await self._check_allowed(client, serial)
                refusal = Refusal.UNAVAILABLE
                await self._close_live(client)
                live = self._live[client] = self._guard(stream, writer, packet, connect)
        except IsthmusError:
            writer.write(packets.connack(refusal))
            raise
        guest.admit()
        await self._serve_client(client, live)

    async def _check_allowed(self, client: DeviceId, serial: int) -> None:
        """Raise ContractError `broker.not_allowed` for a device that may not connect."""
        if not await asyncio.to_thread(self._is_allowed, client, serial):
            raise ContractError("broker.not_allowed", f"{client} may not connect.")

    def _guard(
        self, stream: PacketStream, writer: asyncio.StreamWriter, packet: bytes, connect: Connect
    ) -> _Live:
        client, transport = connect.client_id, writer.transport
        reader = GuardedReader(
            stream,
            first_packet=packets.without_keepalive(packet, connect),  # The reader looks after it
            keepalive_s=min(connect.keepalive_s, KEEPALIVE_S_MAX),
            is_passed_on=lambda: self._broker.is_passed_on(client),
            is_busy=lambda: not transport.is_closing() and self._broker.is_busy(client),
        )
        return _Live(writer, reader, GuardedWriter(writer, client=client), asyncio.Event())

    async def _serve_client(self, client: DeviceId, live: _Live) -> None:
        log.debug("broker.connected", extra={"device": client})
        try:
            await self._broker.external_connected(live.reader, live.guarded_writer, LISTENER)
        except (AMQTTError, MQTTError) as error:
            log.warning("broker.session_failed", extra={"device": client, "error": repr(error)})
        finally:
            if self._live.get(client) is live:
                del self._live[client]
            live.done.set()
        if live.reader.end_code:
            log.warning("broker.client_cut", extra={"device": client, "code": live.reader.end_code})

    async def _cut(self, client: DeviceId) -> None:
        async with self._turns[client]:
            await self._close_live(client)

    async def _close_live(self, client: str) -> None:
        """End the live connection of `client`, and wait until amqtt has seen its end."""
        live = self._live.get(client)
        if live is None:
            return
        live.writer.transport.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S_MAX):
                await live.done.wait()
                return
        raise TransientError("broker.session_stuck", f"The old session of {client} does not end.")

    def _refuse(self, code: str, reason: str) -> None:
        self.refused_count += 1
        if self._log_limit.allows(code, time.monotonic()):  # Anybody can be refused, at any rate.
            extra = {"code": code, "reason": reason[:REASON_CHARS_MAX]}
            log.info("broker.refused", extra=extra | {"refused_count": self.refused_count})


def _make_tls(settings: BrokerSettings) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.options |= ssl.OP_NO_RENEGOTIATION  # It costs the one who asks for it next to nothing.
    tls.verify_mode = ssl.CERT_REQUIRED
    try:
        tls.load_verify_locations(settings.ca_path)
        tls.load_cert_chain(settings.certificate_path, settings.key_path)
    except OSError as error:  # ssl.SSLError is one
        raise UnavailableError(
            "broker.certificate", f"Cannot read the broker's certificate: {error}."
        ) from error
    return tls


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UnavailableError(
                "broker.port_busy",
                f"Port {port} is taken by another program.",
                remedy="Stop it, or give the broker another port with --mqtt.",
            ) from error
        raise UnavailableError(
            "broker.listen", f"Cannot listen on {host} port {port}: {error.strerror}."
        ) from error
    listener.setblocking(False)
    return listener


def _peer_of(writer: asyncio.StreamWriter) -> tuple[str, int]:
    """Return (common name, serial number) of the verified client certificate.

    Raises ContractError `broker.certificate_name`.
    """
    certificate: dict[str, Any] = writer.get_extra_info("peercert") or {}
    names = [
        value
        for part in certificate.get("subject", ())
        for key, value in part
        if key == "commonName"
    ]
    if len(names) != 1:
        raise ContractError("broker.certificate_name", "A certificate without exactly one name.")
    return names[0], int(certificate.get("serialNumber", "0"), 16)


def _check_identity(connect: Connect, name: str) -> DeviceId:
    """Return the client's id. Raises ContractError `id.device` or `broker.impostor`."""
    if connect.client_id != name:
        raise ContractError("broker.impostor", f"The certificate of {name!r} is not the client's.")
    return parse_device_id(connect.client_id)


def _check_will(connect: Connect, client: DeviceId) -> None:
    """Raise ContractError `broker.will` unless the last will is the client's own presence."""
    if connect.will_path is not None and not may_leave_will(client, connect.will_path):
        raise ContractError("broker.will", f"{client} may not leave a will there.")


def _log_failed_task(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # amqtt leaves tasks behind whose connection ended; they are no news.
    log.debug("broker.task_failed", extra={"detail": str(context.get("message", ""))})
