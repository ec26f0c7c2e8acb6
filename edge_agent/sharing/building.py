"""Puts the sharer together: from the owner's settings to a part that runs."""

from pathlib import Path

from edge_agent.sharing.file_ledger import FOLDER, SharingLedger
from edge_agent.sharing.file_pictures import FilePictures
from edge_agent.sharing.file_standing import FileStanding
from edge_agent.sharing.http_sharing import HttpSharing
from edge_agent.sharing.local_item import LocalItems
from edge_agent.sharing.opencv_rows import NpzRows
from edge_agent.sharing.settings import SharedSamples, SharingSettings
from edge_agent.sharing.shared_place import SharedPlace
from edge_agent.sharing.sharer import Sharer
from edge_agent.training.procfs_power import ProcfsPower
from edge_agent.training.settings import SampleFormat
from edge_agent.uplink.file_identity import FileIdentity
from shared.clock import Clock


def build_sharer(
    settings: SharingSettings,
    state: Path,
    identity: FileIdentity,
    power: ProcfsPower,
    clock: Clock,
) -> Sharer:
    """Return the part that sends samples; nothing is read and nothing is sent yet.

    Args: state: the agent's state folder. identity: of this device, which has joined.
    """
    folder = state / FOLDER
    return Sharer(
        settings,
        [SharedPlace(samples, items_of(samples)) for samples in settings.samples],
        hub=HttpSharing(identity, clock),
        ledger=SharingLedger(folder),
        standing=FileStanding(folder),
        conditions=lambda: power.read(is_clock_trusted=True),
        clock=clock,
    )


def items_of(samples: SharedSamples) -> LocalItems:
    """Return where an entry's samples lie."""
    path = Path(samples.path)
    match samples.format:
        case SampleFormat.FOLDER:
            return FilePictures(path)
        case SampleFormat.NPZ:
            return NpzRows(path, samples.classes)
