"""The keys that sign releases: files of mode 0600, found by key id, never in the database.

1. `offline/` holds the private keys of root (three, two must sign) and of the top-level targets
   role. Move them away after the first start: only root rotation needs them again.
2. `online/` holds the private keys of releases, snapshot and timestamp, which sign every day.
3. A key is found by its id, so a file may be renamed, moved and brought back.
"""

from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Signer

from shared.durable_file import create_durably, make_folder
from shared.errors import UnavailableError

OFFLINE = "offline"
ONLINE = "online"
KEY_FILES_MAX = 100
_NOTE = """These are the offline keys of this fleet's releases.

Whoever holds two of the root keys decides what every device trusts. Move this folder's *.pem
files to two or more places that are not this machine (each root key to its own), and delete them
here. Everything keeps working without them; only a root rotation needs two of the root keys back,
and new online release keys need the targets key back.

Losing two of the three root keys means that every device must be enrolled again one day.
"""


class KeyFolder:
    """The private keys of one hub."""

    def __init__(self, folder: Path) -> None:
        """Args: the folder that holds `offline/` and `online/`; made when missing."""
        self._folder = folder
        for name in (OFFLINE, ONLINE):
            make_folder(folder / name, mode=0o700)

    @property
    def path(self) -> Path:
        """Return the folder."""
        return self._folder

    @property
    def offline_keys_present(self) -> bool:
        """Whether private keys that belong elsewhere lie on this machine."""
        return any((self._folder / OFFLINE).glob("*.pem"))

    def make(self, role: str, *, kind: str) -> CryptoSigner:
        """Return a new Ed25519 key, on disk before anything is signed with it."""
        signer = CryptoSigner.generate_ed25519()
        folder = self._folder / kind
        name = f"{role}-{signer.public_key.keyid[:8]}.pem"
        create_durably(folder / name, signer.private_bytes, mode=0o600)
        if kind == OFFLINE:
            create_durably(folder / "README.txt", _NOTE.encode(), mode=0o600)
        return signer

    def signers(self, key_ids: list[str]) -> list[Signer]:
        """Return those of these keys that are on this machine, in the order asked for."""
        present = {signer.public_key.keyid: signer for signer in self._read()}
        return [present[key_id] for key_id in key_ids if key_id in present]

    def require(self, role: str, key_ids: list[str], *, count: int) -> list[Signer]:
        """Return `count` keys of a role. Raises UnavailableError `release_keys.missing`."""
        found = self.signers(key_ids)
        if len(found) < count:
            raise UnavailableError(
                "release_keys.missing",
                f"{count} private keys of the role {role} are needed, {len(found)} are here.",
                remedy=f"Bring the role's key files back into {self._folder}.",
            )
        return found[:count]

    def _read(self) -> list[CryptoSigner]:
        files = [path for kind in (ONLINE, OFFLINE) for path in (self._folder / kind).glob("*.pem")]
        return [_load(path) for path in sorted(files)[:KEY_FILES_MAX]]


def _load(path: Path) -> CryptoSigner:
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except (OSError, ValueError, TypeError, UnsupportedLibraryError) as error:
        raise UnavailableError(
            "release_keys.unreadable",
            f"The key file {path} cannot be read: {error}.",
            remedy="Bring back its backup.",
        ) from error
