"""How sharing stands, entry by entry: the agent tells it, the command line reads it. Values."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_agent.sharing.settings import ENTRIES_MAX
from shared.wire.limits import Count, LongText, Name, UnixMs


class EntryState(StrEnum):
    """What an entry does."""

    SENDING = "sending"
    DONE = "done"  # The hub has all that may leave, for now
    WAITING = "waiting"  # See the text
    NOT_WANTED = "not_wanted"  # The hub has not asked for it


class EntryStanding(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of [[sharing.samples]]."""

    dataset: Name
    path: str
    state: EntryState
    code: str = ""
    text: LongText = ""
    sent_count: Count = 0  # Since the agent started
    left_out_count: Count = 0  # Too large, or refused by the hub
    until_ms: UnixMs | None = None  # Not looked at again before


class SharingStanding(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    written_ms: UnixMs
    entries: Annotated[tuple[EntryStanding, ...], Meta(max_length=ENTRIES_MAX)]
