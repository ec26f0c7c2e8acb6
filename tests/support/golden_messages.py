"""One message of every kind, every field filled: what the golden bytes were made from.

The bytes in tests/contract/golden are kept for ever. A message that changes gets a new schema
number, new entries here, and new files; the old files stay, and the test says what becomes of them.
"""

from collections.abc import Mapping

import msgspec

from shared.wire.blocks import Block, BlockRequest
from shared.wire.certificates import CertificateReply, CertificateRequest
from shared.wire.envelope import Envelope
from shared.wire.fit import FitChoice, FitHint, FitReport, FitRow, FitStanding
from shared.wire.presence import Hardware, Heartbeat, Presence
from shared.wire.records import (
    Box,
    Classified,
    DecisionRecord,
    Detected,
    EventRecord,
    HostRecord,
    Record,
    RecordBatch,
    Scored,
    StageTimes,
    TelemetryRecord,
    Watermark,
)
from shared.wire.report import (
    Failure,
    LearningReport,
    LearningState,
    ModelReport,
    PipelineReport,
    Report,
    SignedReceipt,
    UpdateState,
)
from shared.wire.target import LearningOrder, Target, TargetRelease, TrialPolicy
from shared.wire.topics import Message

MESSAGE_ID = "00112233445566aa"
SESSION_ID = "aabbccddeeff0011"
SENT_MS = 1_700_000_000_123
_DIGEST = "0123456789abcdef" * 4
_OUTCOMES = (
    Classified(label="seven", confidence=0.75),
    Detected(boxes=(Box("car", 0.5, 0.0, 0.25, 0.5, 1.0), Box("bus", 0.25, 0.0, 0.0, 1.0, 1.0))),
    Scored(score=12.5, threshold=10.0, is_anomalous=True),
)
_BODIES = (
    *(
        DecisionRecord(
            pipeline="door",
            model="digits",
            version=3,
            item=41 + index,
            captured_ms=SENT_MS - 500,
            latency_ms=7.25,
            outcome=outcome,
        )
        for index, outcome in enumerate(_OUTCOMES)
    ),
    TelemetryRecord(
        pipeline="door",
        model="digits",
        version=3,
        window_s=10.0,
        items_in=100,
        items_decided=97,
        items_dropped=2,
        items_failed=1,
        latency_ms_p50=5.5,
        latency_ms_p95=9.5,
        latency_ms_max=20.0,
        inference_ms_p50=3.5,
        inference_ms_p95=4.5,
        confidence_mean=0.875,
        swap_pause_ms_max=0.25,
        labels={"seven": 60, "eight": 37},
    ),
    HostRecord(
        window_s=10.0,
        cpu_share=0.5,
        rss_bytes=120_000_000,
        disk_free_bytes=5_000_000_000,
        temperature_c=51.5,
    ),
    EventRecord(code="source.lost", text="Die Kamera antwortet nicht – nächster Versuch."),
)
_NUMBERS = (
    TelemetryRecord(
        pipeline="door",
        model="digits",
        version=3,
        window_s=10.0,
        items_in=100,
        items_decided=97,
        items_dropped=2,
        items_failed=1,
        latency_ms_p50=5.5,
        latency_ms_p95=9.5,
        latency_ms_max=20.0,
        inference_ms_p50=3.5,
        inference_ms_p95=4.5,
        confidence_mean=0.875,
        swap_pause_ms_max=0.25,
        labels={},
        items_gated=5,
        stages={"wait": StageTimes(0.5, 1.5, 2.5)},
        sinks_lost=4,
        worker_rss_bytes=46_000_000,
    ),
    HostRecord(
        window_s=10.0,
        cpu_share=0.5,
        rss_bytes=120_000_000,
        disk_free_bytes=5_000_000_000,
        workers_rss_bytes=46_000_000,
        workers_cpu_share=0.75,
    ),
)

GOLDEN: Mapping[str, Message] = {
    "presence.birth.v1": Presence(
        is_online=True,
        reason="started",
        agent_version="0.1.0",
        boot_id="6d0c2f1e",
        hardware=Hardware(
            machine="aarch64",
            board="Raspberry Pi 5 Model B Rev 1.0",
            cores_count=4,
            memory_bytes=8_000_000_000,
        ),
    ),
    "presence.death.v1": Presence(is_online=False, reason="connection lost"),
    "heartbeat.v1": Heartbeat(uptime_s=3600, outbox_rows=12, outbox_dropped=1),
    "records.v1": RecordBatch(
        stream="0123456789abcdef",
        since=6,
        records=tuple(
            Record(sequence=7 + index, at_ms=SENT_MS - 100 + index, body=body)
            for index, body in enumerate(_BODIES)
        ),
    ),
    "report.v1": Report(
        target_revision=5,
        at_ms=SENT_MS,
        models=(
            ModelReport(
                model="digits",
                state=UpdateState.TRIAL,
                version=2,
                manifest_digest=_DIGEST,
                precision="int8",
                target_version=3,
                rollout="roll-7fk2mq9x",
                progress=1.0,
                trial_items=40,
                failure=Failure(
                    version=1,
                    manifest_digest=_DIGEST,
                    rollout="roll-aaaaaaaa",
                    code="trial.worse",
                    text="Confidence fell by 0.3.",
                    undo_ms=12,
                ),
                receipt=SignedReceipt(payload=b"receipt", signature=b"signature"),
            ),
        ),
        pipelines=(
            PipelineReport(pipeline="door", model="digits", state="running", detail="10 a second"),
        ),
    ),
    "records.numbers.v1": RecordBatch(
        stream="0123456789abcdef",
        since=0,
        records=tuple(
            Record(sequence=sequence, at_ms=SENT_MS, body=body)
            for sequence, body in enumerate(_NUMBERS, 1)
        ),
    ),
    "report.source.v1": Report(
        target_revision=5,
        at_ms=SENT_MS,
        models=(),
        pipelines=(
            PipelineReport(
                pipeline="door",
                model="digits",
                state="waiting for a model",
                is_ordered=True,
                source="running",
            ),
        ),
    ),
    "report.learning.v1": Report(
        target_revision=5,
        at_ms=SENT_MS,
        models=(),
        learning=(
            LearningReport(
                job="job-7fk2mq9x",
                model="digits",
                state=LearningState.WAITING,
                code="eligibility.battery",
                text="The device runs from its battery.",
                restarts_count=1,
                rounds_count=2,
                epsilon_spent=1.5,
                epsilon_max=8.0,
            ),
        ),
    ),
    "report.fit.v1": Report(
        target_revision=5,
        at_ms=SENT_MS,
        models=(
            ModelReport(
                model="digits",
                state=UpdateState.IDLE,
                version=3,
                fit=FitReport(
                    version=3,
                    manifest_digest=_DIGEST,
                    fingerprint="0123456789abcdef",
                    rows=(
                        FitRow(
                            precision="int8",
                            backend="onnxruntime",
                            threads=2,
                            artifact_bytes=2_600_000,
                            run_ms_p50=4.5,
                            run_ms_p95=5.25,
                            items_per_s=400.0,
                            runs_count=200,
                            rss_bytes=50_000_000,
                            agreement=0.984375,
                            golden_error=0.0009765625,
                        ),
                        FitRow(
                            precision="fp32",
                            backend="openvino",
                            threads=1,
                            code="worker.memory",
                            text="It took more than it may.",
                        ),
                    ),
                    choice=FitChoice(precision="int8", backend="onnxruntime", threads=2),
                    reasons=("int8 on onnxruntime, 2 threads: 400 items a second",),
                    standing=FitStanding.ANEW,
                    why="int8 takes 4.5 ms here, 2 ms on 3 devices of this hardware",
                ),
            ),
        ),
    ),
    "report.empty.v1": Report(target_revision=0, at_ms=SENT_MS, models=()),
    "block-request.v1": BlockRequest(path="metadata/timestamp.json", first=16, wanted=b"\xff\x01"),
    "certificate-request.v1": CertificateRequest(csr_pem="-----BEGIN CERTIFICATE REQUEST-----"),
    "target.v1": Target(
        revision=5,
        issued_ms=SENT_MS,
        releases=(
            TargetRelease(
                model="digits",
                version=3,
                manifest_digest=_DIGEST,
                rollout="roll-7fk2mq9x",
                trial=TrialPolicy(
                    items_min=50,
                    seconds_min=5.0,
                    deadline_s=300.0,
                    failed_share_max=0.02,
                    latency_ratio_max=1.5,
                    latency_ms_floor=4.0,
                    confidence_drop_max=0.1,
                    disagreement_share_max=0.4,
                ),
            ),
        ),
        pipelines=("door",),
    ),
    "target.learning.v1": Target(
        revision=5,
        issued_ms=SENT_MS,
        learning=(
            LearningOrder(
                job="job-7fk2mq9x",
                model="digits",
                host="hub.example",
                port=9092,
                until_ms=SENT_MS + 1,
                samples_min=10,
                noise_multiplier=1.25,
            ),
        ),
    ),
    "target.fit.v1": Target(
        revision=5,
        issued_ms=SENT_MS,
        releases=(
            TargetRelease(
                model="digits",
                version=3,
                manifest_digest=_DIGEST,
                rollout="roll-7fk2mq9x",
                fit_hint=FitHint(
                    precision="int8",
                    backend="onnxruntime",
                    threads=2,
                    run_ms_p50=4.5,
                    devices_count=12,
                ),
            ),
        ),
    ),
    "target.empty.v1": Target(revision=0, issued_ms=0),
    "watermark.v1": Watermark(stream="0123456789abcdef", sequence=12, resend=True),
    "block.v1": Block(
        path="targets/releases/digits/3/int8.onnx", index=2, file_bytes=131_080, data=b"\x00\x01end"
    ),
    "block.missing.v1": Block(
        path="metadata/2.root.json", index=0, file_bytes=0, data=b"", is_missing=True
    ),
    "certificate-reply.v1": CertificateReply(certificate_pem="-----BEGIN CERTIFICATE-----"),
    "certificate-reply.refused.v1": CertificateReply(
        code="enrolment.revoked", text="This device was revoked."
    ),
}


def golden_bytes(message: Message) -> bytes:
    """Return a message in an envelope whose every field is fixed."""
    envelope = Envelope(
        schema=message.schema,
        message_id=MESSAGE_ID,
        session_id=SESSION_ID,
        sent_ms=SENT_MS,
        body=msgspec.Raw(msgspec.msgpack.encode(message)),
    )
    return msgspec.msgpack.encode(envelope)
