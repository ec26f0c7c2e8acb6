"""Candidate: weights not yet allowed anywhere, and Verdict: the gate's answer with its reasons."""

from dataclasses import dataclass
from typing import NewType

from shared.errors import RefusedError
from shared.ids import LineageId, ModelName
from shared.model.spec import ModelSpec

CandidateId = NewType("CandidateId", str)


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing the gate found: what was measured, and what the limit is."""

    code: str  # "gate.opset"
    text: str
    measured: str = ""
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer. `reasons` are why not; `remarks` are worth knowing and stop nothing."""

    is_passed: bool
    reasons: tuple[Reason, ...]
    remarks: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that asked to become a release, and what the gate said."""

    candidate_id: CandidateId
    model: ModelName
    content_digest: str  # What was uploaded: the same bytes give the same digest
    lineage_id: LineageId
    precision: str
    created_ms: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class PassedCandidate:
    """A candidate the gate let through, with the bytes that may be published."""

    candidate: Candidate
    spec: ModelSpec
    model_bytes: bytes  # Stripped of paths and texts
    golden_bytes: bytes


class GateRefusedError(RefusedError):
    """The gate said no (`gate.refused`); `candidate` carries the Verdict with every reason."""

    def __init__(self, candidate: Candidate) -> None:
        """Say the reasons in one sentence."""
        texts = " ".join(reason.text for reason in candidate.verdict.reasons)
        super().__init__("gate.refused", f"The gate refused this model: {texts}")
        self.candidate = candidate
        self.reasons = candidate.verdict.reasons
