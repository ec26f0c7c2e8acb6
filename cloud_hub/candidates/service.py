"""CandidateService: takes a model in, has it examined, lets the gate judge, keeps the answer.

1. A refused candidate is kept with its Verdict, the newest REFUSED_KEPT_MAX of them; its bytes are
   not kept.
2. The same bytes give the same content digest: that is how a release is found again.
"""

import logging
import secrets
import threading

from cloud_hub.candidates import gate, sql_store
from cloud_hub.candidates.candidate import (
    Candidate,
    CandidateId,
    GateRefusedError,
    PassedCandidate,
    Verdict,
)
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.process_examiner import Examined, examine
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import RefusedError
from shared.ids import LineageId, parse_model_name
from shared.model.spec import ModelSpec, encode_spec
from shared.release.digest import digest_of

log = logging.getLogger(__name__)

CANDIDATES_SHOWN_MAX = 1000
REFUSED_KEPT_MAX = 10_000


class CandidateService:
    """See the rules above. Safe to share between threads."""

    def __init__(
        self, database: Database, clock: Clock, settings: GateSettings | None = None
    ) -> None:
        """Start without touching anything."""
        self._database = database
        self._clock = clock
        self._settings = settings or GateSettings()
        self._examinations = threading.BoundedSemaphore(self._settings.examinations_max)

    def judge(
        self,
        *,
        model_bytes: bytes,
        spec: ModelSpec,
        golden_bytes: bytes | None,
        lineage_id: LineageId,
    ) -> PassedCandidate:
        """Return the candidate that the gate let through, ready to be published.

        Takes seconds: the model is examined in a process of its own. Raises GateRefusedError
        `gate.refused`, whose candidate carries every reason.
        """
        verdict = gate.refuse_size(len(model_bytes), self._settings)
        examined = None
        if verdict is None:
            with self._examinations:  # Each may take all the memory that one is allowed.
                examined = examine(model_bytes, spec, golden_bytes, self._settings)
            verdict = gate.judge(examined.examination, spec, self._settings)
        candidate = Candidate(
            candidate_id=CandidateId("cand-" + secrets.token_hex(6)),
            model=parse_model_name(spec.model),
            content_digest=content_digest(model_bytes, spec, golden_bytes),
            lineage_id=lineage_id,
            precision=examined.examination.model.precision if examined else "",
            created_ms=now_ms(self._clock),
            verdict=verdict,
        )
        with self._database.begin() as connection:
            sql_store.insert_candidate(connection, candidate)
            sql_store.drop_refused(connection, kept_max=REFUSED_KEPT_MAX)
        _tell(candidate)
        return _passed(candidate, spec, verdict, examined)

    def get(self, candidate_id: str) -> Candidate:
        """Return one candidate. Raises RefusedError `candidate.unknown`."""
        with self._database.read() as connection:
            found = sql_store.find_candidate(connection, candidate_id)
        if found is None:
            raise RefusedError("candidate.unknown", f"There is no candidate {candidate_id[:80]!r}.")
        return found

    def candidates(self, model: str | None = None, *, limit: int = 100) -> tuple[Candidate, ...]:
        """Return the newest candidates, refused ones too, of one model or of all."""
        with self._database.read() as connection:
            return sql_store.select_candidates(
                connection, model=model, limit=min(limit, CANDIDATES_SHOWN_MAX)
            )


def content_digest(model_bytes: bytes, spec: ModelSpec, golden_bytes: bytes | None) -> str:
    """Return what identifies an upload: the digest of its parts' digests."""
    golden = digest_of(golden_bytes) if golden_bytes is not None else "drawn"
    parts = (digest_of(model_bytes), digest_of(encode_spec(spec)), golden)
    return digest_of("\n".join(parts).encode())


def _passed(
    candidate: Candidate, spec: ModelSpec, verdict: Verdict, examined: Examined | None
) -> PassedCandidate:
    if not verdict.is_passed or examined is None:
        raise GateRefusedError(candidate)
    return PassedCandidate(
        candidate=candidate,
        spec=spec,
        model_bytes=examined.model_bytes,
        golden_bytes=examined.golden_bytes,
    )


def _tell(candidate: Candidate) -> None:
    log.info(
        "candidate.judged",
        extra={
            "model": candidate.model,
            "candidate": candidate.candidate_id,
            "is_passed": candidate.verdict.is_passed,
            "reasons": [reason.code for reason in candidate.verdict.reasons],
        },
    )
