"""Ledger: the privacy ledger (ledger.py) on the disk, signed.

1. A charge is flushed to the disk before `charge` returns; only then may the update leave.
2. The file is JSON: the content, and the device key's ECDSA P-256 / SHA-256 signature over exactly
   those bytes.
3. A second file, the anchor, beside the device's key, holds the count and the digest of the ledger
   it belongs to, signed too. Order of writing: ledger, then anchor. So the ledger is that of the
   anchor, or its direct successor: power went between the two, and the update never left.
4. Anything else - missing, cut off, changed, signed by another key, older than the anchor - is
   IntegrityError `ledger.damaged`: nobody learns until the owner has decided. A budget is never
   forgotten silently.
5. One writer at a time, whichever process (a lock file); each file is written whole.
6. What this cannot do: whoever can read the device's key and write both files - root, or the
   agent's own user - can sign any ledger, put back an older copy of both, or remove both. The
   ledger keeps a hub, a bug and a crash from spending more than the owner allows; it does not bind
   the owner.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Meta

from edge_agent.training.budget import cost_of_rho
from edge_agent.training.ledger import (
    NO_ANCHOR,
    AnchorContent,
    Charge,
    LedgerContent,
    charged,
    is_anchored,
)
from edge_agent.training.node_files import FILE_BYTES_MAX, LEDGER
from edge_agent.training.settings import PrivacySettings
from shared.durable_file import make_folder, write_durably, write_failed
from shared.errors import IntegrityError, TransientError
from shared.learning.rdp import Rdp, epsilon_of
from shared.release.digest import digest_of

ANCHOR = "learning_ledger.json"  # In the folder of the device's key
LOCK_S_MAX = 5.0
LOCK_POLL_S = 0.01
MODE = 0o600

T = TypeVar("T")


class _Signed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    content: msgspec.Raw
    signature: Annotated[bytes, Meta(max_length=128)]


class Ledger:
    """See the rules above. Safe to share between threads and processes."""

    def __init__(
        self,
        path: Path,
        key: ec.EllipticCurvePrivateKey,
        *,
        anchor_path: Path,
        privacy: PrivacySettings,
    ) -> None:
        """Args: path: of the ledger; its folder and that of the anchor are made if need be."""
        self._path, self._anchor_path = path, anchor_path
        self._lock_path = path.with_suffix(".lock")
        self._key, self._public = key, key.public_key()
        self._privacy = privacy

    def content(self) -> LedgerContent:
        """Return everything.

        Raises IntegrityError `ledger.damaged`; TransientError `ledger.busy`, `disk.write_failed`.
        """
        with self._locked(fcntl.LOCK_SH):
            return self._read()[0]

    def spent(self, model: str) -> Rdp:
        """Return what a model has cost so far. Raises as `content`."""
        return cost_of_rho(self.content().account(model).rho)

    def epsilon(self, model: str) -> float:
        """Return what a model has cost so far, at the owner's delta. Raises as `content`."""
        return epsilon_of(self.spent(model), self._privacy.delta)

    def is_charged(
        self, model: str, job: str, round_: int, noise_multiplier: float, *, base_digest: str
    ) -> bool:
        """Return whether this very update was the last paid for in its Job. Raises as `content`."""
        charge = _charge(model, job, round_, noise_multiplier, base_digest)
        return charge in self.content().charges

    def charge(
        self, model: str, job: str, round_: int, noise_multiplier: float, *, base_digest: str
    ) -> float:
        """Pay for one update; return the model's lifetime epsilon, this one counted.

        When it returns the charge is on the disk, and only then may the update leave.

        Args: base_digest: of the weights that the update is against.

        Raises RefusedError `budget.spent`, `ledger.full`; IntegrityError `ledger.damaged`;
        TransientError `ledger.busy`, `disk.write_failed`.
        """
        charge = _charge(model, job, round_, noise_multiplier, base_digest)
        with self._locked(fcntl.LOCK_EX):
            content, digest, anchor = self._read()
            self._mend(content, digest, anchor)
            if charge not in content.charges:
                content = charged(content, charge, previous=digest, privacy=self._privacy)
                self._write(content)
        return epsilon_of(cost_of_rho(content.account(model).rho), self._privacy.delta)

    def adopt(self) -> LedgerContent:
        """Sign the ledger as it stands with the key of now; return it. The owner's decision.

        For a device that joined again and so has another key, or whose anchor is lost. Nothing
        that the ledger says was spent is forgotten. Raises IntegrityError `ledger.damaged` if the
        ledger cannot be read at all; TransientError as `charge`.
        """
        with self._locked(fcntl.LOCK_EX):
            data = _read_bounded(self._path)
            if data is None:
                raise self._damaged("it is missing")
            content = self._decode(bytes(self._decode(data, _Signed).content), LedgerContent)
            self._write(content)
            return content

    def _read(self) -> tuple[LedgerContent, str | None, AnchorContent | None]:
        """Return ledger, its digest (None before the first charge) and anchor, all checked."""
        anchor_data, data = _read_bounded(self._anchor_path), _read_bounded(self._path)
        if anchor_data is None:
            if data is not None:
                raise self._damaged(f"its anchor {self._anchor_path} is missing")
            return LedgerContent(), None, None
        anchor = self._decode(self._verified(anchor_data), AnchorContent)
        if data is None:
            if anchor.count:
                raise self._damaged("it is missing")
            return LedgerContent(), None, anchor
        raw = self._verified(data)
        content, digest = self._decode(raw, LedgerContent), digest_of(raw)
        if not is_anchored(content, digest, anchor):
            raise self._damaged(f"its count is {content.count}, the anchor's {anchor.count}")
        return content, digest, anchor

    def _mend(
        self, content: LedgerContent, digest: str | None, anchor: AnchorContent | None
    ) -> None:
        """Bring the anchor up to the ledger: the first one, or after power went between the two."""
        wanted = AnchorContent(count=content.count, ledger=digest) if digest else NO_ANCHOR
        if anchor != wanted:
            make_folder(self._anchor_path.parent, mode=0o700)
            self._write_signed(self._anchor_path, wanted)

    def _write(self, content: LedgerContent) -> None:
        self._sweep()
        digest = self._write_signed(self._path, content)
        self._write_signed(self._anchor_path, AnchorContent(count=content.count, ledger=digest))

    def _write_signed(self, path: Path, content: LedgerContent | AnchorContent) -> str:
        raw = msgspec.json.encode(content, order="deterministic")
        signature = self._key.sign(raw, ec.ECDSA(hashes.SHA256()))
        signed = _Signed(content=msgspec.Raw(raw), signature=signature)
        write_durably(path, msgspec.json.encode(signed), mode=MODE)
        return digest_of(raw)

    def _sweep(self) -> None:
        for path in (self._path, self._anchor_path):
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):
                leftover.unlink(missing_ok=True)

    def _verified(self, data: bytes) -> bytes:
        signed = self._decode(data, _Signed)
        raw = bytes(signed.content)
        try:
            self._public.verify(signed.signature, raw, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise self._damaged("it was not signed by this device's key") from error
        return raw

    def _decode(self, data: bytes, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=shape)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, reason: str) -> IntegrityError:
        return IntegrityError(
            "ledger.damaged",
            f"The privacy ledger {self._path} cannot be trusted: {reason}.",
            remedy="Put back the newest copy of it. If this device has joined a hub again since, "
            "run `edge-agent learning --config FILE --adopt-ledger`, which keeps what was spent. "
            f"To forget what was spent, remove it and {self._anchor_path} yourself.",
        )

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        make_folder(self._path.parent, mode=0o700)
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        except OSError as error:
            raise write_failed(self._lock_path, error) from error
        try:
            _take_lock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)


def open_ledger(folder: Path, key_path: Path, privacy: PrivacySettings) -> Ledger:
    """Return the ledger of `<state>/learning`, signed with the key of the device's identity.

    Raises IntegrityError `ledger.damaged` where that key cannot be read.
    """
    try:
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(key_path, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _no_key(key_path, "it is not an ECDSA key")
    return Ledger(folder / LEDGER, key, anchor_path=key_path.parent / ANCHOR, privacy=privacy)


def _no_key(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        "ledger.damaged",
        f"The privacy ledger cannot be read without the device's key {path}: {reason}.",
        remedy="Join again with a new token: edge-agent join --again.",
    )


def _charge(model: str, job: str, round_: int, noise_multiplier: float, base_digest: str) -> Charge:
    return Charge(
        job=job,
        model=model,
        round=round_,
        base_digest=base_digest,
        noise_multiplier=noise_multiplier,
    )


def _take_lock(descriptor: int, kind: int) -> None:
    """Take the lock within LOCK_S_MAX; a writer holds it for milliseconds."""
    deadline_s = time.monotonic() + LOCK_S_MAX
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise TransientError(
                    "ledger.busy", f"Another process held the ledger for {LOCK_S_MAX:.0f} s."
                ) from None
            time.sleep(LOCK_POLL_S)
        else:
            return


def _read_bounded(path: Path) -> bytes | None:
    """Return a file's bytes, None if there is none; what is too long or unreadable is damaged."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError:
        return b""
    return data if len(data) <= FILE_BYTES_MAX else b""
