"""Parts: what every model's updater works with. Put together by the composition root."""

from dataclasses import dataclass

from edge_agent.updates.file_journal import FileJournal
from edge_agent.updates.file_slots import FileSlots
from edge_agent.updates.proving import Prover
from edge_agent.updates.receipts import ReceiptMaker
from edge_agent.updates.release_source import ReleaseSource
from shared.clock import Clock


@dataclass(frozen=True, slots=True)
class Parts:
    """What every model's updater works with."""

    source: ReleaseSource
    journals: FileJournal
    slots: FileSlots
    prover: Prover
    receipts: ReceiptMaker
    clock: Clock
    retry_s_min: float
    retry_s_max: float
