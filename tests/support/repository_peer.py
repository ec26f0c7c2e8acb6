"""The hub's side of block transfer: answers requests from a real repository, over a bad link."""

import random
from collections.abc import Callable

from cloud_hub.releases.service import ReleaseService
from edge_agent.updates.transfer import BlockTransfer
from shared.errors import TransientError
from shared.ids import DeviceId, SessionId
from shared.wire.blocks import Block, BlockRequest, wanted_indexes
from shared.wire.codec import decode, encode
from shared.wire.topics import Message, topic_of

DEVICE = DeviceId("dev-test")
SESSION = SessionId("0123456789abcdef")


class RepositoryPeer:
    """Give `publish` to a BlockTransfer, then `connect` it. Every message goes over the codec."""

    def __init__(
        self,
        releases: ReleaseService,
        *,
        loss: float = 0.0,
        duplicates: float = 0.0,
        is_reordered: bool = False,
        seed: int = 0,
        before_block: Callable[[Block], None] = lambda _block: None,
    ) -> None:
        self.releases = releases
        self.requests: list[BlockRequest] = []
        self.sent: list[
            tuple[str, int]
        ] = []  # (path, index) of every block that reached the device
        self.is_silent = False
        self.is_down = False
        self.answers_missing: set[str] = set()  # Paths the hub says it does not have
        self.size_of: dict[str, int] = {}  # Paths whose size the hub lies about
        self._transfer: BlockTransfer | None = None
        self._random = random.Random(seed)
        self._loss, self._duplicates, self._is_reordered = loss, duplicates, is_reordered
        self._before_block = before_block

    def connect(self, transfer: BlockTransfer) -> None:
        self._transfer = transfer

    def publish(self, request: BlockRequest) -> None:
        if self.is_down:
            raise TransientError("link.down", "The link is down.")
        message = over_the_wire(request)
        assert isinstance(message, BlockRequest)
        self.requests.append(message)
        if not self.is_silent:
            self._answer(message)

    def bytes_of(self, part: str) -> int:
        """How many bytes of payload went to the device for paths that contain `part`."""
        sizes = (self._block(path, index) for path, index in self.sent if part in path)
        return sum(len(block.data) for block in sizes)

    def indexes_of(self, part: str) -> list[int]:
        return [index for path, index in self.sent if part in path]

    def _answer(self, request: BlockRequest) -> None:
        blocks = [self._block(request.path, index) for index in wanted_indexes(request)]
        if self._is_reordered:
            self._random.shuffle(blocks)
        for block in blocks:
            copies = 1 + (self._random.random() < self._duplicates)
            if self._random.random() >= self._loss:
                for _ in range(copies):
                    self._deliver(block)

    def _block(self, path: str, index: int) -> Block:
        found = self.releases.read_block(path, index)
        if found is None or path in self.answers_missing:
            return Block(path=path, index=index, file_bytes=0, data=b"", is_missing=True)
        size = self.size_of.get(path, found.file_bytes)
        return Block(path=path, index=index, file_bytes=size, data=found.data)

    def _deliver(self, block: Block) -> None:
        self._before_block(block)
        message = over_the_wire(block)
        assert isinstance(message, Block)
        assert self._transfer is not None
        self.sent.append((block.path, block.index))
        self._transfer.deliver(message)


def over_the_wire(message: Message) -> Message:
    """Return what arrives when `message` is sent."""
    payload = encode(message, session_id=SESSION, sent_ms=0)
    return decode(topic_of(message).path(DEVICE), payload).message
