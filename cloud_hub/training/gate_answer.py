"""What the gate says of a Job's checkpoint: a release, or a refusal; both are answers.

Federated and cloud Jobs ask in the same way. What must not live here: what a Job does with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_hub.candidates.candidate import CandidateId, GateRefusedError
from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.releases.service import ReleaseService
from cloud_hub.training.lifecycle import ResultEvent
from shared.ids import LineageId


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """What became of a checkpoint."""

    event: ResultEvent
    code: str
    text: str
    candidate_id: CandidateId | None
    release_version: int | None


def ask_gate(
    releases: ReleaseService,
    checkpoint: Checkpoint,
    *,
    notes: str,
    metrics: Mapping[str, float],
    lineage_id: LineageId,
) -> GateAnswer:
    """Return what the gate says; takes tens of seconds. Raises as ReleaseService.add_trained."""
    try:
        release = releases.add_trained(
            checkpoint, notes=notes, metrics=metrics, lineage_id=lineage_id
        )
    except GateRefusedError as error:
        return GateAnswer(
            ResultEvent.REFUSED, error.code, error.message, error.candidate.candidate_id, None
        )
    return GateAnswer(
        ResultEvent.RELEASED,
        "job.released",
        f"It became release {release.name}.",
        release.candidate_id,
        release.version,
    )
