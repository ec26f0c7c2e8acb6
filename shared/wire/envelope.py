"""Envelope: what every message carries around its body, since MQTT 3.1.1 has no room for it."""

from typing import Annotated

import msgspec
from msgspec import Meta

from shared.wire.limits import Session, UnixMs


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Schema number of the body, who said it when, and the body, still encoded."""

    schema: Annotated[int, Meta(ge=1, le=1000)]
    message_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    session_id: Session  # The sender's connection life; see presence.py
    sent_ms: UnixMs  # The sender's clock: may be wrong
    body: msgspec.Raw
