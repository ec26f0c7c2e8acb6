"""ModbusSource against pymodbus's own server, in a process that can be killed and frozen."""

import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from edge_agent.sources.capture import CaptureLoop, CaptureState
from edge_agent.sources.mailbox import mailbox_for
from edge_agent.sources.modbus_source import ModbusSource
from shared.clock import SystemClock
from shared.errors import ContractError, TransientError
from shared.pipeline.sources import (
    ModbusSettings,
    RegisterChannel,
    RegisterTable,
    RegisterType,
    WindowSettings,
    WordOrder,
)
from tests.support.http_streams import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

NEVER = threading.Event()
PI = struct.unpack(">2H", struct.pack(">f", 3.25))

# Holding 0..3: 7, 65535, and 3.25 with its lower half first; input 100: 40. Nothing else is there.
SERVER = f"""
import asyncio, sys
from pymodbus.server import StartAsyncTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
R = DataType.REGISTERS
device = SimDevice(1, simdata=(
    [SimData(0, values=[False] * 16, datatype=DataType.BITS)],
    [SimData(0, values=[False] * 16, datatype=DataType.BITS)],
    [SimData(0, values=[7, 65535, {PI[1]}, {PI[0]}], datatype=R)],
    [SimData(100, values=[40], datatype=R)],
))
asyncio.run(StartAsyncTcpServer(device, address=("127.0.0.1", int(sys.argv[1]))))
"""
CHANNELS = (
    RegisterChannel(address=100, table=RegisterTable.INPUT, scale=0.1, offset=-1.0),
    RegisterChannel(address=2, type=RegisterType.FLOAT32, words=WordOrder.LOW_FIRST),
    RegisterChannel(address=1),
    RegisterChannel(address=0, type=RegisterType.UINT16),
)
ROW = [3.0, 3.25, -1.0, 7.0]


class ModbusServer:
    """Can be frozen, killed and started again on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", SERVER, str(self.port)])

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


@pytest.fixture
def server() -> Iterator[ModbusServer]:
    server = ModbusServer()
    server.start()
    yield server
    server.kill()


def source_of(port: int, **options: object) -> ModbusSource:
    settings = ModbusSettings(
        **{
            "host": "127.0.0.1",
            "port": port,
            "channels": CHANNELS,
            "window": WindowSettings(samples=2),
            "rate_hz": 50.0,
            "timeout_s": 0.5,
            **options,
        }  # type: ignore[arg-type]
    )
    return ModbusSource(settings, SystemClock())


def open_when_ready(source: ModbusSource) -> None:
    def is_open() -> bool:
        try:
            source.open()
        except TransientError:
            return False
        return True

    wait_until(is_open, seconds_max=30.0)


def test_registers_of_every_kind_become_windows(server: ModbusServer) -> None:
    with closing(source_of(server.port)) as source:
        open_when_ready(source)
        window = source.read(NEVER)
        assert window is not None
        np.testing.assert_allclose(window.samples, [ROW, ROW], rtol=1e-6)
        later = source.read(NEVER)
        assert later is not None
        assert (window.sequence, later.sequence) == (0, 1)
        assert later.captured_s - window.captured_s > 0.005


def test_a_register_that_never_was_there_is_wrong_settings(server: ModbusServer) -> None:
    with closing(source_of(server.port, channels=(RegisterChannel(address=500),))) as source:
        open_when_ready(source)
        with pytest.raises(ContractError, match="holding registers 500 to 500") as caught:
            source.read(NEVER)
        assert caught.value.code == "source.registers"


def test_a_register_that_is_refused_later_is_missing_and_then_lost(server: ModbusServer) -> None:
    channels = (RegisterChannel(address=0), RegisterChannel(address=500))
    with closing(source_of(server.port, channels=channels)) as source:
        open_when_ready(source)
        with pytest.raises(TransientError, match="one after another were refused"):
            source.read(NEVER)
        assert source.bad_messages_count == 30


def test_an_answer_that_does_not_come_is_a_lost_source(server: ModbusServer) -> None:
    with closing(source_of(server.port)) as source:
        open_when_ready(source)
        assert source.read(NEVER) is not None
        server.signal(signal.SIGSTOP)
        with pytest.raises(TransientError) as caught:
            source.read(NEVER)
        assert caught.value.code == "source.lost"
        server.signal(signal.SIGCONT)
        open_when_ready(source)
        window = source.read(NEVER)
        assert window is not None
        np.testing.assert_allclose(window.samples, [ROW, ROW], rtol=1e-6)


def test_the_capture_loop_survives_a_killed_device(server: ModbusServer) -> None:
    source = source_of(server.port, rate_hz=20.0)
    mailbox, stop = mailbox_for(source, SystemClock()), threading.Event()
    loop = CaptureLoop(source, mailbox, SystemClock())
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    wait_until(lambda: mailbox.take(0.0), seconds_max=30.0)
    before = loop.interruptions_count
    server.kill()
    wait_until(lambda: mailbox.take(0.0) is None and loop.status.state is CaptureState.RECONNECTING)
    assert loop.status.code == "source.lost"
    server.start()
    wait_until(lambda: mailbox.take(0.0), seconds_max=30.0)
    assert loop.status.state is CaptureState.RUNNING
    assert loop.interruptions_count == before + 1
    stop.set()
    thread.join(10.0)
    assert not thread.is_alive()


def test_nobody_there_is_a_lost_source() -> None:
    with closing(source_of(free_port())) as source, pytest.raises(TransientError, match="Modbus"):
        source.open()
