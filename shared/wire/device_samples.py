"""What a device and the hub say to each other over HTTPS about samples that the owner shares.

1. Every request is signed (signed_request.py); nothing here needs an operator, and nothing else is
   reached this way.
2. POST OFFER_PATH takes SampleOffer (JSON): digests only, no sample. It answers OfferReply: which
   of them the hub wants now. Asking changes nothing.
3. POST ITEM_PATH takes SharedItem (msgpack): one sample with what its owner tells of it. It answers
   ItemReply once the hub has it on its disk. The same item sent again is the same item.
4. A picture's bytes are a file as it lies on the device, or a PNG; a window's float32 (T, C), C
   order, little-endian; a text's UTF-8.
5. An error is shared.wire.enrolment.ErrorReply, with the same codes as everywhere.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.wire.limits import Digest, LongText, Name, Seconds, ShortText, UnixMs

OFFER_PATH = "/api/v1/device-samples/offer"
ITEM_PATH = "/api/v1/device-samples/item"
OFFERED_MAX = 1000
ITEM_BYTES_MAX = 8 << 20
ITEM_REQUEST_BYTES_MAX = ITEM_BYTES_MAX + 16 * 1024
AXIS_MAX = 65_536  # Of a window

ItemBytes = Annotated[int, Meta(ge=1, le=ITEM_BYTES_MAX)]
# (T, C) of a window; empty for all else.
WindowShape = Annotated[tuple[Annotated[int, Meta(ge=1, le=AXIS_MAX)], ...], Meta(max_length=2)]


class SampleKind(StrEnum):
    """What a sample is."""

    IMAGE = "image"
    WINDOW = "window"
    TEXT = "text"


class Wish(StrEnum):
    """Whether the hub wants samples of this device now."""

    WANTED = "wanted"
    NOT_WANTED = "not_wanted"  # The dataset is not open to this device
    DAY_FULL = "day_full"  # This device has sent all that it may in a day
    HUB_FULL = "hub_full"  # No room, or the dataset has as many as were asked for


class OfferedItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sample that could be sent."""

    digest: Digest
    bytes_count: ItemBytes


class SampleOffer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What could be sent for one dataset."""

    dataset: Name
    kind: SampleKind
    window_shape: WindowShape = ()
    items: Annotated[tuple[OfferedItem, ...], Meta(min_length=1, max_length=OFFERED_MAX)]


class OfferReply(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub wants of it. More fields may come; older devices skip them."""

    wish: Wish
    wanted: Annotated[tuple[Digest, ...], Meta(max_length=OFFERED_MAX)] = ()
    known: Annotated[tuple[Digest, ...], Meta(max_length=OFFERED_MAX)] = ()  # It has them already
    retry_s: Seconds = 0.0  # After which to ask again; the device adds some of its own
    text: LongText = ""  # For the device's owner


class SharedItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sample, with what its owner lets it say."""

    dataset: Name
    kind: SampleKind
    window_shape: WindowShape = ()
    digest: Digest
    data: Annotated[bytes, Meta(min_length=1, max_length=ITEM_BYTES_MAX)]
    label: ShortText | None = None
    captured_ms: UnixMs | None = None
    site: ShortText = ""
    group: ShortText = ""


class ItemReply(msgspec.Struct, frozen=True, kw_only=True):
    """The hub has it. More fields may come; older devices skip them."""

    digest: Digest
    is_new: bool  # False: it had it before
