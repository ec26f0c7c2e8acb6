"""Training in the cloud in a real browser: order by a form, watch it live, read what came of it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import httpx
import pytest

from cloud_hub.api.app import create_app
from cloud_hub.api.http_limits import CONTENT_POLICY
from cloud_hub.training.cloud.cloud_job import CloudJobId
from cloud_hub.training.cloud.order import Choice, Pruner, Sampler, SearchOrder
from cloud_hub.training.order import JobOrder
from tests.support.api_client import ApiHub, open_api_hub
from tests.support.browser import Browser, Page, open_browser
from tests.support.cloud_bench import CloudBench
from tests.support.digits_hub import GROUP, DigitsHub, training
from tests.support.learning_bench import MODEL as TONES
from tests.support.played_trainer import Play
from tests.support.training_runs import shapes

pytestmark = pytest.mark.slow
PHONE, DESK = (420, 850), (1280, 800)
HOSTILE = "<img src=x onerror=window.wasRun=1>"
CLASSES = ("bar", "stripe", "square<script>window.wasRun=1<")
DRAWN = "Number(document.querySelector('[data-curve={}]').dataset.drawn || 0)"
# Whether anything but nothing is painted on a chart.
INK = """(() => {
  const canvas = document.querySelector('[data-curve=%s] canvas');
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return data.some((value, index) => index %% 4 === 3 && value > 0);
})()"""
LOADED = "[...document.images].every((one) => one.complete && one.naturalWidth > 0)"
EAGER = "document.querySelectorAll('img').forEach((one) => { one.loading = 'eager'; })"


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


@pytest.fixture
def bench_hub(tmp_path: Path) -> Iterator[tuple[ApiHub, CloudBench]]:
    """A hub whose trainers are played: a search takes milliseconds."""
    state = tmp_path / "hub-state"
    state.mkdir()
    hub = open_api_hub(state)
    bench = CloudBench(hub.database, tmp_path)
    bench.clock = hub.clock
    bench.forget(bench.cloud)
    bench.cloud = bench.new_service()
    hub.services = replace(hub.services, cloud_jobs=bench.cloud)
    hub.app = create_app(hub.services, hub.settings)
    with hub.serve():
        yield hub, bench
    bench.close()
    hub.close()


def choose(page: Page, name: str, value: str) -> None:
    """Choose a value in the form as a person does."""
    field = f"document.querySelector('form[data-train] [name={json.dumps(name)}]')"
    page.run(f"{field}.value = {json.dumps(value)}")
    page.run(f"{field}.dispatchEvent(new Event('change', {{bubbles: true}}))")


def is_shown(page: Page, name: str) -> bool:
    field = f"document.querySelector('form[data-train] [name={json.dumps(name)}]')"
    return bool(page.run(f"!{field}.disabled && {field}.offsetParent !== null"))


def write_shapes(folder: Path) -> Path:
    pictures, labels = shapes(120)
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        place = folder / CLASSES[int(label)]
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"{index:03}.png"), picture)
    return folder


def test_a_model_is_ordered_watched_live_and_its_report_is_read(
    empty_hub: ApiHub, page: Page, tmp_path: Path
) -> None:
    hub = empty_hub
    page.log_in(hub.url, hub.token, page="/jobs")
    assert "No Job yet" in page.text("main")
    page.submit("a[href='/cloud-jobs/new']")
    assert "nothing to learn from" in page.text("main")
    hub.services.datasets.import_file("shapes", write_shapes(tmp_path / "shapes"), by="ada")
    page.open(hub.url + "/cloud-jobs/new")
    assert page.run("document.querySelector('form[data-train] [name=width]').value") == "8"
    assert is_shown(page, "method.class_weights")
    assert not is_shown(page, "method.projection")
    choose(page, "method.kind", "contrastive")  # What comes of it cannot be released
    assert is_shown(page, "method.projection")
    assert not is_shown(page, "method.class_weights")
    assert page.run("document.querySelector('[name=is_released]').checked") is False
    choose(page, "method.kind", "supervised")
    assert not is_shown(page, "search.trials")
    choose(page, "plan", "search")
    assert is_shown(page, "search.trials")
    choose(page, "plan", "one")
    for name, value in (
        ("model", "shapes-small"), ("network", "mlp"), ("recipe.epochs", "3"),
        ("recipe.batch", "16"), ("recipe.learning_rate", "0"), ("device", "cpu"),
        ("owner", HOSTILE[:80]), ("notes", HOSTILE), ("recipe.precision", "fp32"),
    ):  # fmt: skip
        choose(page, name, value)
    page.expected.append("status of 400")
    page.submit("form[data-train] button.primary")
    wrong = "document.querySelector('[aria-invalid=true]')"
    assert page.run(f"{wrong}.name") == "recipe.learning_rate"
    assert "above 0" in page.text("label.wrong [role=alert]")
    assert page.run("document.querySelector('[name=model]').value") == "shapes-small"
    assert hub.services.cloud_jobs.list() == ()
    choose(page, "recipe.learning_rate", "0.05")
    choose(page, "executor", "ray")
    page.submit("form[data-train] button.primary")
    assert page.run(f"{wrong}.name") == "executor"
    choose(page, "executor", "local")
    page.submit("form[data-train] button.primary")
    job = page.run("location.pathname.split('/').pop()")
    assert job.startswith("cloud-")
    assert "waits until there is room" in page.text("#cloud-job-head")
    assert HOSTILE in page.text("#cloud-job-head")
    page.run("window.sameDocument = true")
    with training(hub):
        done = "document.querySelector('#cloud-job-head').innerText.includes('Completed.')"
        page.wait(done, seconds_max=90.0)
        page.wait(f"{DRAWN.format('value')} === 3")
        page.wait("document.querySelector('#cloud-job-head a[href$=\"/report\"]') !== null")
        page.wait("document.querySelector('#cloud-job').innerText.includes('ckpt-')")
    for chart in ("value", "loss", "rate"):
        assert page.run(INK % chart), chart
    found = hub.services.cloud_jobs.get(job)
    assert (found.owner, found.order.recipe.batch) == (HOSTILE[:80], 16)
    assert page.run("window.sameDocument") is True
    page.submit("#cloud-job-head a[href$='/report']")
    assert "items are right" in page.text("main")
    assert page.run("document.querySelectorAll('.matrix tbody tr').length") == 3
    assert CLASSES[2] in page.text(".matrix")
    page.run(EAGER)
    page.wait(LOADED)
    assert page.run("document.images.length") > 2
    page.open(f"{hub.url}/cloud-jobs/new?start={found.result_checkpoint_id}")
    assert is_shown(page, "trained.kind")
    assert not is_shown(page, "trained.rank")
    choose(page, "trained.kind", "lora")
    assert is_shown(page, "trained.rank")
    hub.enrol(2)
    hub.clock.advance(1.0)
    federated = hub.services.training.start(
        JobOrder(model="shapes-small", needs_approval=True), actor="ada"
    )
    page.open(hub.url + "/jobs")
    rows = page.run("[...document.querySelectorAll('tbody tr.link')].map((one) => one.id)")
    assert rows == [federated.job_id, job]  # Both kinds, the newest first
    assert page.run("window.wasRun") is None


def test_a_search_is_followed_sorted_and_stopped(
    bench_hub: tuple[ApiHub, CloudBench], page: Page
) -> None:
    hub, bench = bench_hub
    rates = {"recipe.learning_rate": Choice(values=(0.01, 0.1, 0.5))}
    search = SearchOrder(space=rates, sampler=Sampler.GRID, pruner=Pruner.NONE)
    job = bench.submit(search=search, is_released=False, notes=HOSTILE)
    bench.play_run(f"{job}-2", Play(wait_at=2))
    page.log_in(hub.url, hub.token, page=f"/cloud-jobs/{job}")
    page.wait("document.getElementById('live').dataset.state === 'live'")
    bench.until_at(job, 1, index=2)
    page.wait("document.querySelectorAll('#trials tbody tr').length === 3")
    page.wait("document.querySelector('.progress-line')?.innerText.includes('%')")
    assert page.run("document.querySelectorAll('#trials tbody tr')[0].id") == "trial-1"
    assert "best" in page.text("#trial-1")
    page.wait("document.querySelectorAll('.scatter .dot').length === 3")
    page.submit("a[href$='sort=index#trials']")
    assert page.run("document.querySelectorAll('#trials tbody tr')[0].id") == "trial-0"
    stop = "form[action$='/stop']"
    page.run(f"document.querySelector({json.dumps(stop)}).querySelector('button').click()")
    page.wait(f"document.querySelector({json.dumps(stop)}).innerText.includes('Really')")
    page.submit(f"{stop} button.danger:not([type=button])")
    bench.finish(CloudJobId(job))
    page.wait("document.querySelector('#cloud-job-head').innerText.includes('operator stopped it')")
    assert hub.services.audit.entries(limit=1)[0].action == "cloud_job.stop"
    bench.play(all=Play(refuse="training.diverged", words="It went to infinity."))
    refused = bench.submit()
    bench.finish(CloudJobId(refused))
    page.open(f"{hub.url}/cloud-jobs/{refused}")
    assert "Failed. It does not fit." in page.text("#cloud-job-head")
    assert "training.diverged" in page.text("#cloud-job-head")
    assert "It went to infinity." in page.text("#cloud-job .log")
    assert page.run("window.wasRun") is None


@pytest.mark.xdist_group(GROUP)
def test_reports_are_looked_into_compared_and_their_cost_is_shown(
    digits_hub: DigitsHub, page: Page
) -> None:
    hub, first, second = digits_hub.hub, digits_hub.first, digits_hub.second
    page.log_in(hub.url, hub.token, page=f"/cloud-jobs/{first}/report")
    report = digits_hub.get(f"/api/v1/cloud-jobs/{first}/report")
    share = report["accuracy"]
    assert f"{share['value'] * 100:.1f} % (" in page.text(".headline")
    cells = [count for row in report["confusion"] for count in row]
    shown = page.run("[...document.querySelectorAll('.matrix td')].map((one) => one.innerText)")
    assert [int(text or 0) for text in shown] == cells
    listed = {(item["label"], item["answer"]) for item in report["worst"]}
    links = "document.querySelectorAll('.matrix td a').length"
    assert page.run(links) == len(listed)
    page.submit(".matrix td a")
    one = page.run("document.querySelectorAll('.worst li').length")
    assert 0 < one <= len(report["worst"])
    assert page.run("document.querySelectorAll('.matrix td.chosen').length") == 1
    page.run(EAGER)
    page.wait(LOADED)

    page.open(f"{hub.url}/cloud-jobs/compare?a={first}&b={second}")
    compared = digits_hub.get("/api/v1/cloud-jobs/compare", a=first, b=second)
    assert compared["sentence"] in page.text("main")
    figures = page.run("[...document.querySelectorAll('.figure dd')].map((one) => one.innerText)")
    assert figures[1] == str(compared["paired"]["b_lost"])
    assert figures[2] == str(compared["paired"]["b_gained"])
    assert page.run("document.querySelectorAll('.looks img').length") > 0
    assert "recipe.learning_rate" in page.text("main")

    page.open(hub.url + "/usage")
    assert page.run("document.querySelectorAll('.months rect').length") > 0
    page.submit("a[href='/usage?by=owner']")
    assert "lab" in page.text("#usage")
    table = page.run("document.querySelector('a[href*=csv]').getAttribute('href')")
    assert hub.client().get(table).text.startswith("month,")

    candidate = digits_hub.get(f"/api/v1/cloud-jobs/{first}")["candidate_id"]
    page.open(f"{hub.url}/candidates/{candidate}")
    assert f"/cloud-jobs/{first}/report" in page.run("document.body.innerHTML")
    page.resize(*PHONE)
    for path in ("/jobs", f"/cloud-jobs/{first}", f"/cloud-jobs/{first}/report", "/usage",
                 f"/cloud-jobs/compare?a={first}&b={second}", "/cloud-jobs/new"):  # fmt: skip
        page.open(hub.url + path)
        assert page.run("document.documentElement.scrollWidth") <= PHONE[0], path


def test_pages_hold_no_script_of_their_own_and_strange_addresses_are_refused(
    bench_hub: tuple[ApiHub, CloudBench],
) -> None:
    hub, bench = bench_hub
    job = bench.submit(notes=HOSTILE, is_released=False)
    bench.finish(CloudJobId(job))
    client = hub.client()
    for path in (f"/cloud-jobs/{job}", f"/cloud-jobs/{job}/report", "/cloud-jobs/new", "/usage",
                 f"/cloud-jobs/compare?a={job}&b={job}"):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-security-policy"] == CONTENT_POLICY
        assert HOSTILE not in answer.text
        assert "style=" not in answer.text
        assert "<script>" not in answer.text
    statuses = {
        "/cloud-jobs/cloud-none": 404,
        "/cloud-jobs/cloud-none/report": 404,
        "/cloud-jobs/cloud-none/curves": 404,
        "/cloud-jobs/compare?a=cloud-none&b=x": 404,
        f"/cloud-jobs/{job}?sort=up": 400,
        "/usage?by=month": 400,
        "/cloud-jobs/new?start=ckpt-none&dataset=x": 200,  # There is no dataset at all
    }
    for path, status in statuses.items():
        assert client.get(path).status_code == status, path
    assert client.get(f"/jobs/{job}").headers["location"] == f"/cloud-jobs/{job}"
    _refuses_strange_forms(client, job)


def _refuses_strange_forms(client: httpx.Client, job: str) -> None:
    before = client.get("/jobs").text.count("cloud-")
    for form in (
        {},
        {"model": TONES, "dataset": "none"},
        {"notes": "a\x07b"},
        {"model": "x" * 3000},
        {f"f{index}": "" for index in range(300)},
    ):
        answer = client.post("/cloud-jobs/new", data=form)
        assert answer.status_code in (400, 404), form
    assert client.post(f"/cloud-jobs/{job}/stop").status_code == 409
    assert client.get("/jobs").text.count("cloud-") == before
