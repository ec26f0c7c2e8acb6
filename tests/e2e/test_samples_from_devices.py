"""Samples from real devices to a dataset version: only what owners share, through kills, once.

All that devices may connect to stands behind relays that read what TLS hides, as in
test_learning_privacy.py.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge_agent.sharing.file_ledger import SharingLedger
from shared.model.spec import parse_spec
from shared.release.digest import digest_of
from shared.wire.device_samples import ITEM_PATH, OFFER_PATH
from tests.support.fleet_story import wait_online
from tests.support.learning_fleet import SPEC, add_learner, command, digits_of, peers_of
from tests.support.real_fleet import BIN, RealAgent, RealHub
from tests.support.recording_proxy import RecordingProxy, client_side, server_side
from tests.support.sample_detector import Images, Labels, SampleDetector
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(180),
]
RELAY = "127.0.0.2"
STEP_S = 60.0
DATASET = "seen"
COUNT = 240
KEPT_BACK = 12  # On the device that shares nothing
WANTED = (  # Of the machine that runs this test nothing stands in the way
    "[sharing]\non_battery = true\nbattery_share_min = 0.0\non_metered = true\npoll_s = 0.2\n"
)
SAMPLES = """\
[[sharing.samples]]
dataset = "seen"
path = "{path}"
model = "digits"
with_labels = true
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RealHub]:
    with RealHub(tmp_path, host_names=("127.0.0.1", RELAY)) as started:
        yield started


@pytest.fixture
def relays() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_shared_samples_become_a_version_through_kills_and_nothing_else_leaves(
    tmp_path: Path, hub: RealHub, relays: ExitStack
) -> None:
    shared_images, shared_labels = digits_of(0, count=5)
    own = (shared_images[:COUNT], shared_labels[:COUNT])
    kept_images, kept_labels = digits_of(1, count=5)
    kept = (kept_images[:KEPT_BACK], kept_labels[:KEPT_BACK])
    folder = write_folder(tmp_path / "pictures", *own)
    files = {digest_of(file.read_bytes()): file for file in folder.rglob("*.png")}
    sharing = RealAgent(
        "d0", tmp_path, hub, rate_hz=20, learning=WANTED + SAMPLES.format(path=folder)
    )
    silent = add_learner(hub, tmp_path, "d1", kept)  # It may learn; it has no [sharing].
    https = [relay_to(relays, hub, agent) for agent in (sharing, silent)]
    brokers = [relay_to(relays, hub, agent, is_broker=True) for agent in (sharing, silent)]
    for agent, way, broker in zip((sharing, silent), https, brokers, strict=True):
        reach(agent, way, broker)
        agent.start()
        wait_online(hub, agent)

    # Nobody has asked for anything: digests at most have left.
    wait_until(lambda: f"POST {OFFER_PATH}" in https[0].requests(), seconds_max=STEP_S)
    assert f"POST {ITEM_PATH}" not in https[0].requests()
    assert SampleDetector(*own, parse_spec(SPEC)).find(https[0].sent()) == set()
    assert standing_of(sharing)["state"] == "not_wanted"

    command(hub, "datasets", "collect", DATASET, "--group", "bench")
    sharing.kill()
    sharing.start()  # Else it would ask again in hours
    wait_until(lambda: arrived(hub) >= COUNT // 8, seconds_max=STEP_S)
    hub.kill()
    assert sent_count(sharing) < len(files), "killed in the middle"
    hub.start()
    wait_until(lambda: arrived(hub) >= COUNT // 2, seconds_max=STEP_S)
    sharing.kill()
    assert sent_count(sharing) < len(files), "killed in the middle"
    sharing.start()
    wait_until(lambda: arrived(hub) == len(files), seconds_max=STEP_S)

    # Once, but for what was on its way at a kill: the agent's ledger has a line for each.
    streams = b"".join(https[0].sent())
    times = {digest: streams.count(file.read_bytes()) for digest, file in files.items()}
    assert min(times.values()) >= 1
    assert sum(times.values()) <= len(files) + 2
    told = owner_view(sharing, tmp_path / "d0.toml")
    assert {each["digest"] for each in told["last"]} == set(files)
    assert told["sent_count"] == len(told["last"]) == sent_count(sharing)
    assert sum(times.values()) <= told["sent_count"]

    # The device without [sharing] said nothing of its samples; the very same search finds the
    # other one's.
    relayed = [stream for relay in (*https, *brokers) for stream in relay.sent()]
    assert SampleDetector(*kept, parse_spec(SPEC)).find(relayed) == set()
    assert https[1].requests() == []
    assert not (silent.state / "sharing").exists()
    assert peers_of([silent.pid]) <= {("127.0.0.1", brokers[1].port)}
    first = (own[0][:KEPT_BACK], own[1][:KEPT_BACK])
    found = SampleDetector(*first, parse_spec(SPEC)).find(relayed)
    assert {f"sample {index} as png" for index in range(KEPT_BACK)} <= found

    made = command(hub, "datasets", "collect", DATASET, "--make-version", "--by", "item")
    assert (made["added_count"], made["broken_count"]) == (len(files), 0)
    items = hub.get(f"/datasets/{DATASET}/versions/1/items", limit=500)["items"]
    assert {item["digest"] for item in items} == set(files)
    assert {item["device"] for item in items} == {sharing.device}
    labels = {item["digest"]: item["label"] for item in items}
    assert labels == {digest: file.parent.name for digest, file in files.items()}
    assert hub.get(f"/datasets/{DATASET}/collection")["waiting_count"] == 0


def write_folder(folder: Path, images: Images, labels: Labels) -> Path:
    """Write pictures into a folder for each class."""
    for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / str(label) / f"{index}.png"), pixels)
    return folder


def relay_to(
    relays: ExitStack, hub: RealHub, agent: RealAgent, *, is_broker: bool = False
) -> RecordingProxy:
    """Return a relay for one device to the hub's HTTPS, or as that device to its broker."""
    pki, identity = hub.state / "pki", agent.state / "identity"
    far = client_side(pki / "ca.crt")
    if is_broker:
        far = client_side(pki / "ca.crt", identity / "device.crt", identity / "device.key")
    proxy = RecordingProxy(
        hub.mqtt_port if is_broker else hub.https_port,
        near=server_side(pki / "server.crt", pki / "server.key"),
        far=far,
        host="127.0.0.1" if is_broker else RELAY,
        port=0,
    )
    relays.callback(proxy.close)
    return proxy


def reach(agent: RealAgent, https: RecordingProxy, broker: RecordingProxy) -> None:
    """Let a device reach the hub through its relays from its next start on."""
    agent.reach_broker_at(broker.port)
    path = agent.state / "identity" / "hub.json"
    record = json.loads(path.read_text()) | {"url": f"https://{RELAY}:{https.port}"}
    path.write_text(json.dumps(record))


def arrived(hub: RealHub) -> int:
    return int(hub.get(f"/datasets/{DATASET}/collection")["arrived_count"])


def sent_count(agent: RealAgent) -> int:
    """Return how many samples left, as the agent's ledger has it."""
    return len(SharingLedger(agent.state / "sharing").sendings())


def standing_of(agent: RealAgent) -> dict[str, Any]:
    """Return what the agent says of its one entry, once it says something."""
    path = agent.state / "sharing" / "standing.json"
    wait_until(path.exists, seconds_max=STEP_S)
    found: dict[str, Any] = json.loads(path.read_bytes())["entries"][0]
    return found


def owner_view(agent: RealAgent, config: Path) -> dict[str, Any]:
    """Return what `edge-agent sharing` tells the owner."""
    words = ["sharing", "--config", str(config), "--last", "1000", "--json"]
    words += ["--state", str(agent.state)]
    done = subprocess.run(
        [str(BIN / "edge-agent"), *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    view: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return view
