"""What nobody needs any more can be removed; what a Job needs cannot, and the refusal says why."""

import io
import json

import httpx
import numpy as np
import pytest

from cloud_hub.command_line.parser import build_parser, parse, run
from tests.support.api_client import ApiHub
from tests.support.learning_peer import LearningPeer
from tests.support.tiny_releases import CLASSES

pytestmark = pytest.mark.slow
MODEL = "tones"
SPEC = f"""\
model = "{MODEL}"
task = "classification"
[input]
kind = "window"
samples = 16
[output]
decoder = "logits"
classes = {json.dumps(CLASSES)}
"""
NETWORK = '[architecture]\nkind = "mlp"\nhidden = [4]\n'


def add_checkpoint(client: httpx.Client) -> str:
    """Return the id of fresh weights."""
    files = {"spec": ("spec.toml", SPEC), "network": ("network.toml", NETWORK)}
    answer = client.post("/api/v1/checkpoints", files=files, timeout=60.0)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["checkpoint_id"])


def add_set(client: httpx.Client, *, seed: int) -> str:
    """Return the digest of held-out data."""
    random = np.random.default_rng(seed)
    buffer = io.BytesIO()
    items = random.standard_normal((40, 16, 1)).astype(np.float32)
    np.savez(buffer, items=items, labels=random.integers(0, len(CLASSES), 40))
    answer = client.put(
        f"/api/v1/models/{MODEL}/evaluation-set", content=buffer.getvalue(), timeout=60.0
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["digest"])


def actions(hub: ApiHub) -> list[str]:
    return [entry.action for entry in hub.services.audit.entries(limit=3)]


class Learning:
    """A hub with a checkpoint, a device, and a Job that goes as told."""

    def __init__(self, hub: ApiHub) -> None:
        self.hub, self.client = hub, hub.client()
        self.peer = LearningPeer(hub.state / "learning", hub.clock)
        self.checkpoint = add_checkpoint(self.client)
        (self.device,) = (device.device_id for device in hub.enrol(1))

    def start(self, *, is_released: bool) -> str:
        order = {"model": MODEL, "rounds": 1, "devices_min": 1, "is_released": is_released}
        answer = self.client.post("/api/v1/jobs", json=order)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_id"])

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.hub.services.training.tick()
            self.peer.step()
            self.hub.clock.advance(1.0)

    def finish(self, job: str) -> None:
        """Let it end, with its result not settled yet."""
        self.step(3)
        self.peer.close_round(job, 1, {self.device: 0.5})
        self.peer.finish(job)
        self.step(2)


@pytest.fixture
def learning(empty_hub: ApiHub) -> Learning:
    return Learning(empty_hub)


def test_a_checkpoint_is_removed_once_no_job_needs_it(learning: Learning) -> None:
    client, needed = learning.client, f"/api/v1/checkpoints/{learning.checkpoint}"
    job = learning.start(is_released=False)
    refused = client.delete(needed)
    assert (refused.status_code, refused.json()["code"]) == (409, "checkpoint.needed")
    assert job in refused.json()["message"]
    assert client.get(needed).status_code == 200
    learning.finish(job)
    assert client.delete(needed).status_code == 409, "its result is not kept yet"
    learning.hub.services.training.settle()
    made = client.get(f"/api/v1/jobs/{job}").json()["result_checkpoint_id"]
    assert made
    removed = client.delete(needed)
    assert (removed.status_code, removed.json()["model"]) == (200, MODEL)
    assert client.get(needed).status_code == 404
    assert client.get(f"{needed}/weights").status_code == 404
    assert client.delete(needed).status_code == 404
    # What the Job made is its own.
    assert client.get(f"/api/v1/checkpoints/{made}/weights").status_code == 200
    assert actions(learning.hub)[0] == "checkpoint.remove"


def test_held_out_data_stays_while_what_a_job_learns_will_be_judged_by_it(
    learning: Learning,
) -> None:
    client, path = learning.client, f"/api/v1/models/{MODEL}/evaluation-set"
    old, new = add_set(client, seed=1), add_set(client, seed=2)
    job = learning.start(is_released=True)
    refused = client.delete(f"{path}/{new}")
    assert (refused.status_code, refused.json()["code"]) == (409, "evaluation.needed")
    assert job in refused.json()["message"]
    assert client.delete(f"{path}/{old}").status_code == 200, "it judges nothing any more"
    assert client.delete(f"{path}/{old}").status_code == 404
    assert client.delete(f"{path}/nothing").status_code == 404
    client.post(f"/api/v1/jobs/{job}/stop", json={})
    learning.step(2)
    learning.hub.services.training.settle()
    assert client.delete(f"{path}/{new}").json()["digest"] == new
    assert client.get(path).json()["evaluation_sets"] == []
    assert actions(learning.hub)[0] == "evaluation.remove"


def test_a_job_that_releases_nothing_needs_no_held_out_data(learning: Learning) -> None:
    digest = add_set(learning.client, seed=1)
    learning.start(is_released=False)
    path = f"/api/v1/models/{MODEL}/evaluation-set/{digest}"
    assert learning.client.delete(path).status_code == 200


def test_the_commands_remove_by_what_the_lists_say(
    learning: Learning, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> int:
        hub = learning.hub
        return run(parse(build_parser(), [*words, "--hub", hub.url, "--state", str(hub.state)]))

    first, second = (add_set(learning.client, seed=seed) for seed in (1, 2))
    assert command("evaluation", "remove", MODEL, first[:12]) == 0
    assert f"Removed {first[:12]} of {MODEL}." in capsys.readouterr().out
    assert command("evaluation", "remove", MODEL, first[:12]) != 0
    assert "evaluation list" in capsys.readouterr().err
    assert command("checkpoints", "remove", learning.checkpoint) == 0
    assert command("checkpoints", "list") == 0
    assert "There is no checkpoint yet" in capsys.readouterr().out
    left = learning.client.get(f"/api/v1/models/{MODEL}/evaluation-set").json()
    assert [each["digest"] for each in left["evaluation_sets"]] == [second]
