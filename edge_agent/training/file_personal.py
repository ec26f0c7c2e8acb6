"""Personal parameters of each model: what never leaves the device, kept from Round to Round.

1. Counters (BatchNorm's) are kept with them. A file that does not fit the network is as none.
2. One file for each model, written whole, MODELS_MAX by the settings. What a kill left half
   written goes with the next write.
"""

from collections.abc import Mapping
from pathlib import Path

from shared.durable_file import make_private_folder, write_durably, write_failed
from shared.errors import ContractError
from shared.model.weights import Array, decode_weights, encode_weights

MODE = 0o600


class FilePersonal:
    """See the rules above."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: made when it is first written to."""
        self._folder = folder

    def read(self, model: str, network: Mapping[str, Array]) -> dict[str, Array]:
        """Return what is kept for a model, those arrays only that fit `network`'s state."""
        try:
            kept = decode_weights(self._path(model).read_bytes())
        except (OSError, ContractError):
            return {}
        return {
            name: array
            for name, array in kept.items()
            if name in network
            and array.shape == network[name].shape
            and array.dtype == network[name].dtype
        }

    def write(self, model: str, arrays: Mapping[str, Array]) -> None:
        """Keep a model's personal arrays. Raises TransientError `disk.write_failed`."""
        make_private_folder(self._folder)
        self._sweep()
        write_durably(self._path(model), encode_weights(arrays), mode=MODE)

    def _sweep(self) -> None:
        """Remove temporary files of a crash; one task at a time writes here."""
        try:
            for leftover in self._folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
        except OSError as error:
            raise write_failed(self._folder, error) from error

    def _path(self, model: str) -> Path:
        return self._folder / f"{model}.npz"
