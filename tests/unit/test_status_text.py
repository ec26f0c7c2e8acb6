"""What `edge-agent status` and `why` say."""

import msgspec

from edge_agent.command_line.status_text import status_lines, why_lines
from edge_agent.file_status import AgentStatus
from edge_agent.local_servers import LIVE, METRICS, LocalServer
from shared.release.receipt import Receipt, ReceiptOutcome
from shared.wire.report import (
    Failure,
    ModelReport,
    PipelineReport,
    Report,
    SignedReceipt,
    UpdateState,
)

DIGEST = "a" * 64
RECEIPT = Receipt(
    device="dev-x",
    model="tones",
    version=2,
    manifest_digest=DIGEST,
    artifact_digest=DIGEST,
    precision="int8",
    runtime="onnxruntime 1.22 CPUExecutionProvider",
    config_digest=DIGEST,
    boot_id="boot",
    golden_items=4,
    golden_error_max=0.00012345,
    outcome=ReceiptOutcome.SETTLED,
    rollout="roll-1",
    at_ms=1,
)
MODEL = ModelReport(
    model="tones",
    state=UpdateState.IDLE,
    version=2,
    manifest_digest=DIGEST,
    precision="int8",
    target_version=2,
    rollout="roll-1",
    progress=0.0,
    failure=Failure(
        version=3,
        manifest_digest=DIGEST,
        rollout="roll-2",
        code="trial.worse",
        text="It was worse.",
        undo_ms=120,
    ),
    receipt=SignedReceipt(payload=msgspec.json.encode(RECEIPT), signature=b"x"),
)
NOTHING = msgspec.structs.replace(
    MODEL, version=0, manifest_digest=None, precision="", failure=None, receipt=None
)


def status(*, is_connected: bool) -> AgentStatus:
    pipelines = (
        PipelineReport(pipeline="gate", model="tones", state="running"),
        PipelineReport(pipeline="dock", model="tones", state="failed", detail="No such file."),
    )
    return AgentStatus(
        device="dev-x",
        hub_url="https://hub:8443",
        is_connected=is_connected,
        pid=7,
        written_s=1.0,
        started_s=1.0,
        outbox_rows=12,
        outbox_bytes=4096,
        outbox_dropped=3,
        crashes={},
        report=Report(target_revision=1, at_ms=0, models=(MODEL,), pipelines=pipelines),
    )


def test_the_status_says_link_pipelines_models_and_outbox() -> None:
    text = "\n".join(status_lines(status(is_connected=True)))
    assert text.startswith("dev-x of https://hub:8443: connected, process 7")
    assert "failed (No such file.)" in text
    assert "release 2 int8" in text
    assert "release 3: It was worse." in text
    assert "12 records, 4 KiB waiting for the hub; 3 dropped" in text
    assert "NOT connected" in next(status_lines(status(is_connected=False)))


def test_the_status_names_what_is_served_beside_the_device_and_never_a_token() -> None:
    servers = (
        LocalServer(name=METRICS, url="http://0.0.0.0:9108/metrics"),
        LocalServer(name=LIVE, url="http://[::1]:8088/", token_path="/state/live.token"),
    )
    said = msgspec.structs.replace(status(is_connected=True), servers=servers)
    text = "\n".join(status_lines(said))
    assert (
        "metrics   on at http://0.0.0.0:9108/metrics (reachable from other machines); it asks for "
        "no token" in text
    )
    assert (
        "live view on at http://[::1]:8088/ (this machine only); its token is in /state/live.token"
        in text
    )
    off = (LocalServer(name=METRICS), LocalServer(name=LIVE, trouble="The port is taken."))
    text = "\n".join(status_lines(msgspec.structs.replace(said, servers=off)))
    assert "metrics   off: the file has no [metrics]" in text
    assert "live view off: The port is taken." in text


def test_why_names_the_wish_the_proof_and_what_was_not_kept() -> None:
    assert list(why_lines(MODEL)) == [
        "tones: release 2 runs (idle, as roll-1 asks).",
        "  It reproduced 4 golden items here (largest error 0.000123) on onnxruntime 1.22 "
        "CPUExecutionProvider; settled.",
        "  Release 3 was not kept: It was worse. [trial.worse]",
    ]
    assert list(why_lines(NOTHING)) == ["tones: no release runs yet (idle)."]


def test_a_trial_says_how_many_items_it_has_seen() -> None:
    trial = msgspec.structs.replace(MODEL, state=UpdateState.TRIAL, trial_items=0)
    assert (
        next(why_lines(trial)) == "tones: release 2 runs (trial, 0 items so far, as roll-1 asks)."
    )
    said = status(is_connected=True)
    report = msgspec.structs.replace(said.report, models=(trial,))
    text = "\n".join(status_lines(msgspec.structs.replace(said, report=report)))
    assert "trial, 0 items so far" in text
