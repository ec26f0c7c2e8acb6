"""Checkpoint: a network with weights, from which training goes on or a Candidate is exported."""

from dataclasses import dataclass
from typing import NewType

from shared.ids import LineageId, ModelName
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec

CheckpointId = NewType("CheckpointId", str)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Kept in the object store under its digest; never sent to a device as a release."""

    checkpoint_id: CheckpointId
    model: ModelName
    spec: ModelSpec
    network: NetworkSpec
    weights_digest: str  # shared.model.weights.digest_weights
    parameters_count: int
    lineage_id: LineageId
    origin: str  # "uploaded", "drawn" (fresh weights), or the Job that made it
    created_ms: int
