"""SharedPlace: one entry of [[sharing.samples]] while the agent runs. Pure but for its items.

What the hub is told of an item is decided here, and nowhere else.
"""

from dataclasses import dataclass, field

from edge_agent.sharing.local_item import LocalItem, LocalItems
from edge_agent.sharing.settings import SharedSamples
from edge_agent.sharing.standing import EntryStanding, EntryState
from shared.wire.device_samples import OfferedItem, SampleOffer, SharedItem

TEXT_CHARS_MAX = 2000
REMEMBERED_MAX = 400_000  # Samples that are not looked at again; a number each


@dataclass(slots=True)
class SharedPlace:
    """See above. Used by one thread."""

    settings: SharedSamples
    source: LocalItems
    done: set[int] = field(default_factory=set)  # Keys of items that are not looked at again
    not_before_s: float = 0.0  # Monotonic
    state: EntryState = EntryState.WAITING
    code: str = ""
    text: str = ""
    until_ms: int | None = None
    sent_count: int = 0
    left_out_count: int = 0

    def finish(self, key: int) -> None:
        """Do not look at an item again, as long as so many can be remembered."""
        if len(self.done) >= REMEMBERED_MAX:
            self.done.clear()
        self.done.add(key)

    def offer_of(self, batch: list[LocalItem]) -> SampleOffer:
        """Return an offer of these items, all of one kind."""
        return SampleOffer(
            dataset=self.settings.dataset,
            kind=batch[0].kind,
            window_shape=batch[0].window_shape,
            items=tuple(OfferedItem(digest=i.digest, bytes_count=len(i.data)) for i in batch),
        )

    def told(self, item: LocalItem) -> SharedItem:
        """Return an item with what its owner lets it say."""
        own = self.settings
        return SharedItem(
            dataset=own.dataset,
            kind=item.kind,
            window_shape=item.window_shape,
            digest=item.digest,
            data=item.data,
            label=item.label if own.with_labels else None,
            captured_ms=item.captured_ms if own.with_times else None,
            site=own.site,
        )

    def stands(
        self, state: EntryState, *, code: str = "", text: str = "", until_ms: int | None = None
    ) -> None:
        """Say how it stands from now on."""
        self.state, self.code, self.until_ms = state, code, until_ms
        self.text = text[:TEXT_CHARS_MAX]

    def standing(self) -> EntryStanding:
        """Return how it stands."""
        return EntryStanding(
            dataset=self.settings.dataset,
            path=self.settings.path,
            state=self.state,
            code=self.code,
            text=self.text,
            sent_count=self.sent_count,
            left_out_count=self.left_out_count,
            until_ms=self.until_ms,
        )
