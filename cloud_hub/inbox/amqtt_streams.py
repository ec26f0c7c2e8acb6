"""The stream of one connection as amqtt sees it: whole packets, within limits, within the rules.

In:
1. amqtt is given whole packets only, each at most PACKET_BYTES_MAX; a packet that is larger or
   malformed, and a PUBLISH on something that is no topic, ends the connection.
2. A client silent for 1.5 times its keep-alive is gone (section 3.1.2.10; amqtt does not look).
3. The end of a connection reaches amqtt only after it has passed on what the client sent before
   (it acknowledges first, and would keep the rest until the client's next visit).
4. While the broker has too much to pass on, nothing more is read: TCP slows the client down.
Out:
5. A PUBLISH that the client may not receive is dropped, whatever amqtt thinks.
6. Before the first SUBACK, retained copies at QoS 0 are dropped: amqtt sends a new connection
   every retained message that anybody subscribed to. What waited for the client is no retained
   message, though amqtt marks it so.
7. Writing never waits: a client that leaves OUT_BYTES_MAX unread is disconnected, so that a slow
   one costs a bounded amount of memory.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from amqtt.adapters import ReaderAdapter, WriterAdapter

from cloud_hub.inbox import mqtt_packets as packets
from cloud_hub.inbox.mqtt_packets import PACKET_BYTES_MAX, PacketType
from shared.errors import ContractError
from shared.link.topic_rules import may_receive
from shared.wire.topics import TOPIC_CHARS_MAX

OUT_BYTES_MAX = 16 << 20
KEEPALIVE_FACTOR = 1.5
PASSED_ON_S_MAX = 1.0
_POLL_S = 0.01
READ_BYTES = 64 * 1024


class PacketStream:
    """Reads whole packets; may be cancelled in the middle without losing a byte."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._buffer = bytearray()

    async def next_packet(self, *, bytes_max: int) -> bytes | None:
        """Return the next packet, or None at the end.

        Raises ContractError `mqtt.malformed` or `mqtt.too_large`; OSError as sockets do.
        """
        while True:
            split = packets.split_length(bytes(self._buffer[:5])) if self._buffer else None
            if split is not None:
                length = sum(split)
                if length > bytes_max:
                    raise ContractError("mqtt.too_large", f"A packet of {length} bytes.")
                if len(self._buffer) >= length:
                    packet = bytes(self._buffer[:length])
                    del self._buffer[:length]
                    return packet
            data = await self._reader.read(READ_BYTES)
            if not data:
                return None
            self._buffer += data


class GuardedReader(ReaderAdapter):  # type: ignore[misc]  # amqtt has no types
    """What amqtt reads from; see the rules above."""

    def __init__(
        self,
        stream: PacketStream,
        *,
        first_packet: bytes,
        keepalive_s: int,
        is_passed_on: Callable[[], bool],
        is_busy: Callable[[], bool],
    ) -> None:
        """Args: see below.

        first_packet: the CONNECT, already read.
        is_passed_on: whether amqtt has passed on everything that this client sent.
        is_busy: whether it has so much to pass on that nothing should be added.
        """
        self.end_code = ""  # Why the connection ended, if the client broke a rule
        self._stream = stream
        self._packet = memoryview(first_packet)
        self._timeout_s = keepalive_s * KEEPALIVE_FACTOR or None
        self._is_passed_on = is_passed_on
        self._is_busy = is_busy
        self._is_ended = False

    async def read(self, n: int = -1) -> bytes:
        """Return exactly `n` bytes of the current packet. Raises IncompleteReadError at the end."""
        if not self._packet and not self._is_ended:
            await self._fetch()
        if n < 0 or n > len(self._packet):
            self._is_ended = True  # A packet that ends in the middle of a field.
            raise asyncio.IncompleteReadError(bytes(self._packet), n)
        data = bytes(self._packet[:n])
        self._packet = self._packet[n:]
        return data

    def feed_eof(self) -> None:
        """End the stream."""
        self._is_ended = True

    async def _fetch(self) -> None:
        packet = None
        while self._is_busy():
            await asyncio.sleep(_POLL_S)
        try:
            async with asyncio.timeout(self._timeout_s):
                packet = await self._stream.next_packet(bytes_max=PACKET_BYTES_MAX)
            if packet is not None and packets.packet_type(packet) == PacketType.PUBLISH:
                _refuse_strange_publish(packet)
        except ContractError as error:
            self.end_code, packet = error.code, None
        except TimeoutError:
            self.end_code = "mqtt.silent"
        except OSError:
            pass  # The network ended it.
        if packet is None or packets.packet_type(packet) == PacketType.DISCONNECT:
            await self._let_pass_on()
        self._packet = memoryview(packet or b"")
        self._is_ended = packet is None

    async def _let_pass_on(self) -> None:
        for _ in range(int(PASSED_ON_S_MAX / _POLL_S)):
            await asyncio.sleep(_POLL_S)  # First: what was read may not even be queued yet.
            if self._is_passed_on():
                return


class GuardedWriter(WriterAdapter):  # type: ignore[misc]  # amqtt has no types
    """What amqtt writes to: one whole packet a call; see the rules above."""

    def __init__(self, writer: asyncio.StreamWriter, *, client: str) -> None:
        self.dropped_count = 0
        self._writer = writer
        self._client = client
        self._has_subscribed = False

    def write(self, data: bytes) -> None:
        """Send a packet, unless the client may not have it."""
        match packets.packet_type(data):
            case PacketType.SUBACK:
                self._has_subscribed = True
            case PacketType.PUBLISH:
                if not self._may_send(data):
                    self.dropped_count += 1
                    return
                data = data if self._has_subscribed else packets.without_retain(data)
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() + len(data) > OUT_BYTES_MAX:
            transport.abort()
            return
        self._writer.write(data)

    async def drain(self) -> None:
        """Return at once; see rule 7."""

    def get_peer_info(self) -> tuple[str, int] | None:
        """Return the peer's address and port."""
        info = self._writer.get_extra_info("peername")
        return (info[0], info[1]) if info else None

    def get_ssl_info(self) -> ssl.SSLObject | None:
        """Return the TLS object of this connection."""
        return cast("ssl.SSLObject | None", self._writer.get_extra_info("ssl_object"))

    async def close(self) -> None:
        """Close the connection, without waiting for the peer."""
        self._writer.close()

    def _may_send(self, packet: bytes) -> bool:
        is_leak = (
            not self._has_subscribed and packets.is_retained(packet) and packets.qos_of(packet) == 0
        )
        return not is_leak and may_receive(self._client, packets.publish_path(packet))


def _refuse_strange_publish(packet: bytes) -> None:
    """Raise ContractError `mqtt.malformed` for what nobody here sends.

    A topic that is none would leave a half-dead session behind in amqtt; QoS 2 leaves open flows.
    """
    path = packets.publish_path(packet)
    if packets.qos_of(packet) > 1:
        raise ContractError("mqtt.malformed", "PUBLISH at QoS 2.")
    if not path or len(path) > TOPIC_CHARS_MAX or path[0] == "$" or "+" in path or "#" in path:
        raise ContractError("mqtt.malformed", "PUBLISH on something that is no topic.")
