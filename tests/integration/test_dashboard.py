"""The dashboard in a real browser: log in, look, act, and see what changes without reloading."""

import json
from collections.abc import Iterator

import msgspec
import pytest

from cloud_hub.api.services import HubStatus, PartStatus
from cloud_hub.rollouts.rollout import RolloutState
from shared.ids import RolloutId, new_session_id
from shared.wire.records import StageTimes
from tests.support.api_client import MODEL, ApiHub
from tests.support.browser import Browser, Page, open_browser
from tests.support.enrolled import birth
from tests.support.fleet_simulator import Behaviour
from tests.support.record_bodies import (
    decision_record,
    event_record,
    host_record,
    telemetry_record,
)

pytestmark = pytest.mark.slow
PHONE, DESK = (390, 844), (1280, 900)
PIPELINE = """[[pipelines]]
name = "{}"
model = "people"
source = {{kind = "stream", url = "rtsp://10.0.0.7/1"}}
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.open_page() as opened:
        opened.resize(*DESK)
        yield opened
        assert opened.surprises == []


def _wait_live(page: Page) -> None:
    page.wait("document.getElementById('live').dataset.state === 'live'")


def _start(hub: ApiHub, version: int, *, waves: tuple[str, ...] = ("100%",)) -> RolloutId:
    body = {"model": MODEL, "version": version, "waves": waves, "bake_s": 0.0}
    answer = hub.client().post("/api/v1/rollouts", json=body)
    assert answer.status_code == 201, answer.text
    return RolloutId(answer.json()["rollout"]["rollout_id"])


def test_an_empty_hub_says_what_to_do_next(empty_hub: ApiHub, page: Page) -> None:
    page.log_in(empty_hub.url, empty_hub.token)
    for path, hint in (
        ("/", "cloud-hub token create"),
        ("/releases", "cloud-hub models add"),
        ("/rollouts", "cloud-hub rollouts start"),
        ("/rollouts/new", "cloud-hub models add"),
        ("/enrol", "Make token"),
    ):
        page.open(empty_hub.url + path)
        assert hint in page.text("main"), path


def test_a_wrong_token_does_not_get_in_and_the_wanted_page_is_kept(
    api_hub: ApiHub, page: Page
) -> None:
    page.expected.append("status of 401")  # The browser notes it, in its own time.
    page.open(api_hub.url + "/releases")
    assert page.run("location.pathname") == "/login"
    page.fill("input[name=token]", "wrong")
    page.submit("form button")
    assert "not known" in page.text("[role=alert]")
    page.fill("input[name=token]", api_hub.token)
    page.submit("form button")
    assert page.run("location.pathname") == "/releases"
    assert page.run("document.cookie") == ""  # Out of reach of scripts
    page.submit("form[action='/logout'] button")
    assert page.run("location.pathname") == "/login"


def test_the_fleet_changes_before_your_eyes(api_hub: ApiHub, page: Page) -> None:
    device, other = (d.device_id for d in api_hub.enrol(2, names=("gate camera", "dock")))
    page.log_in(api_hub.url, api_hub.token)
    _wait_live(page)
    page.run("window.sameDocument = true")
    assert "gate camera" in page.text("#fleet")
    api_hub.services.devices.rename(device, "north gate")
    page.wait("document.querySelector('#fleet').innerText.includes('north gate')")
    for sequence in (1, 3):
        api_hub.tell(device, telemetry_record(), decision_record(1), first=sequence)
        api_hub.clock.advance(5)
    page.wait("document.querySelector('#fleet .spark polyline') !== null")
    assert "9.0 ms" in page.text("#fleet")
    page.fill("input[name=q]", "dock")
    page.wait("document.querySelectorAll('#fleet tbody tr').length === 1")
    api_hub.services.devices.rename(other, "dock two")
    page.wait("document.querySelector('#fleet').innerText.includes('dock two')")
    assert page.run("document.querySelectorAll('#fleet tbody tr').length") == 1
    assert page.run("window.sameDocument") is True


def test_a_hub_that_is_not_well_says_so_at_once(api_hub: ApiHub, page: Page) -> None:
    api_hub.enrol()
    page.log_in(api_hub.url, api_hub.token)
    _wait_live(page)
    assert "not well" not in page.text("main")
    link = PartStatus("broker link", is_good=False, detail="down")
    api_hub.status.append(HubStatus(parts=(link,)))
    page.wait("document.querySelector('main').innerText.includes('broker link is not well')")
    api_hub.status.append(HubStatus())
    page.wait("!document.querySelector('main').innerText.includes('not well')")


def test_a_device_s_page_shows_all_that_is_known(api_hub: ApiHub, page: Page) -> None:
    device = api_hub.enrol(1, names=("gate camera",))[0].device_id
    api_hub.services.devices.on_presence(birth(device, new_session_id()))
    _start(api_hub, 1)
    api_hub.step(8)
    api_hub.tell(
        device, telemetry_record(), decision_record(1), host_record(), event_record("It is dark.")
    )
    api_hub.clock.advance(5)
    api_hub.tell(device, telemetry_record(version=2), first=5)
    page.log_in(api_hub.url, api_hub.token, page=f"/devices/{device}")
    text = page.text("main")
    for part in ("gate camera", "Test Pi", "It is dark.", "reproduced 4 golden", "settled", "90 %"):
        assert part in text, part
    page.wait("Number(document.querySelector('#chart').dataset.drawn) === 2")
    assert page.run("document.querySelector('#chart canvas').width") > 300
    api_hub.clock.advance(5)
    api_hub.tell(device, telemetry_record(version=2), decision_record(77, label="kite"), first=6)
    page.wait("Number(document.querySelector('#chart').dataset.drawn) === 3")
    page.wait("document.querySelector('#device').innerText.includes('kite')")


def test_a_device_s_page_shows_what_became_of_items_and_equal_decisions_once(
    api_hub: ApiHub, page: Page
) -> None:
    device = api_hub.enrol(1)[0].device_id
    settings = {"name": "door", "model": MODEL, "source": {"kind": "stream", "url": "rtsp://a/1"}}
    api_hub.services.rollouts.pipelines.set([device], settings, by="tests")
    window = msgspec.structs.replace(
        telemetry_record(items_in=1234),
        items_gated=7,
        sinks_lost=3,
        worker_rss_bytes=46 << 20,
        stages={"wait": StageTimes(0.25, 1.5, 222.0), "run": StageTimes(7.0, 8.0, 9.0)},
    )
    host = msgspec.structs.replace(
        host_record(), workers_rss_bytes=46 << 20, workers_cpu_share=0.75
    )
    decisions = (decision_record(item, label="kite") for item in range(1, 6))
    api_hub.tell(device, window, host, *decisions, decision_record(6))
    page.log_in(api_hub.url, api_hub.token, page=f"/devices/{device}")
    text = " ".join(page.text("#pipeline-door").split())
    for part in ("in 1,234", "gated 7", "failed 2", "lost 3", "46.0 MiB"):
        assert part in text, part
    for part in ("ms wait run", "p50 0.25 7.0", "p99 222 9.0"):
        assert part in text, part
    assert "+ 75 % models" in page.text("#device-head")
    rows = "[...document.querySelectorAll('#device tr[id^=d]')].map(row => row.innerText)"
    newest, before = page.run(rows)
    assert "5 decisions in" in before
    assert "kite" in before
    assert "decisions" not in newest


def test_a_rollout_is_followed_held_and_undone(api_hub: ApiHub, page: Page) -> None:
    devices = api_hub.enrol(3)
    for device in devices:
        device.behaviour, device.honest_up_to = Behaviour.SLOW, 0
    rollout = _start(api_hub, 1, waves=("1", "100%"))
    page.log_in(api_hub.url, api_hub.token, page=f"/rollouts/{rollout}")
    _wait_live(page)
    assert page.run("document.querySelectorAll('.waves li').length") == 2
    assert "waiting" in page.text(".waves")
    api_hub.step(2)
    page.wait("document.querySelector('.waves').innerText.includes('1 updating')")
    page.submit("form[action$='/hold'] button")
    assert api_hub.rollouts.get(rollout).rollout.state is RolloutState.HELD
    assert "Held" in page.text("main")
    _wait_live(page)
    sure = "form[action$='/undo']"
    assert page.text(sure) == "Undo"
    page.run(f"document.querySelector({json.dumps(sure)}).querySelector('button').click()")
    page.wait(f"document.querySelector({json.dumps(sure)}).innerText.includes('Really')")
    api_hub.rollouts.resume(rollout, by="someone")  # The page refreshes; the question stays.
    page.wait("!document.querySelector('main').innerText.includes('Held:')")
    assert page.text(sure).strip() == "Really send all back?"
    assert api_hub.rollouts.get(rollout).rollout.state is RolloutState.RUNNING
    page.submit(f"{sure} button.danger:not([type=button])")
    assert api_hub.rollouts.get(rollout).rollout.state is RolloutState.UNDOING
    assert api_hub.services.audit.entries(limit=1)[0].action == "rollout.undo"


def test_a_rollout_is_started_from_a_release(api_hub: ApiHub, page: Page) -> None:
    api_hub.enrol(2)
    page.log_in(api_hub.url, api_hub.token, page="/releases")
    assert "0.97" in page.text("main")
    page.submit("a[href*='version=1']")
    assert page.run("document.querySelector('select[name=release]').value") == "digits:1"
    page.fill("input[name=waves]", "50%, 10%")
    page.submit("form button.primary")
    assert "waves" in page.text("main")  # What is wrong, on a page
    page.expected.append("status of 400")
    page.open(api_hub.url + "/rollouts/new?model=digits&version=1")
    page.fill("input[name=waves]", "1, 100%")
    page.submit("form button.primary")
    assert page.run("location.pathname").startswith("/rollouts/roll-")
    assert api_hub.rollouts.list()[0].created_by == "operator"


def test_a_device_is_enrolled_managed_and_revoked(api_hub: ApiHub, page: Page) -> None:
    page.log_in(api_hub.url, api_hub.token, page="/enrol")
    page.fill("input[name=name]", "gate camera")
    page.fill("input[name=groups]", "canary berlin")
    page.submit("form button.primary")
    command = page.text("[data-copy]").strip()
    assert command.startswith("edge-agent join https://hub.test:8443 --token ")
    device = api_hub.enrol()[0].device_id
    page.open(f"{api_hub.url}/devices/{device}")
    page.fill("input[name=name]", "dock")
    page.submit("form[action$='/rename'] button")
    page.fill("input[name=groups]", "canary, berlin")
    page.submit("form[action$='/groups'] button")
    assert api_hub.services.devices.get(device).groups == ("berlin", "canary")
    page.fill("textarea[name=settings]", "".join(PIPELINE.format(name) for name in ("a", "b")))
    page.submit("form[action$='/pipelines'] button")
    assert [one.name for one in api_hub.services.rollouts.pipelines.list(device)] == ["a", "b"]
    page.run("document.querySelector('form[action$=\"/revoke\"] button').click()")
    page.submit("form[action$='/revoke'] button:not([type=button])")
    assert "revoked" in page.text("#device-head")


def test_nothing_is_wider_than_a_phone(api_hub: ApiHub, page: Page) -> None:
    device = api_hub.enrol(2, names=("a camera with a very long name at the north gate",))[0]
    rollout = _start(api_hub, 1)
    api_hub.step(8)
    api_hub.tell(device.device_id, telemetry_record(), decision_record(1), host_record())
    page.log_in(api_hub.url, api_hub.token)
    page.resize(*PHONE)
    pages = ("/", f"/devices/{device.device_id}", "/releases", "/rollouts", f"/rollouts/{rollout}")
    for path in (*pages, "/rollouts/new", "/enrol", "/audit"):
        page.open(api_hub.url + path)
        assert page.run("document.documentElement.scrollWidth") <= PHONE[0], path


def test_colours_follow_the_system_and_can_be_turned(api_hub: ApiHub, page: Page) -> None:
    page.log_in(api_hub.url, api_hub.token)

    def ground() -> str:
        return str(page.run("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    page.resize(*DESK, is_dark=True)
    assert ground() != light
    page.run("document.querySelector('[x-data=theme]').click()")
    assert ground() == light
    page.open(api_hub.url + "/audit")
    assert ground() == light  # Remembered
