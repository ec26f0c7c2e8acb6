"""Jobs through the API, the command line and the dashboard; SuperLink and ServerApp are played.

The hub's services are the real ones; devices and Flower's processes are files (LearningPeer).
"""

import json
import re
from pathlib import Path

import pytest

from cloud_hub.command_line.order_arguments import parse_setting
from cloud_hub.command_line.parser import build_parser, parse, run
from tests.support.api_client import ApiHub
from tests.support.browser import open_page
from tests.support.learning_peer import LearningPeer

pytestmark = pytest.mark.slow
MODEL = "tones"
SPEC = """
model = "tones"
task = "classification"
[input]
kind = "window"
samples = 16
[output]
decoder = "logits"
classes = ["a", "b"]
"""
NETWORK = '[architecture]\nkind = "mlp"\nhidden = [4]\n'
PHONE, DESK = (390, 844), (1280, 900)


class Story:
    """A hub with a checkpoint and three devices, and a Job that goes as told."""

    def __init__(self, hub: ApiHub) -> None:
        self.hub = hub
        self.peer = LearningPeer(hub.state / "learning", hub.clock)
        self.client = hub.client()
        files = {"spec": ("spec.toml", SPEC), "network": ("network.toml", NETWORK)}
        answer = self.client.post("/api/v1/checkpoints", files=files, timeout=60.0)
        assert answer.status_code == 201, answer.text
        self.checkpoint = answer.json()
        self.devices = [d.device_id for d in hub.enrol(3, names=("gate", "dock", "yard"))]

    def start(self, **order: object) -> str:
        body = {"model": MODEL, "rounds": 3, "is_released": False, **order}
        answer = self.client.post("/api/v1/jobs", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_id"])

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.hub.services.training.tick()
            self.peer.step()
            self.hub.clock.advance(1.0)

    def learn(self, job: str, rounds: int = 3) -> None:
        """Play the Rounds of a Job; the last device is silent, the second one's is refused once."""
        self.step(3)
        first, second, third = self.devices
        for number in range(1, rounds + 1):
            accuracies: dict[str, float] = {first: 0.4 + 0.1 * number, second: 0.5 + 0.05 * number}
            self.peer.close_round(job, number, accuracies, silent=[third])
        self.peer.tell(
            job, "update.refused", round=1, device=second, text="It holds NaN. [update.not_finite]"
        )

    def finish(self, job: str) -> None:
        self.peer.finish(job)
        self.step(2)
        self.hub.services.training.settle()

    def get(self, path: str) -> dict[str, object]:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found


@pytest.fixture
def story(empty_hub: ApiHub) -> Story:
    return Story(empty_hub)


def test_a_job_is_started_followed_and_its_result_kept(story: Story) -> None:
    job = story.start(strategy={"name": "fedadam", "eta": 0.05})
    story.learn(job)
    running = story.get(f"/api/v1/jobs/{job}")
    assert running["state"] == "running"
    assert running["order"]["strategy"]["eta"] == 0.05  # type: ignore[index]
    story.finish(job)
    done = story.get(f"/api/v1/jobs/{job}")
    assert (done["state"], done["outcome"], done["rounds_done"]) == ("finished", "completed", 3)
    assert done["result_checkpoint_id"] is not None
    assert "kept as a checkpoint" in str(done["sentence"])
    rounds = story.get(f"/api/v1/jobs/{job}/rounds")["rounds"]
    assert [(r["devices_counted"], r["devices_silent"]) for r in rounds] == [(2, 1)] * 3  # type: ignore[attr-defined]
    devices = story.get(f"/api/v1/jobs/{job}/devices")["devices"]
    refused = {d["device_id"]: d["updates_refused"] for d in devices}  # type: ignore[attr-defined]
    assert refused[story.devices[1]] == 1
    assert story.get("/api/v1/jobs")["jobs"][0]["job_id"] == job  # type: ignore[index]
    spread = story.get(f"/api/v1/jobs/{job}/accuracy")
    assert spread["devices_count"] == 3
    weights = story.client.get(f"/api/v1/checkpoints/{done['result_checkpoint_id']}/weights")
    assert weights.content[:2] == b"PK"


def test_events_are_read_on_from_a_number_and_are_sentences(story: Story) -> None:
    job = story.start()
    story.learn(job)
    story.step()
    events = story.get(f"/api/v1/jobs/{job}/events")["events"]
    later = story.get(f"/api/v1/jobs/{job}/events?after={events[2]['number']}")["events"]  # type: ignore[index]
    assert later == events[3:]  # type: ignore[index]
    sentences = " ".join(event["sentence"] for event in events)  # type: ignore[attr-defined]
    assert "Round 1 is closed: 2 of 3 devices counted" in sentences
    assert "its update was refused: It holds NaN" in sentences


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rounds": 0}, "$.rounds"),
        ({"rounds": True}, "$.rounds"),
        ({"strategy": {"name": "magic"}}, "$.strategy"),
        ({"strategy": {"name": "fedadam", "eta": -1}}, "$.strategy.eta"),
        ({"nonsense": 1}, "nonsense"),
        ({"group": "a", "devices": ["b"]}, "group or devices"),
        ({"notes": "a\u0000b"}, "$.notes"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_by_field(
    empty_hub: ApiHub, change: dict[str, object], field: str
) -> None:
    answer = empty_hub.client().post("/api/v1/jobs", json={"model": MODEL, **change})
    assert answer.status_code == 400
    assert field in answer.json()["message"]
    assert answer.json()["remedy"]


def test_an_order_is_described_whole(empty_hub: ApiHub) -> None:
    schema = empty_hub.client().get("/api/v1/openapi.json").json()
    body = schema["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["$ref"] == "#/components/schemas/JobOrder"
    schemas = schema["components"]["schemas"]
    assert "BulyanStrategy" in schemas
    text = json.dumps(schema)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in schemas, reference


def test_a_job_that_needs_a_person_waits_for_one(story: Story) -> None:
    job = story.start(needs_approval=True)
    assert story.get(f"/api/v1/jobs/{job}")["state"] == "submitted"
    assert 'isthmus_jobs{state="submitted"} 1.0' in story.client.get("/metrics").text
    assert story.client.post(f"/api/v1/jobs/{job}/approve").json()["state"] == "approved"
    assert story.client.post(f"/api/v1/jobs/{job}/approve").status_code == 409
    stopped = story.client.post(f"/api/v1/jobs/{job}/stop", json={"why": "wrong group"})
    assert stopped.json()["outcome"] == "stopped"
    counted = story.client.get("/metrics").text
    for line in (
        'isthmus_jobs{state="submitted"} 0.0',
        'isthmus_jobs{state="finished"} 1.0',
        'isthmus_jobs_finished{outcome="stopped"} 1.0',
    ):
        assert line in counted, line
    entries = story.hub.services.audit.entries(limit=3)
    assert [entry.action for entry in entries[::2]] == ["job.stop", "job.approve"]


def test_what_is_not_there_is_a_404(empty_hub: ApiHub) -> None:
    client = empty_hub.client()
    paths = ("jobs/job-x", "jobs/job-x/rounds", "checkpoints/ckpt-x", "candidates/cand-x")
    for path in (*paths, "why/job-x", "why/cand-x", "why/tones/1"):
        assert client.get(f"/api/v1/{path}").status_code == 404, path


def _command(hub: ApiHub, *words: str) -> int:
    return run(parse(build_parser(), [*words, "--hub", hub.url, "--state", str(hub.state)]))


def test_the_command_line_starts_shows_and_explains(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = tmp_path / "job.toml"
    order.write_text('model = "tones"\nrounds = 9\nis_released = false\n[method]\nepochs = 2\n')
    words = ("jobs", "start", "--file", str(order), "--rounds", "3", "--device", "gate")
    assert (
        _command(story.hub, *words, "--device", "dock", "--set", "checks.norm_max=5", "--json") == 0
    )
    job = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (job["rounds"], job["order"]["method"]["epochs"]) == (3, 2)
    assert job["order"]["checks"]["norm_max"] == 5.0
    assert set(job["order"]["devices"]) == set(story.devices[:2])
    story.client.post(f"/api/v1/jobs/{job['job_id']}/stop", json={})
    job_id = story.start()
    story.learn(job_id)
    story.finish(job_id)
    for what in (("list",), ("show", job_id), ("devices", job_id), ("rounds", job_id)):
        assert _command(story.hub, "jobs", *what) == 0
    out = capsys.readouterr().out
    assert "has not said anything" in out
    assert "lowest" in out, "accuracy is shown as a distribution"
    assert re.search(r"It fell on \d of \d\.", out)
    assert _command(story.hub, "jobs", "watch", job_id) == 0
    out = capsys.readouterr().out
    assert "Round 3 is closed" in out
    assert "Completed after 3 of 3 Rounds" in out.splitlines()[-1]
    assert _command(story.hub, "why", job_id) == 0
    out = capsys.readouterr().out
    assert "Rounds:" in out
    assert "2 of 3" in out


def test_watching_a_job_that_was_stopped_ends_with_7(story: Story) -> None:
    job = story.start()
    assert _command(story.hub, "jobs", "stop", job, "--because", "enough") == 0
    assert _command(story.hub, "jobs", "watch", job) == 7


def test_half_a_privacy_is_refused_before_anything_is_sent(
    empty_hub: ApiHub, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("jobs", "start", "--model", MODEL, "--noise-multiplier", "2")
    assert _command(empty_hub, *words) == 3
    assert "--clip-norm" in capsys.readouterr().err


def test_settings_are_values_of_toml() -> None:
    assert parse_setting("strategy.eta=0.03") == ("strategy.eta", 0.03)
    assert parse_setting("notes=two words") == ("notes", "two words")
    assert parse_setting("needs_approval=true") == ("needs_approval", True)


def test_a_job_s_page_changes_as_it_learns_and_fits_a_phone(story: Story, tmp_path: Path) -> None:
    job = story.start()
    with open_page(tmp_path / "profile") as page:
        page.resize(*DESK)
        page.log_in(story.hub.url, story.hub.token, page=f"/jobs/{job}")
        page.wait("document.getElementById('live').dataset.state === 'live'")
        assert "No Round is closed yet" in page.text("main")
        story.learn(job)
        story.step()
        page.wait("document.querySelectorAll('.plot polyline').length === 2")
        assert "was refused" in page.text("main")
        assert "went from a median of" in page.text("main")
        for path in ("/jobs", f"/jobs/{job}", "/jobs/new"):
            page.resize(*PHONE)
            page.open(story.hub.url + path)
            assert page.run("document.documentElement.scrollWidth") <= PHONE[0], path
        page.fill("input[name=rounds]", "2")
        page.submit("form button.primary")
        started = str(page.run("location.pathname"))
        assert started.startswith("/jobs/job-")
        assert story.hub.services.training.jobs()[0].order.rounds == 2
        assert page.surprises == []
