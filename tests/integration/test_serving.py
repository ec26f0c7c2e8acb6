"""Released models as an API: the device's own answers, batches, and processes that die or hang."""

import base64
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from cloud_hub.serving.service import ServingService
from cloud_hub.serving.settings import ServingSettings
from edge_agent.inference.onnx_session import load_onnx_session
from shared.errors import TransientError
from shared.model.opencv_resize import FrameResizer
from shared.model.postprocess import class_scores, detected_boxes
from shared.model.preprocess import to_tensor
from shared.model.spec import ImageInput, parse_spec
from tests.benchmarks.bench_infer_rss import SPEC as FASTESTDET_SPEC
from tests.support import tiny_models as tiny
from tests.support.api_client import MODEL, ApiHub
from tests.support.manual_clock import ManualClock
from tests.support.onnx_models import write_zero_model
from tests.support.requirements import require_data
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
Json = dict[str, Any]
INFER = f"/api/v1/models/{MODEL}/infer"
ECHO_SPEC = """
model = "echo"
task = "anomaly"
[input]
kind = "window"
samples = 8
channels = 2
[output]
decoder = "reconstruction"
threshold = 0.5
"""


def _picture(seed: int, *, width: int = 31, height: int = 17) -> bytes:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


def _as_device(seed: int, picture: bytes, folder: Path) -> NDArray[np.float32]:
    """Return what a device concludes from a picture, by the device's own session."""
    spec = parse_spec(tiny.SPEC.encode())
    assert isinstance(spec.input, ImageInput)
    path = folder / f"{seed}.onnx"
    onnx.save(tiny.classifier(seed), path)
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    resized, _ = FrameResizer(spec.input).resize(pixels)  # type: ignore[arg-type]  # As cv2's stub has it
    return class_scores(load_onnx_session(path, spec).run(to_tensor(resized, spec)), spec)


def _ask(client: httpx.Client, picture: bytes) -> httpx.Response:
    return client.post(INFER, content=picture, headers={"Content-Type": "image/png"}, timeout=30)


def _pid(hub: ApiHub) -> int:
    return hub.services.serving.standing()[0].pid


def test_a_picture_is_answered_as_a_device_would(api_hub: ApiHub, tmp_path: Path) -> None:
    client = api_hub.client()
    for seed in range(3):
        picture = _picture(seed)
        body = _ask(client, picture).json()
        wanted = _as_device(2, picture, tmp_path)
        answer = body["answers"][0]
        assert (body["model"], body["version"], body["precision"]) == (MODEL, 2, "fp32")
        assert answer["label"] == ("zero", "one", "two")[int(wanted.argmax())]
        assert answer["probability"] == pytest.approx(float(wanted.max()), abs=1e-6)
        assert sum(answer["probabilities"].values()) == pytest.approx(1.0, abs=1e-6)


def test_requests_that_come_together_are_run_together(api_hub: ApiHub) -> None:
    client = api_hub.client()
    pictures = [_picture(seed) for seed in range(24)]
    alone = [_ask(client, picture).json() for picture in pictures]
    assert {body["times"]["batch"] for body in alone} == {1}
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda picture: _ask(client, picture).json(), pictures))
    assert max(body["times"]["batch"] for body in together) > 4
    for one, other in zip(alone, together, strict=True):
        assert other["answers"][0]["label"] == one["answers"][0]["label"]
        probability = one["answers"][0]["probability"]
        assert other["answers"][0]["probability"] == pytest.approx(probability, abs=1e-5)


def test_json_holds_many_items_and_the_example_works(api_hub: ApiHub) -> None:
    client = api_hub.client()
    described = client.get(INFER).json()
    assert described["takes"] == "image"
    assert client.post(INFER, json=described["example"]).status_code == 200
    document = client.get(f"/api/v1/models/{MODEL}/openapi.json").json()
    example = document["paths"][INFER]["post"]["requestBody"]["content"]["application/json"]
    assert client.post(INFER, json=example["example"]).status_code == 200
    items = [{"image": base64.b64encode(_picture(seed)).decode()} for seed in range(5)]
    answers = client.post(INFER, json={"items": items}).json()["answers"]
    assert len(answers) == 5


@pytest.mark.parametrize(
    ("body", "kind", "named"),
    [
        (b"not a picture", "image/png", "items[0]"),
        (b"", "image/png", "body"),
        (b"{}", "application/json", "items"),
        (b'{"items": []}', "application/json", "items"),
        (b'{"items": [{"text": "hello"}]}', "application/json", "'image'"),
        (b'{"items": [{"image": "***"}]}', "application/json", "items[0].image"),
        (b'{"items": [{"image": 4}]}', "application/json", "items[0].image"),
        (b"x", "text/plain", "Content-Type"),
    ],
)
def test_what_cannot_be_used_is_named(api_hub: ApiHub, body: bytes, kind: str, named: str) -> None:
    answer = api_hub.client().post(INFER, content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400, answer.text
    assert named in answer.json()["message"]


def test_windows_are_scored_and_misfits_named(empty_hub: ApiHub, tmp_path: Path) -> None:
    path = write_zero_model(tmp_path / "echo.onnx", samples=8, channels=2)
    empty_hub.services.releases.add(
        model_bytes=path.read_bytes(),
        spec_bytes=ECHO_SPEC.encode(),
        golden_bytes=None,
        metrics={},
        notes="",
        lineage_id=None,
    )
    client, path_of = empty_hub.client(), "/api/v1/models/echo/infer"
    window = [[1.0, -1.0]] * 8
    answers = client.post(path_of, json={"items": [{"window": window}]}).json()["answers"]
    assert answers[0]["score"] == pytest.approx(1.0)
    assert answers[0]["is_anomalous"] is True
    short = client.post(path_of, json={"items": [{"window": window[:-1]}]})
    assert "8 samples of 2 channels, not 7 of 2" in short.json()["message"]
    large = client.post(path_of, json={"items": [{"window": [[1e39, 0.0]] * 8}]})
    assert "finite number of 32 bits" in large.json()["message"]


def test_a_model_without_a_release_is_unknown(empty_hub: ApiHub) -> None:
    answer = _ask(empty_hub.client(), _picture(0))
    assert (answer.status_code, answer.json()["code"]) == (404, "model.unknown")


def test_a_killed_process_is_replaced_and_says_how_it_died(api_hub: ApiHub) -> None:
    client = api_hub.client()
    assert _ask(client, _picture(0)).status_code == 200
    first = _pid(api_hub)
    os.kill(first, signal.SIGSTOP)  # So that an item waits when it dies
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_ask, client, _picture(1))
        wait_until(lambda: api_hub.services.serving.standing()[0].waiting_count == 1)
        os.kill(first, signal.SIGKILL)
        answer = waiting.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "serving.ended")
    assert "SIGKILL" in answer.json()["message"]
    assert _ask(client, _picture(1)).status_code == 200
    assert _pid(api_hub) != first


def test_a_process_that_hangs_is_ended(api_hub: ApiHub) -> None:
    client, serving = api_hub.client(), api_hub.services.serving
    assert _ask(client, _picture(0)).status_code == 200
    os.kill(_pid(api_hub), signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_ask, client, _picture(1))

        def is_answered() -> bool:
            serving.check()
            return waiting.done()

        wait_until(is_answered, seconds_max=20)
        assert waiting.result().json()["code"] == "serving.ended"
    assert _ask(client, _picture(1)).status_code == 200


def test_the_next_release_takes_over_without_a_failed_request(api_hub: ApiHub) -> None:
    client = api_hub.client()
    releases = api_hub.services.releases
    releases.set_channel(MODEL, "stable", 1)
    versions = []

    def goes_on(wanted: int) -> bool:
        answer = _ask(client, _picture(3))
        assert answer.status_code == 200, answer.text
        versions.append(answer.json()["version"])
        return bool(versions[-1] == wanted)

    wait_until(lambda: goes_on(1), seconds_max=20)
    first = _pid(api_hub)
    releases.set_channel(MODEL, "stable", 2)
    wait_until(lambda: goes_on(2), seconds_max=20)
    assert versions == sorted(versions)
    wait_until(lambda: not Path(f"/proc/{first}").exists())


@pytest.fixture
def serving(api_hub: ApiHub) -> Iterator[ServingService]:
    """A service that is easily full and soon idle."""
    settings = ServingSettings(queue_max=4, idle_s=1.0)
    service = ServingService(api_hub.services.releases, ManualClock(), settings)
    yield service
    service.stop()


def test_more_than_may_wait_are_refused(serving: ServingService) -> None:
    with pytest.raises(TransientError, match="wait already") as caught:
        serving.submit(MODEL, [_picture(0)] * 5)
    assert caught.value.code == "serving.busy"
    served = serving.submit(MODEL, [_picture(0)] * 4)
    assert all(future.result(10).answer is not None for future in served.futures)


def test_an_idle_process_ends_and_comes_back(serving: ServingService) -> None:
    served = serving.submit(MODEL, [_picture(0)])
    served.futures[0].result(10)
    (standing,) = serving.standing()

    def is_gone() -> bool:
        serving.check()
        return not serving.standing()

    wait_until(is_gone, seconds_max=20)
    wait_until(lambda: not Path(f"/proc/{standing.pid}").exists())
    again = serving.submit(MODEL, [_picture(0)])
    assert again.futures[0].result(10).answer is not None


def test_a_spoilt_item_spoils_nobody_elses(serving: ServingService) -> None:
    served = serving.submit(MODEL, [_picture(0), b"broken", _picture(1)])
    good, bad, also_good = (future.result(10) for future in served.futures)
    assert good.answer is not None
    assert also_good.answer is not None
    assert (bad.answer, bad.code) == (None, "serving.item")


def test_a_real_detector_finds_what_a_device_finds(empty_hub: ApiHub) -> None:
    model = require_data("models/FastestDet.onnx")
    video = require_data("data/video/car-detection.mp4")
    spec_bytes = FASTESTDET_SPEC.read_bytes()
    capture = cv2.VideoCapture(str(video))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 60)
    _, frame = capture.read()
    capture.release()
    empty_hub.services.releases.add(
        model_bytes=model.read_bytes(),
        spec_bytes=spec_bytes,
        golden_bytes=None,
        metrics={},
        notes="",
        lineage_id=None,
    )
    spec = parse_spec(spec_bytes)
    assert isinstance(spec.input, ImageInput)
    resized, placement = FrameResizer(spec.input).resize(frame)  # type: ignore[arg-type]  # As cv2's stub has it
    outputs = load_onnx_session(model, spec).run(to_tensor(resized, spec))
    wanted = detected_boxes(outputs, spec, placement=placement)
    picture = bytes(cv2.imencode(".png", frame)[1])
    answer = empty_hub.client().post(
        f"/api/v1/models/{spec.model}/infer",
        content=picture,
        headers={"Content-Type": "image/png"},
        timeout=30,
    )
    boxes = answer.json()["answers"][0]["boxes"]
    assert len(boxes) == len(wanted) > 0
    for box, corners, score in zip(boxes, wanted.corners, wanted.scores, strict=True):
        assert box["score"] == pytest.approx(float(score), abs=1e-4)
        found = [box[name] for name in ("left", "top", "right", "bottom")]
        assert found == pytest.approx([float(value) for value in corners], abs=1e-4)
