"""Devices that share samples with a hub in this process: by hand, or by the agent's own part."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.sharing.building import items_of
from edge_agent.sharing.file_ledger import SharingLedger
from edge_agent.sharing.file_standing import FileStanding
from edge_agent.sharing.settings import SharedSamples, SharingSettings
from edge_agent.sharing.shared_place import SharedPlace
from edge_agent.sharing.sharer import HubSide, Sharer
from edge_agent.training.eligibility import Conditions
from edge_agent.uplink.file_identity import make_csr
from shared.clock import Clock, now_ms
from shared.ids import DeviceId
from shared.release.digest import digest_of
from shared.wire.device_samples import (
    ITEM_PATH,
    OFFER_PATH,
    OfferedItem,
    SampleKind,
    SampleOffer,
    SharedItem,
)
from shared.wire.signed_request import RequestProof, headers_of, signed_bytes
from tests.support.api_client import ApiHub

GROUP = "north"
DATASET = "shapes"


@dataclass
class SharingDevice:
    """One device of a hub: its id, its key, and requests signed with it."""

    hub: ApiHub
    device_id: DeviceId
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def enrol(cls, hub: ApiHub, *, groups: Iterable[str] = (GROUP,)) -> "SharingDevice":
        key = ec.generate_private_key(ec.SECP256R1())
        devices = hub.services.devices
        token = devices.create_token(groups=groups, ttl_s=600)
        return cls(hub, devices.enrol(token.text, make_csr(key)).device_id, key)

    def proof(
        self, path: str, body: bytes, *, late_ms: int = 0, method: str = "POST"
    ) -> RequestProof:
        at_ms, nonce = now_ms(self.hub.clock) + late_ms, secrets.token_hex(8)
        signed = signed_bytes(method, path, body, device=self.device_id, at_ms=at_ms, nonce=nonce)
        signature = self.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        return RequestProof(device=self.device_id, at_ms=at_ms, nonce=nonce, signature=signature)

    def post(self, path: str, body: bytes, proof: RequestProof | None = None) -> httpx.Response:
        headers = headers_of(proof or self.proof(path, body))
        return self.hub.client(token=None).post(path, content=body, headers=headers)

    def offer(self, *items: bytes, **changes: Any) -> httpx.Response:
        return self.post(OFFER_PATH, msgspec.json.encode(offer_of(*items, **changes)))

    def send(self, data: bytes, /, **changes: Any) -> httpx.Response:
        return self.post(ITEM_PATH, msgspec.msgpack.encode(item_of(data, **changes)))


def offer_of(*items: bytes, **changes: Any) -> SampleOffer:
    """Return an offer of pictures, or what `changes` make of it."""
    offered = tuple(OfferedItem(digest=digest_of(i), bytes_count=len(i)) for i in items)
    offer = SampleOffer(dataset=DATASET, kind=SampleKind.IMAGE, items=offered)
    return msgspec.structs.replace(offer, **changes)


def item_of(data: bytes, /, **changes: Any) -> SharedItem:
    """Return a picture as it is sent, or what `changes` make of it."""
    item = SharedItem(dataset=DATASET, kind=SampleKind.IMAGE, digest=digest_of(data), data=data)
    return msgspec.structs.replace(item, **changes)


@dataclass
class SharerBench:
    """The agent's part on a folder of its own, before any hub."""

    state: Path
    settings: SharingSettings
    hub: HubSide
    clock: Clock
    conditions: list[Conditions] = field(
        default_factory=lambda: [Conditions(local_time=time(12), cores_count=1)]
    )

    def __post_init__(self) -> None:
        self.ledger = SharingLedger(self.state / "sharing")
        self.standing = FileStanding(self.state / "sharing")
        self.places = [SharedPlace(each, items_of(each)) for each in self.settings.samples]
        self.sharer = Sharer(
            self.settings,
            self.places,
            hub=self.hub,
            ledger=self.ledger,
            standing=self.standing,
            conditions=lambda: self.conditions[-1],
            clock=self.clock,
            seed=1,
        )


def share(path: Path, **changes: Any) -> SharedSamples:
    """Return an entry that shares a place."""
    return msgspec.structs.replace(SharedSamples(dataset=DATASET, path=str(path)), **changes)
