"""One transfer against a hub that is slow, silent, confused or hostile."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.updates.transfer import (
    MAILBOX_BLOCKS_MAX,
    BlockTransfer,
    TransferSettings,
)
from shared.clock import SystemClock
from shared.errors import IntegrityError, IsthmusError, RefusedError, TransientError
from shared.release.digest import digest_of_file
from shared.wire.blocks import BLOCK_BYTES, Block, BlockRequest, wanted_indexes
from tests.support.manual_clock import ManualClock

PATH = "targets/releases/digits/1/x.onnx"
DATA = bytes(range(256)) * 1024 + b"the end"  # 4 blocks and 7 bytes
WRONG = DATA.replace(b"\x00", b"\x01")
STOP = threading.Event()
Answer = Callable[[BlockTransfer, BlockRequest], None]


def block(index: int, of: bytes = DATA, **changes: Any) -> Block:
    part = of[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
    good = Block(path=PATH, index=index, file_bytes=len(of), data=part)
    return msgspec.structs.replace(good, **changes)


def answer_well(transfer: BlockTransfer, request: BlockRequest) -> None:
    for index in wanted_indexes(request):
        transfer.deliver(block(index))


class Bench:
    """A transfer, and what the hub answers to each of its requests."""

    def __init__(self, answer: Answer = answer_well, **settings: int) -> None:
        self.requests: list[BlockRequest] = []
        self.clock = ManualClock()
        self.answer = answer
        self.transfer = BlockTransfer(
            self._publish, self.clock, TransferSettings(disk_reserve_bytes=0, **settings)
        )

    def _publish(self, request: BlockRequest) -> None:
        self.requests.append(request)
        self.answer(self.transfer, request)

    def read(self, bytes_max: int = 1_000_000) -> bytes:
        return self.transfer.read(PATH, bytes_max=bytes_max, stop=STOP)

    def fetch(self, into: Path, file_bytes: int = len(DATA)) -> None:
        self.transfer.fetch(
            PATH,
            file_bytes=file_bytes,
            into=into,
            verify=verify,
            on_progress=lambda _share: None,
            stop=STOP,
        )


def verify(path: Path) -> None:
    if path.read_bytes() != DATA:
        raise IntegrityError("release.digest", "Not what was signed.")


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(IsthmusError) as raised:
        act()
    return raised.value.code


def test_a_small_file_of_unknown_size_is_read_whole() -> None:
    bench = Bench()
    assert bench.read() == DATA
    assert wanted_indexes(bench.requests[0]) == (0,)
    assert [i for request in bench.requests for i in wanted_indexes(request)] == [0, 1, 2, 3, 4]
    assert bench.transfer.bytes_received == len(DATA)


def test_a_file_is_fetched_to_the_disk(tmp_path: Path) -> None:
    bench = Bench()
    bench.fetch(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_over_the_callers_limit_is_refused_at_its_first_block() -> None:
    bench = Bench()
    with pytest.raises(RefusedError) as raised:
        bench.read(bytes_max=len(DATA) - 1)
    assert raised.value.code == "transfer.too_large"
    assert len(bench.requests) == 1


def test_a_small_file_that_changes_is_read_again() -> None:
    older = b"older" * 30_000  # 3 blocks

    def answer(transfer: BlockTransfer, request: BlockRequest) -> None:
        data = older if len(bench.requests) == 1 else DATA
        for index in wanted_indexes(request):
            transfer.deliver(block(index, data))

    bench = Bench(answer)
    assert bench.read() == DATA


def test_a_file_that_never_stays_the_same_is_given_up() -> None:
    def answer(transfer: BlockTransfer, request: BlockRequest) -> None:
        for index in wanted_indexes(request):
            transfer.deliver(block(index, DATA + bytes(len(bench.requests))))

    bench = Bench(answer)
    assert code_of(bench.read) == "transfer.unsteady"


@pytest.mark.parametrize(
    "nonsense",
    [
        {"index": 4, "data": b""},
        {"index": 4, "data": b"the end and more"},
        {"index": 5, "data": b"past the end"},
        {"index": 2**50, "data": b"x"},
        {"index": 0, "data": b"short"},
        {"path": "metadata/timestamp.json"},
        {"path": PATH + ".other"},
    ],
)
def test_nonsense_is_neither_written_nor_an_answer(
    tmp_path: Path, nonsense: dict[str, Any]
) -> None:
    def answer(transfer: BlockTransfer, request: BlockRequest) -> None:
        transfer.deliver(msgspec.structs.replace(block(0), **nonsense))
        if len(bench.requests) > 1:
            answer_well(transfer, request)

    bench = Bench(answer)
    started_s = bench.clock.monotonic_s()
    bench.fetch(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
    assert bench.clock.monotonic_s() - started_s >= TransferSettings().answer_s_min / 2


def test_only_nonsense_is_silence(tmp_path: Path) -> None:
    def flood(transfer: BlockTransfer, _request: BlockRequest) -> None:
        for _ in range(50):
            transfer.deliver(block(9))

    bench = Bench(flood)
    assert code_of(lambda: bench.fetch(tmp_path / "file")) == "transfer.no_answer"


def test_silence_is_asked_with_growing_patience(tmp_path: Path) -> None:
    asked_s: list[float] = []
    bench = Bench(lambda _transfer, _request: asked_s.append(bench.clock.monotonic_s()))
    assert code_of(lambda: bench.fetch(tmp_path / "file")) == "transfer.no_answer"
    waits = [b - a for a, b in itertools.pairwise(asked_s)]
    assert len(waits) == TransferSettings().tries_max - 1
    assert waits[-1] > 4 * waits[0]


def test_a_signed_size_that_the_hub_contradicts(tmp_path: Path) -> None:
    bench = Bench()
    assert code_of(lambda: bench.fetch(tmp_path / "file", len(DATA) - 1)) == "release.digest"
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_file_that_does_not_verify_is_fetched_once_more(tmp_path: Path) -> None:
    """Its beginning came from a hub that was wrong then and is right now."""

    def wrong_then_silent(transfer: BlockTransfer, request: BlockRequest) -> None:
        if len(bench.requests) == 1:
            for index in wanted_indexes(request)[:2]:
                transfer.deliver(block(index, WRONG))

    bench = Bench(wrong_then_silent)
    assert code_of(lambda: bench.fetch(tmp_path / "file")) == "transfer.no_answer"
    bench.answer = answer_well
    bench.requests.clear()
    bench.fetch(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
    asked = [index for request in bench.requests for index in wanted_indexes(request)]
    assert asked == [2, 3, 4, 0, 1, 2, 3, 4]


def test_a_fresh_file_that_does_not_verify_is_not_fetched_again(tmp_path: Path) -> None:
    def wrong(transfer: BlockTransfer, request: BlockRequest) -> None:
        for index in wanted_indexes(request):
            transfer.deliver(block(index, WRONG))

    bench = Bench(wrong)
    assert code_of(lambda: bench.fetch(tmp_path / "file")) == "release.digest"
    asked = [index for request in bench.requests for index in wanted_indexes(request)]
    assert asked == [0, 1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == []


class SlowLink(ManualClock):
    """A clock on which blocks arrive one by one, each `block_s` after the one before."""

    def __init__(self, block_s: float) -> None:
        super().__init__()
        self.transfer: BlockTransfer | None = None
        self.sent: list[int] = []
        self._block_s = block_s
        self._due: list[tuple[float, int]] = []

    def publish(self, request: BlockRequest) -> None:
        for index in wanted_indexes(request):
            last_s = self._due[-1][0] if self._due else self.monotonic_s()
            self._due.append((last_s + self._block_s, index))
            self.sent.append(index)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        until_s = self.monotonic_s() + seconds
        if self._due and self._due[0][0] <= until_s:
            due_s, index = self._due.pop(0)
            self.advance(max(0.0, due_s - self.monotonic_s()))
            assert self.transfer is not None
            self.transfer.deliver(block(index, LONG))
            return True
        return super().wait(event, seconds)


LONG = bytes(40 * BLOCK_BYTES)


@pytest.mark.parametrize("block_s", [0.01, 1.0, 6.5, 20.0])
def test_a_slow_link_is_not_a_dead_one(tmp_path: Path, block_s: float) -> None:
    """6.5 s a block is 10 kB/s. What is sent twice makes such a link slower still."""
    link = SlowLink(block_s)
    link.transfer = BlockTransfer(link.publish, link, TransferSettings(disk_reserve_bytes=0))
    link.transfer.fetch(
        PATH,
        file_bytes=len(LONG),
        into=tmp_path / "file",
        verify=lambda _path: None,
        on_progress=lambda _share: None,
        stop=STOP,
    )
    assert (tmp_path / "file").stat().st_size == len(LONG)
    assert len(link.sent) <= 40 + 10


def test_blocks_nobody_waits_for_are_dropped_and_counted() -> None:
    bench = Bench()
    bench.transfer.deliver(block(0))
    assert bench.transfer.dropped_count == 1
    assert bench.read() == DATA
    bench.transfer.deliver(block(0))
    assert bench.transfer.dropped_count == 2


def test_the_mailbox_is_bounded(tmp_path: Path) -> None:
    def flood(transfer: BlockTransfer, request: BlockRequest) -> None:
        for _ in range(10 * MAILBOX_BLOCKS_MAX):
            transfer.deliver(block(0))
        if len(bench.requests) > 1:
            answer_well(transfer, request)

    bench = Bench(flood)
    with pytest.raises(TransientError):
        bench.fetch(tmp_path / "file")
    assert bench.transfer.dropped_count >= 9 * MAILBOX_BLOCKS_MAX


def test_a_stop_ends_a_transfer_that_waits() -> None:
    stop, asked = threading.Event(), threading.Event()
    transfer = BlockTransfer(lambda _request: asked.set(), SystemClock())
    codes: list[str] = []

    def work() -> None:
        codes.append(code_of(lambda: transfer.read(PATH, bytes_max=100, stop=stop)))

    thread = threading.Thread(target=work)
    thread.start()
    assert asked.wait(5)
    stop.set()
    thread.join(5)
    assert codes == ["transfer.stopped"]


def test_blocks_may_come_from_another_thread_and_two_transfers_take_turns(tmp_path: Path) -> None:
    hub_queue: list[BlockRequest] = []
    wake, done = threading.Semaphore(0), threading.Event()

    def publish(request: BlockRequest) -> None:
        hub_queue.append(request)
        wake.release()

    def serve() -> None:
        while wake.acquire(timeout=10) and not done.is_set():
            request = hub_queue.pop(0)
            for index in wanted_indexes(request):
                transfer.deliver(block(index, path=request.path))

    transfer = BlockTransfer(publish, SystemClock(), TransferSettings(disk_reserve_bytes=0))
    server = threading.Thread(target=serve)
    server.start()
    readers = [
        threading.Thread(
            target=transfer.fetch,
            args=(f"{PATH}.{n}",),
            kwargs={
                "file_bytes": len(DATA),
                "into": tmp_path / f"file{n}",
                "verify": verify,
                "on_progress": lambda _share: None,
                "stop": STOP,
            },
        )
        for n in range(3)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(20)
    done.set()
    wake.release()
    server.join(5)
    assert len({digest_of_file(tmp_path / f"file{n}") for n in range(3)}) == 1
