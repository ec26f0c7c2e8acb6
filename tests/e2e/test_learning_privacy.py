"""No sample ever crosses, and no parameter that is declared to stay on its device.

Every byte that devices send during a Job is captured and searched.

All that a device may connect to stands behind a relay that reads what TLS hides; that it connects
to nothing else is seen in its processes' sockets.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import Array
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from numpy.typing import NDArray

from shared.model.spec import parse_spec
from shared.model.weights import decode_weights
from tests.support.fleet_story import wait_online
from tests.support.flower_calls import call, signed_headers
from tests.support.learning_fleet import (
    NETWORK,
    SPEC,
    STEP_S,
    LearningJob,
    add_learner,
    digits_of,
    learners_left,
    peers_of,
)
from tests.support.real_fleet import RealAgent, RealHub
from tests.support.recording_proxy import RecordingProxy, client_side, server_side
from tests.support.sample_detector import LABELS_RUN, Images, Labels, SampleDetector
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(240),
]
RELAY = "127.0.0.2"
ROUNDS = 2
DEVICES = 2
Parameters = NDArray[np.generic]
HEAD = "3."  # The last layer stays on each device
UPDATE_BYTES = 4 * (64 * 32 + 32)  # The other parameters in float32


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RealHub]:
    with RealHub(tmp_path, host_names=("127.0.0.1", RELAY)) as started:
        yield started


@pytest.fixture
def relays() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def relay_to(
    relays: ExitStack, hub: RealHub, port: int, *, agent: RealAgent | None = None
) -> RecordingProxy:
    """Return a relay to a port of the hub, at the same port; as `agent` where it is asked who."""
    pki = hub.state / "pki"
    identity = agent.state / "identity" if agent is not None else None
    far = client_side(
        pki / "ca.crt",
        identity / "device.crt" if identity else None,
        identity / "device.key" if identity else None,
    )
    near = server_side(pki / "server.crt", pki / "server.key")
    is_own = agent is None
    proxy = RecordingProxy(
        port,
        near=near,
        far=far,
        host=RELAY if is_own else "127.0.0.1",
        port=port if is_own else 0,
    )
    relays.callback(proxy.close)
    return proxy


def test_no_sample_and_no_label_is_in_anything_that_devices_send(
    tmp_path: Path, hub: RealHub, relays: ExitStack
) -> None:
    samples = [digits_of(n, count=8) for n in range(DEVICES)]
    spec = parse_spec(SPEC)
    detectors = [SampleDetector(images, labels, spec) for images, labels in samples]
    agents = [add_learner(hub, tmp_path, f"d{n}", samples[n]) for n in range(DEVICES)]
    fleet = relay_to(relays, hub, hub.learning_port)
    https = relay_to(relays, hub, hub.https_port)
    brokers = [relay_to(relays, hub, hub.mqtt_port, agent=agent) for agent in agents]
    for agent, broker in zip(agents, brokers, strict=True):
        agent.reach_hub_at(RELAY)
        agent.reach_broker_at(broker.port)
        agent.start()
    for agent in agents:
        wait_online(hub, agent)
    hub.add_checkpoint(spec=SPEC, network=b'personal = ["%b"]\n%b' % (HEAD.encode(), NETWORK))

    job = LearningJob.start(
        hub, rounds=ROUNDS, encoding="fp32", method={"epochs": 1, "learning_rate": 0.1}
    )
    peers: set[tuple[str, int]] = set()

    def has_ended() -> bool:
        peers.update(peers_of([*(agent.pid for agent in agents), *learners_left(agents)]))
        return bool(job.get()["state"] == "finished")

    job.wait(has_ended, seconds_max=2 * STEP_S)
    assert job.get()["outcome"] == "completed", job.told()
    for number in range(1, ROUNDS + 1):
        assert len(job.counted(number)) == DEVICES, job.told()

    # All of it went through the relays, and the updates are in what they kept.
    known = {(RELAY, hub.learning_port), (RELAY, hub.https_port)}
    assert (RELAY, hub.learning_port) in peers
    assert peers <= known | {("127.0.0.1", broker.port) for broker in brokers}, peers
    relayed = [fleet, https, *brokers]
    sent = [stream for relay in relayed for stream in relay.sent()]
    assert sum(len(stream) for stream in fleet.sent()) > DEVICES * ROUNDS * UPDATE_BYTES
    updates = b"".join(fleet.sent()).count(b"NUMPY")
    assert updates >= DEVICES * ROUNDS * 2, "each update has two arrays"
    assert all(sum(len(stream) for stream in broker.sent()) > 1000 for broker in brokers)

    found = set().union(*(detector.find(sent) for detector in detectors))
    assert found == set()
    heads = [personal_of(agent) for agent in agents]
    assert set(heads[0]) == {"3.weight", "3.bias"}
    assert heads[0]["3.weight"].tobytes() != heads[1]["3.weight"].tobytes()
    assert any(b"1.weight" in stream for stream in sent), "names can be read"
    assert [stream for stream in sent if b"3.weight" in stream or b"3.bias" in stream] == []
    assert not any(rows_sent(head, sent) for head in heads)

    # Before and after are told for each device, and shown as a distribution.
    spread = hub.get(f"/jobs/{job.job_id}/accuracy")
    told = {each["device_id"]: each for each in spread["devices"]}
    assert set(told) == {agent.device for agent in agents}
    assert spread["before"]["count"] == spread["after"]["count"] == DEVICES
    assert spread["after"]["minimum"] > spread["before"]["maximum"], "each with its own head"
    lowest = min(each["after"] for each in told.values())
    assert spread["after"]["minimum"] == pytest.approx(lowest)

    # The very same capture and search finds what is really sent.
    images, labels = samples[0]
    plant(hub, agents[0], images, labels)
    expected = {
        *(f"labels {start}.. as int64" for start in range(len(labels) - LABELS_RUN + 1)),
        "sample 5 as tensor",
        "sample 7 as png",
        "sample 9 as json",
        "sample 11 as base64 (0)",
    }
    # The last of it may still be on its way through the relay.
    wait_until(
        lambda: detectors[0].find([s for relay in relayed for s in relay.sent()]) >= expected,
        seconds_max=STEP_S,  # One search takes seconds where others work beside it
    )
    sent = [s for relay in relayed for s in relay.sent()]
    assert detectors[0].find(sent) == expected
    assert rows_sent(heads[0], sent), "a head that is sent would be found"
    assert not rows_sent(heads[1], sent)


def personal_of(agent: RealAgent) -> dict[str, Parameters]:
    """Return the parameters that stayed on a device, as its last training left them."""
    path = agent.state / "learning" / "personal" / "digits.npz"
    return {name: np.asarray(array) for name, array in decode_weights(path.read_bytes()).items()}


def rows_sent(head: dict[str, Parameters], streams: list[bytes]) -> int:
    """Return how many rows of a head's numbers are somewhere in the streams."""
    rows = [row.tobytes() for row in head["3.weight"]]
    return sum(any(row in stream for stream in streams) for row in rows)


def plant(hub: RealHub, agent: RealAgent, images: Images, labels: Labels) -> None:
    """Send samples the way that the device's processes send what they have learned."""
    key = load_pem_private_key((agent.state / "identity" / "device.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    tensor = (images[5].astype(np.float32) - np.float32(60)) / np.float32(90)
    head = personal_of(agent)["3.weight"]
    contents = [
        *(each.deflate() for each in get_all_nested_objects(Array(head)).values()),
        *(each.deflate() for each in get_all_nested_objects(Array(tensor)).values()),
        *(each.deflate() for each in get_all_nested_objects(Array(labels)).values()),
        bytes(cv2.imencode(".png", images[7])[1].tobytes()),
        json.dumps({"pixels": images[9].reshape(-1).tolist()}).replace(", ", ",").encode(),
        base64.b64encode(images[11].tobytes()),
    ]
    with httpx.Client(verify=client_side(hub.state / "pki" / "ca.crt"), timeout=30.0) as client:
        for content in contents:
            request = PushObjectRequest(
                node=Node(node_id=1), run_id=1, object_id="0" * 64, object_content=content
            )
            url = f"https://{RELAY}:{hub.learning_port}/v1/fleet/push-object"
            call(client, url, request, signed_headers(key))
