"""What the hub says of why a device runs what it runs."""

from cloud_hub.rollouts.device_model import DeviceModel
from cloud_hub.rollouts.timeline import explain_device
from shared.ids import DeviceId, ModelName
from shared.wire.report import PipelineReport, UpdateState

DEVICE, MODEL = DeviceId("dev-1"), ModelName("bearing")
PIPELINES = (
    PipelineReport(
        pipeline="press", model=MODEL, state="reconnecting", detail="No message for 60 s."
    ),
    PipelineReport(pipeline="well", model=MODEL, state="running"),
    PipelineReport(pipeline="gate", model="people", state="failed", detail="No camera."),
)


def said(state: UpdateState) -> str:
    now = DeviceModel(
        device_id=DEVICE,
        model=MODEL,
        state=state,
        version=1,
        manifest_digest="a" * 64,
        trial_items=3,
        reported_ms=0,
    )
    told = explain_device(DEVICE, MODEL, now=now, receipt=None, parts=(), pipelines=PIPELINES)
    return "\n".join(told)


def test_a_trial_that_gets_no_items_says_how_many_and_which_source_is_lost() -> None:
    text = said(UpdateState.TRIAL)
    assert "Its trial has seen 3 items so far." in text
    assert "Its pipeline press is reconnecting: No message for 60 s." in text
    assert "well" not in text
    assert "gate" not in text


def test_outside_a_trial_items_are_not_told() -> None:
    text = said(UpdateState.IDLE)
    assert "Its trial" not in text
    assert "press is reconnecting" in text
