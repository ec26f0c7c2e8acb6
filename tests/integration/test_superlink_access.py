"""Who reaches what on a real SuperLink: every route of Flower's app, asked by strangers."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from cloud_hub.training.flwr_access import FLEET_PATHS, SERVER_PATHS
from cloud_hub.training.flwr_superlink import make_app
from cloud_hub.training.superlink_start import PORTS, Ports, SuperLinkStart
from tests.support.flower_calls import PROTOBUF, call, raw_status, routes_of, signed_headers
from tests.support.superlink import RunningSuperLink, make_key, running_superlink, wanted_node

pytestmark = pytest.mark.slow
KEY = make_key()


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuperLink]:
    with running_superlink(tmp_path_factory.mktemp("access")) as running:
        running.process.want([wanted_node("dev-1", KEY)], [])
        running.wait_for_node("dev-1")
        yield running


@pytest.fixture(scope="module")
def client(superlink: RunningSuperLink) -> Iterator[httpx.Client]:
    trust = ssl.create_default_context(cafile=str(superlink.ca_path))
    with httpx.Client(verify=trust, timeout=30.0) as client:
        yield client


def ports(superlink: RunningSuperLink) -> Ports:
    return msgspec.json.decode((superlink.folder / PORTS).read_bytes(), type=Ports)


def activate(client: httpx.Client, port: int, key: ec.EllipticCurvePrivateKey) -> httpx.Response:
    message = ActivateNodeRequest(
        public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=30.0
    )
    url = f"https://localhost:{port}/v1/fleet/activate-node"
    return call(client, url, message, signed_headers(key))


# Flower configures Alembic the old way.
@pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")
def test_only_fleet_paths_answer_devices_and_only_those_registered(
    superlink: RunningSuperLink, client: httpx.Client, tmp_path: Path
) -> None:
    start = SuperLinkStart(
        folder="",
        ca_path="",
        certificate_path="",
        key_path="",
        host="",
        port=0,
        connections_max=16,
        server_module="",
    )
    app, _ = make_app(start, str(tmp_path / "state.db"))
    routes = routes_of(app)
    assert len(routes) > 80
    assert {("POST", path) for path in FLEET_PATHS | SERVER_PATHS} <= set(routes)
    for port, paths in (
        (ports(superlink).device, FLEET_PATHS),
        (ports(superlink).loopback, SERVER_PATHS),
    ):
        for _, path in routes:
            for method in ("POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD"):
                url = f"https://localhost:{port}{path}"
                for headers in (PROTOBUF, PROTOBUF | signed_headers(KEY)):
                    status = client.request(method, url, headers=headers, content=b"").status_code
                    if path == "/health" and method in ("GET", "HEAD"):
                        assert status == 200
                    elif path in paths and method == "POST":
                        # Let through to Flower only with a key it knows; never done for nothing.
                        assert 400 <= status < 500, (path, status)
                    else:
                        assert status == 404, (method, path, status)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet//pull-messages",
        "//v1/control/list-runs",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/pull%2Dmessages",
        "/v1/fleet/pull-messages/",
        "/V1/fleet/pull-messages",
        "/v1/control/list%2Druns",
        "/v1/fleet/pull-messages;/../../control/list-runs",
    ],
)
def test_a_path_written_in_another_way_is_not_there(superlink: RunningSuperLink, path: str) -> None:
    own = [("Host", "localhost"), ("Content-Length", "0"), *signed_headers(KEY).items()]
    for port in (ports(superlink).device, ports(superlink).loopback):
        assert raw_status(port, superlink.ca_path, f"POST {path}", own) == 404


def test_a_registered_key_is_let_in_and_another_is_not(
    superlink: RunningSuperLink, client: httpx.Client
) -> None:
    port = ports(superlink).device
    assert activate(client, port, KEY).status_code == 200
    superlink.wait_for_node("dev-1", "online")
    assert activate(client, port, make_key()).status_code == 401
    stolen = signed_headers(make_key()) | {
        k: v for k, v in signed_headers(KEY).items() if "key" in k.lower()
    }
    message = ActivateNodeRequest(public_key=public_key_to_bytes(KEY.public_key()))
    url = f"https://localhost:{port}/v1/fleet/activate-node"
    assert call(client, url, message, stolen).status_code == 401


def test_nobody_registers_itself(superlink: RunningSuperLink, client: httpx.Client) -> None:
    new = make_key()
    message = RegisterNodeFleetRequest(public_key=public_key_to_bytes(new.public_key()))
    url = f"https://localhost:{ports(superlink).device}/v1/fleet/register-node"
    for key in (new, KEY):
        assert call(client, url, message, signed_headers(key)).status_code == 404


def test_a_body_too_long_or_of_unknown_length_is_refused_unread(
    superlink: RunningSuperLink,
) -> None:
    port, path = ports(superlink).device, "POST /v1/fleet/push-object"
    own = [("Host", "localhost"), *signed_headers(KEY).items()]
    long = [*own, ("Content-Length", str(1 << 30))]
    assert raw_status(port, superlink.ca_path, path, long) == 413
    assert (
        raw_status(port, superlink.ca_path, path, [*own, ("Transfer-Encoding", "chunked")]) == 411
    )


def test_a_revoked_device_is_refused_and_may_come_back(
    superlink: RunningSuperLink, client: httpx.Client
) -> None:
    key, port = make_key(), ports(superlink).device
    both = [wanted_node("dev-1", KEY), wanted_node("dev-2", key)]
    superlink.process.want(both, [])
    superlink.wait_for_node("dev-2")
    assert activate(client, port, key).status_code == 200
    superlink.wait_for_revision(superlink.process.want(both[:1], []))
    assert activate(client, port, key).status_code == 401
    superlink.process.want(both, [])
    superlink.wait_for_node("dev-2", "registered")
    assert activate(client, port, key).status_code == 200
