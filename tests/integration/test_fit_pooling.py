"""What devices measured, pooled at the hub: told by the API, a page and a command, and hinted."""

import msgspec
import pytest
from msgspec import UNSET

from cloud_hub.command_line.parser import build_parser, parse, run
from shared.ids import DeviceId, new_session_id
from shared.wire.fit import FitChoice, FitHint, FitReport, FitRow, FitStanding
from shared.wire.presence import Presence
from shared.wire.report import ModelReport, Report, UpdateState
from tests.support.api_client import MODEL, ApiHub
from tests.support.enrolled import HARDWARE, received

pytestmark = pytest.mark.slow


def row(precision: str, ms: float, **changes: object) -> FitRow:
    measured = FitRow(
        precision=precision,
        backend="onnxruntime",
        threads=2,
        run_ms_p50=ms,
        run_ms_p95=ms + 1,
        items_per_s=2000 / ms,
        runs_count=50,
    )
    return msgspec.structs.replace(measured, **changes)


def tell(
    hub: ApiHub,
    device: DeviceId,
    int8_ms: float,
    *,
    choice: str = "int8",
    digest: str = "",
    board: str = HARDWARE.board,
) -> None:
    """Let a device of some board be born, and report a table of the model's first release."""
    hardware = msgspec.structs.replace(HARDWARE, board=board)
    birth = Presence(is_online=True, reason="started", hardware=hardware)
    hub.services.devices.on_presence(received(device, birth, session=new_session_id()))
    fit = FitReport(
        version=1,
        manifest_digest=digest or hub.services.releases.get(MODEL, 1).manifest_digest,
        fingerprint="f" * 16,  # What a device says of its own hardware is not believed
        rows=(
            row("int8", int8_ms, agreement=0.99),
            row("fp32", 10.0),
            row("bf16", 1.0, code="worker.crashed", text="It crashed."),
        ),
        choice=FitChoice(precision=choice, backend="onnxruntime", threads=2),
        reasons=(f"{choice} is the fastest",),
        standing=FitStanding.MEASURED,
    )
    model = ModelReport(model=MODEL, state=UpdateState.IDLE, version=0, fit=fit)
    report = Report(target_revision=0, at_ms=1, models=(model,))
    hub.rollouts.on_report(received(device, report, session=new_session_id()))


def hint_for(hub: ApiHub, number: int) -> FitHint | None:
    """Return the hint in the newest Target of a device."""
    target = list(hub.fleet.devices.values())[number].targets[-1]
    hint = target.releases[0].fit_hint
    return None if hint is UNSET else hint


def test_the_next_device_of_the_same_hardware_is_told_what_the_others_chose(
    api_hub: ApiHub,
) -> None:
    one, two, three, alike, unlike = (d.device_id for d in api_hub.enrol(5))
    tell(api_hub, one, 4.0)
    tell(api_hub, two, 6.0)
    tell(api_hub, three, 9.9, choice="fp32")
    for device, board in ((alike, HARDWARE.board), (unlike, "Another board")):
        birth = Presence(is_online=True, hardware=msgspec.structs.replace(HARDWARE, board=board))
        api_hub.services.devices.on_presence(received(device, birth, session=new_session_id()))
    body = {"model": MODEL, "version": 1, "waves": ["100%"], "bake_s": 0.0}
    assert api_hub.client().post("/api/v1/rollouts", json=body).status_code == 201
    api_hub.step(2)
    assert hint_for(api_hub, 3) == FitHint(
        precision="int8", backend="onnxruntime", threads=2, run_ms_p50=5.0, devices_count=2
    )
    assert hint_for(api_hub, 4) is None


def test_a_table_is_told_by_the_api_a_page_and_a_command(
    api_hub: ApiHub, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = [device.device_id for device in api_hub.enrol(2)]
    tell(api_hub, devices[0], 4.0)
    tell(api_hub, devices[0], 5.0)  # The newest of a device counts, once
    tell(api_hub, devices[1], 4.0, board="Another board")
    client = api_hub.client()
    answer = client.get(f"/api/v1/releases/{MODEL}/1/fits")
    assert answer.status_code == 200, answer.text
    fits = {fit["hardware"].partition(",")[0]: fit for fit in answer.json()["fits"]}
    assert set(fits) == {HARDWARE.board, "Another board"}
    fit = fits[HARDWARE.board]
    assert (fit["devices_count"], fit["choice"]["run_ms_p50"]) == (1, 5.0)
    assert fit["rows"][2]["text"] == "It crashed. [worker.crashed]"
    assert fit["rows"][2]["run_ms_p50"] is None
    assert client.get(f"/api/v1/releases/{MODEL}/99/fits").status_code == 404
    candidate = api_hub.services.releases.get(MODEL, 1).candidate_id
    page = client.get(f"/candidates/{candidate}")
    assert page.status_code == 200, page.text
    assert "Another board" in page.text
    assert "It crashed. [worker.crashed]" in page.text
    token_file = api_hub.state / "operator"
    token_file.write_text(api_hub.token)
    token_file.chmod(0o600)
    words = ["releases", "fits", f"{MODEL}:1", "--hub", api_hub.url]
    words += ["--operator-token-file", str(token_file)]
    capsys.readouterr()
    assert run(parse(build_parser(), words)) == 0
    told = capsys.readouterr().out
    assert "Another board" in told
    assert "int8 is the fastest" in told


def test_a_table_of_a_release_that_there_is_not_is_left_out(api_hub: ApiHub) -> None:
    device = api_hub.enrol()[0].device_id
    tell(api_hub, device, 4.0, digest="0" * 64)
    assert api_hub.rollouts.fits(MODEL, 1) == ()
