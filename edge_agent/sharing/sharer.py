"""Sharer: offers what the owner shares, sends what the hub wants of it, one item at a time.

1. A sample leaves only if the owner's policy allows it now (policy.py), the hub has asked for it,
   and a line in the ledger says so, on the disk. The policy is asked again before every item.
2. What the hub does not want is asked about again after the time that the hub says, and some more,
   so that a fleet does not ask all at once.
3. After a kill it begins again: the hub says what it has. Only the item that was on its way can be
   sent twice; both count.
4. One thread of its own. Trouble of any kind - no hub, a full disk, a damaged ledger, samples that
   cannot be read - is told in the standing and waited out; it ends nothing else, and holds up
   nothing else.
"""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from edge_agent.sharing.file_ledger import KeptLine, SentLine, SharingLedger
from edge_agent.sharing.file_standing import FileStanding
from edge_agent.sharing.local_item import LocalItem
from edge_agent.sharing.policy import (
    DAY_MS,
    LEFT,
    Allowance,
    Sending,
    allowance,
    can_ever_leave,
    obstacles,
)
from edge_agent.sharing.settings import SharingSettings
from edge_agent.sharing.shared_place import REMEMBERED_MAX, SharedPlace
from edge_agent.sharing.standing import EntryStanding, EntryState, SharingStanding
from edge_agent.training.eligibility import Conditions
from shared.backoff import Backoff
from shared.clock import Clock, now_ms
from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
    UnavailableError,
)
from shared.wire.device_samples import ItemReply, OfferReply, SampleOffer, SharedItem, Wish

log = logging.getLogger(__name__)

BATCH_ITEMS_MAX = 100
BATCH_BYTES_MAX = 16 << 20  # In memory at a time
BACKOFF_S_MIN = 5.0
BACKOFF_S_MAX = 900.0
REFUSED_S = 6 * 3600.0  # A hub that says no is asked again after this
LEDGER_S = 600.0
SPENT_S = 600.0  # Looked again after this, when a day's allowance is spent
JITTER_SHARE_MAX = 0.5
CONDITIONS_S = 5.0  # The machine is looked at this often
# The hub's mind may have changed since it was asked: ask it again what it wants.
ASK_AGAIN_CODES = frozenset({"samples.not_wanted", "samples.day_full", "collection.full"})
ASK_AGAIN_S = 60.0


class HubSide(Protocol):
    """The hub as the sharer sees it: http_sharing.HttpSharing, or what tests put in its place."""

    def offer(self, offer: SampleOffer, stop: threading.Event) -> OfferReply:
        """Return what the hub wants of an offer."""
        ...

    def send(self, item: SharedItem, stop: threading.Event) -> ItemReply:
        """Return once the hub has it."""
        ...


class Sharer:
    """See the rules above. `run` by one thread."""

    def __init__(
        self,
        settings: SharingSettings,
        places: Iterable[SharedPlace],
        *,
        hub: HubSide,
        ledger: SharingLedger,
        standing: FileStanding,
        conditions: Callable[[], Conditions],
        clock: Clock,
        seed: int | None = None,
    ) -> None:
        """Args: places: one for each entry of the settings, in their order."""
        self._settings, self._places = settings, tuple(places)
        self._hub, self._ledger, self._standing = hub, ledger, standing
        self._read_conditions, self._clock = conditions, clock
        self._random = random.Random(seed)  # noqa: S311  (spreads load, keeps no secret)
        self._backoff = Backoff(delay_s_min=BACKOFF_S_MIN, delay_s_max=BACKOFF_S_MAX, seed=seed)
        self._sent: deque[Sending] | None = None  # Of a day; None: not read yet
        self._kept: set[int] = set()
        self._told: tuple[EntryStanding, ...] = ()
        self._conditions: tuple[float, Conditions] | None = None

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set."""
        self._clock.wait(stop, self._random.uniform(0.0, self._settings.poll_s))
        while not stop.is_set():
            wait_s = self.step(stop)
            self.tell()
            self._clock.wait(stop, wait_s)

    def step(self, stop: threading.Event) -> float:
        """Look at every entry once; return after how many seconds to look again."""
        try:
            self._open_ledger()
            for place in self._places:
                if self._clock.monotonic_s() >= place.not_before_s and not stop.is_set():
                    self._serve(place, stop)
        except TransientError as error:
            wait_s = self._backoff.next_delay_s()
            if not stop.is_set():
                log.warning("sharing.put_off", extra={"code": error.code, "wait_s": wait_s})
                self._all_stand(error)
            return wait_s
        except (IntegrityError, UnavailableError) as error:
            # The ledger, the identity, or somebody between us and the hub
            log.error("sharing.stopped", extra={"code": error.code, "text": str(error)})
            self._sent = None
            self._all_stand(error)
            return LEDGER_S
        return self._settings.poll_s

    def _open_ledger(self) -> None:
        if self._sent is None:
            self._ledger.open()
            self._sent = deque(self._ledger.sendings())
            self._kept = {hash(pair) for pair in self._ledger.kept()}

    def _serve(self, place: SharedPlace, stop: threading.Event) -> None:
        """Bring an entry as far as it goes now. Raises TransientError, IntegrityError."""
        try:
            for batch in self._batches(place, stop):
                if not self._serve_batch(place, batch, stop):
                    return
        except RefusedError as error:
            self._wait(place, REFUSED_S, code=error.code, text=str(error))
            if error.code.startswith("samples."):  # They cannot be read: the owner may mend it.
                place.not_before_s = self._clock.monotonic_s() + ASK_AGAIN_S
        except ContractError as error:  # A hub that does not know of this
            self._wait(place, REFUSED_S, code=error.code, text=str(error))

    def _batches(self, place: SharedPlace, stop: threading.Event) -> Iterator[list[LocalItem]]:
        """Yield items that may leave and that the hub has not, a bounded number at a time."""
        batch: list[LocalItem] = []
        size = 0
        if not self._may_go_on(place, 1):
            return
        for item in place.source.items(place.done, now_s=self._clock.now_s()):
            if stop.is_set():
                return
            if not can_ever_leave(self._settings, len(item.data)):
                self._leave_out(place, item, "sharing.too_large")
                continue
            if hash((place.settings.dataset, item.digest)) in self._kept:
                place.finish(item.key)
                continue
            if batch and (
                size + len(item.data) > BATCH_BYTES_MAX
                or len(batch) >= BATCH_ITEMS_MAX
                or (item.kind, item.window_shape) != (batch[0].kind, batch[0].window_shape)
            ):
                yield batch
                batch, size = [], 0
            batch.append(item)
            size += len(item.data)
        if batch:
            yield batch
        if not stop.is_set() and place.not_before_s <= self._clock.monotonic_s():
            place.stands(EntryState.DONE)

    def _serve_batch(
        self, place: SharedPlace, batch: list[LocalItem], stop: threading.Event
    ) -> bool:
        """Offer items and send what is wanted; return whether to go on with the next ones."""
        reply = self._hub.offer(place.offer_of(batch), stop)
        self._backoff.reset()
        known, wanted = frozenset(reply.known), frozenset(reply.wanted)
        for item in batch:
            if item.digest in known:
                self._keep(place, item)
        if reply.wish is not Wish.WANTED:
            is_closed = reply.wish is Wish.NOT_WANTED
            state = EntryState.NOT_WANTED if is_closed else EntryState.WAITING
            self._wait(place, reply.retry_s, code=reply.wish.value, text=reply.text, state=state)
            return False
        place.stands(EntryState.SENDING)
        for item in batch:
            if item.digest not in wanted or item.key in place.done:
                continue
            if stop.is_set() or not self._may_go_on(place, len(item.data)):
                return False
            if not self._send(place, item, stop):
                return False
        return True

    def _send(self, place: SharedPlace, item: LocalItem, stop: threading.Event) -> bool:
        """Send one item; return whether to go on. See rule 1 for the order."""
        assert self._sent is not None
        sending = Sending(item.digest, len(item.data), now_ms(self._clock), place.settings.dataset)
        self._ledger.append(
            SentLine(
                at_ms=sending.at_ms,
                digest=sending.digest,
                bytes_count=sending.bytes_count,
                dataset=sending.dataset,
            )
        )
        self._sent.append(sending)
        try:
            self._hub.send(place.told(item), stop)
        except RefusedError as error:
            if error.code not in ASK_AGAIN_CODES:
                raise
            self._wait(place, ASK_AGAIN_S, code=error.code, text=str(error))
            return False
        except ContractError as error:  # Something about this one: never again
            self._leave_out(place, item, error.code)
            return True
        place.sent_count += 1
        self._ledger.append(
            KeptLine(at_ms=now_ms(self._clock), digest=item.digest, dataset=place.settings.dataset)
        )
        self._keep(place, item)
        return True

    def _may_go_on(self, place: SharedPlace, bytes_count: int) -> bool:
        """Return whether the owner's policy lets an item leave now; else say why not."""
        found = obstacles(self._settings, self._look())
        if found:
            text = " ".join(obstacle.text for obstacle in found)
            place.stands(EntryState.WAITING, code=found[0].code, text=text)
            return False
        left = self._left()
        if left.is_spent or not left.has_room_for(bytes_count):
            text = (
                "What may leave within 24 hours has left (sharing.items_per_day_max = "
                f"{self._settings.items_per_day_max}, sharing.bytes_per_day_max = "
                f"{self._settings.bytes_per_day_max})."
            )
            self._wait(place, SPENT_S, code=LEFT, text=text, is_jittered=False)
            return False
        return True

    def _look(self) -> Conditions:
        now_s = self._clock.monotonic_s()
        if self._conditions is None or now_s - self._conditions[0] >= CONDITIONS_S:
            self._conditions = (now_s, self._read_conditions())
        return self._conditions[1]

    def _left(self) -> Allowance:
        assert self._sent is not None
        at_ms = now_ms(self._clock)
        while self._sent and self._sent[0].at_ms <= at_ms - DAY_MS:
            self._sent.popleft()
        return allowance(self._settings, self._sent, now_ms=at_ms)

    def _keep(self, place: SharedPlace, item: LocalItem) -> None:
        if len(self._kept) >= REMEMBERED_MAX:  # All are offered again, and the hub knows them.
            self._kept.clear()
        self._kept.add(hash((place.settings.dataset, item.digest)))
        place.finish(item.key)

    def _leave_out(self, place: SharedPlace, item: LocalItem, code: str) -> None:
        log.warning("sharing.left_out", extra={"dataset": place.settings.dataset, "code": code})
        place.finish(item.key)
        place.left_out_count += 1

    def _wait(
        self,
        place: SharedPlace,
        seconds: float,
        *,
        code: str,
        text: str,
        state: EntryState = EntryState.WAITING,
        is_jittered: bool = True,
    ) -> None:
        """Leave an entry alone for so long, and some more."""
        more = self._random.uniform(0.0, JITTER_SHARE_MAX) if is_jittered else 0.0
        wait_s = seconds * (1.0 + more)
        place.not_before_s = self._clock.monotonic_s() + wait_s
        until_ms = now_ms(self._clock) + int(wait_s * 1000)
        place.stands(state, code=code, text=text, until_ms=until_ms)
        log.info("sharing.waits", extra={"dataset": place.settings.dataset, "code": code})

    def _all_stand(self, error: IsthmusError) -> None:
        for place in self._places:
            place.stands(EntryState.WAITING, code=error.code, text=str(error))

    def tell(self) -> None:
        """Write down how every entry stands, if that has changed."""
        entries = tuple(place.standing() for place in self._places)
        if entries == self._told:
            return
        try:
            self._standing.write(SharingStanding(written_ms=now_ms(self._clock), entries=entries))
            self._told = entries
        except TransientError as error:
            log.warning("sharing.not_told", extra={"code": error.code})
