"""CandidateService: takes a model in, has it examined, lets the gate judge, keeps the answer.

1. A refused candidate is kept with its Verdict, the newest REFUSED_KEPT_MAX of them; its bytes are
   not kept.
2. Uploads and checkpoints go through exactly the same examination and gate.
3. The same bytes give the same content digest: that is how a release is found again.
"""

import logging
import secrets
import threading
from dataclasses import dataclass, replace

import msgspec

from cloud_hub.candidates import gate, gate_verdict, sql_store
from cloud_hub.candidates.candidate import (
    Candidate,
    CandidateId,
    GateRefusedError,
    PassedCandidate,
    PassedForm,
    Reason,
)
from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.gate_verdict import Background, Judgement, PublishedForm
from cloud_hub.candidates.process_examiner import Beside, Examined, Form, examine
from cloud_hub.candidates.process_exporter import export, tune
from cloud_hub.candidates.variant_choice import wants_tuning
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import ContractError, RefusedError
from shared.ids import LineageId, parse_model_name
from shared.model.spec import ImageInput, ModelSpec, TextInput, encode_spec
from shared.release.digest import digest_of
from shared.release.manifest import TOKENIZER_BYTES_MAX

log = logging.getLogger(__name__)

CANDIDATES_SHOWN_MAX = 1000
REFUSED_KEPT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Rivals:
    """What a candidate is judged by: the newest evaluation set and the release it would replace."""

    evaluation_digest: str = ""
    evaluation_bytes: bytes | None = None
    release: str = ""  # "digits:3"
    old_spec: ModelSpec | None = None
    old_bytes: bytes = b""
    old_tokenizer_bytes: bytes | None = None

    def beside(self) -> Beside:
        """Return what the examining process is given."""
        return Beside(
            evaluation_bytes=self.evaluation_bytes,
            old_spec=self.old_spec,
            old_bytes=self.old_bytes,
            old_tokenizer_bytes=self.old_tokenizer_bytes,
        )

    def background(self) -> Background:
        """Return what the gate is told."""
        return Background(evaluation_digest=self.evaluation_digest, release=self.release)


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """What an upload may say beside its model, spec and golden set."""

    is_folded: bool = True  # False: the model is published as it came, preprocessing outside
    tokenizer_bytes: bytes | None = None  # tokenizer.json of a text model


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
        rivals: Rivals | None = None,
        options: UploadOptions | None = None,
    ) -> PassedCandidate:
        """Return an uploaded model that the gate let through, ready to be published.

        Takes seconds: the model is examined in a process of its own. Raises GateRefusedError
        `gate.refused`, whose candidate carries every reason, and TransientError
        `disk.write_failed`.
        """
        rivals, options = rivals or Rivals(), options or UploadOptions()
        check_tokenizer(options.tokenizer_bytes, spec)
        digest = content_digest(model_bytes, spec, golden_bytes, options)
        verdict = gate.refuse_size(len(model_bytes), self._settings)
        if verdict is not None:
            return self._settle(spec, digest, lineage_id, Judgement(verdict, "", ""), None)
        with self._examinations:  # Each may take all the memory that one is allowed.
            beside = replace(rivals.beside(), tokenizer_bytes=options.tokenizer_bytes)
            examined = examine(
                model_bytes, spec, golden_bytes, self._settings, beside, is_folded=options.is_folded
            )
        judgement = gate_verdict.judge(
            examined.examination, spec, self._settings, rivals.background()
        )
        passed = self._settle(spec, digest, lineage_id, judgement, examined)
        return replace(passed, tokenizer_bytes=options.tokenizer_bytes)

    def judge_trained(
        self,
        checkpoint: Checkpoint,
        weights_bytes: bytes,
        *,
        lineage_id: LineageId,
        rivals: Rivals,
    ) -> PassedCandidate:
        """Return a checkpoint that was exported and that the gate let through.

        Raises GateRefusedError `gate.refused`, ContractError `weights.misfit`, RefusedError
        `export.failed`.
        """
        spec, settings = checkpoint.spec, self._settings
        given = (spec, checkpoint.network, weights_bytes)
        with self._examinations:
            made = export(*given, rivals.evaluation_bytes, settings.export)
            beside = replace(rivals.beside(), pruned_bytes=made.pruned_bytes)
            examined = examine(made.model_bytes, spec, None, settings, beside)
            remarks = [Reason("gate.not_pruned", made.pruned_error)] if made.pruned_error else []
            facts = examined.examination.evaluation
            evaluation = rivals.evaluation_bytes
            if facts and evaluation and wants_tuning(facts, settings.variants):
                tuned = tune(*given, evaluation, settings.export)
                if tuned.model_bytes:
                    beside = replace(beside, tuned_bytes=tuned.model_bytes)
                    examined = examine(made.model_bytes, spec, None, settings, beside)
                else:
                    remarks.append(Reason("gate.not_tuned", tuned.error))
        background = replace(rivals.background(), parity=made.parity, remarks=tuple(remarks))
        judgement = gate_verdict.judge(examined.examination, spec, settings, background)
        return self._settle(spec, trained_digest(checkpoint), lineage_id, judgement, examined)

    def _settle(
        self,
        spec: ModelSpec,
        digest: str,
        lineage_id: LineageId,
        judgement: Judgement,
        examined: Examined | None,
    ) -> PassedCandidate:
        """Keep the candidate; return it with its bytes. Raises GateRefusedError."""
        candidate = Candidate(
            candidate_id=CandidateId("cand-" + secrets.token_hex(6)),
            model=parse_model_name(spec.model),
            content_digest=digest,
            lineage_id=lineage_id,
            precision=judgement.precision,
            created_ms=now_ms(self._clock),
            verdict=judgement.verdict,
        )
        with self._database.begin() as connection:
            sql_store.insert_candidate(connection, candidate)
            sql_store.drop_refused(connection, kept_max=REFUSED_KEPT_MAX)
        _tell(candidate)
        return _passed(candidate, spec, judgement, examined)

    @property
    def settings(self) -> GateSettings:
        """Return the gate's limits."""
        return self._settings

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


def check_tokenizer(data: bytes | None, spec: ModelSpec) -> None:
    """Raise ContractError `release.tokenizer` if a file is no tokenizer, or not of this model."""
    if data is None:
        return
    problem = ""
    if not isinstance(spec.input, TextInput):
        problem = "only models of texts have a tokenizer"
    elif not 0 < len(data) <= TOKENIZER_BYTES_MAX:
        problem = f"it must have 1 to {TOKENIZER_BYTES_MAX} bytes"
    else:
        try:
            msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            problem = f"it is no JSON object ({error})"
    if problem:
        raise ContractError(
            "release.tokenizer",
            f"tokenizer: {problem}.",
            remedy="Give the tokenizer.json that the tokenizers library saves.",
        )


def content_digest(
    model_bytes: bytes,
    spec: ModelSpec,
    golden_bytes: bytes | None,
    options: UploadOptions | None = None,
) -> str:
    """Return what identifies an upload: the digest of its parts' digests."""
    golden = digest_of(golden_bytes) if golden_bytes is not None else "drawn"
    parts = [digest_of(model_bytes), digest_of(encode_spec(spec)), golden]
    options = options or UploadOptions()
    if options.tokenizer_bytes is not None:
        parts.append("tokenizer " + digest_of(options.tokenizer_bytes))
    if not options.is_folded:
        parts.append("not folded")
    return digest_of("\n".join(parts).encode())


def trained_digest(checkpoint: Checkpoint) -> str:
    """Return what identifies a checkpoint's release: an export's bytes differ from run to run."""
    network = msgspec.json.encode(checkpoint.network, order="deterministic")
    parts = (checkpoint.weights_digest, digest_of(encode_spec(checkpoint.spec)), digest_of(network))
    return digest_of("\n".join(parts).encode())


def _passed(
    candidate: Candidate, spec: ModelSpec, judgement: Judgement, examined: Examined | None
) -> PassedCandidate:
    if not judgement.verdict.is_passed or examined is None:
        raise GateRefusedError(candidate)
    first = Form(examined.model_bytes, examined.golden_bytes)
    folded = examined.examination.spec
    return PassedCandidate(
        candidate=candidate,
        spec=folded or spec,
        forms=tuple(
            _passed_form(said, examined.further.get(said.name, first)) for said in judgement.forms
        ),
        trained_input=spec.input if folded and isinstance(spec.input, ImageInput) else None,
    )


def _passed_form(said: PublishedForm, form: Form) -> PassedForm:
    return PassedForm(
        precision=said.precision,
        model_bytes=form.model_bytes,
        golden_bytes=form.golden_bytes,
        agreement=said.agreement,
        calibration=said.calibration,
        architectures=said.architectures,
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
