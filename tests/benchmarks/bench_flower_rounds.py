"""What a Round costs: our processes beside Flower's stock ones, the same task, three devices.

Run: python -m tests.benchmarks.bench_flower_rounds [--devices 3] [--rounds 3] [--only ours|stock]
Prints one JSON line last. Both sides use TLS and node authentication, their default polls, a
database file, and one message a device and Round; the first Round warms up and is not counted.

1. Seconds are from the end of the first Round to the end of the last, by number of Rounds.
2. CPU is that of whole process trees, children that ended included (cutime, cstime), in the same
   time; a message is one device's part of one Round. `hub_cpu_s` is SuperLink and ServerApp.
3. Memory is the proportional set size of one device's tree: idle before any work, and right after
   the last Round, when ours still holds torch (it lets go after warm_training.IDLE_S).
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from cloud_hub.devices.x509_authority import Authority
from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.job_folder import JobPlan, WantedNode, WantedRun
from cloud_hub.training.order import JobOrder
from cloud_hub.training.process_superlink import SuperLinkProcess, SuperLinkSettings
from edge_agent.training.node_files import ORDER, STANDING, NodeOrder
from edge_agent.training.process_node import node_command
from shared.clock import SystemClock
from shared.model.weights import encode_weights
from shared.release.digest import digest_of
from tests.benchmarks.stock_flower import CLOSED
from tests.support.learning_digits import (
    METHOD,
    NETWORK,
    SPEC,
    first_weights,
    settings_for,
    write_digits,
)
from tests.support.superlink import make_key, public_pem
from tests.support.waiting import wait_until

SECONDS_MAX = 240
TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
APP = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "stockdigits"
version = "1.0.0"
description = "benchmark"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "stockdigits.apps:server"
clientapp = "stockdigits.apps:client"
[tool.flwr.app.config]
folder = ""
rounds = 1
nodes = 1
"""
APP_CODE = """from tests.benchmarks import stock_flower

server = stock_flower.server_app
client = stock_flower.client_app
"""


@dataclass(frozen=True)
class Side:
    """What runs, as process ids of the roots of its trees."""

    hub: int
    nodes: tuple[int, ...]
    begin: Callable[[], None]
    closed: Callable[[], Sequence[float]]  # When each Round was closed, in seconds
    accuracy: Callable[[], float]  # Of the last Round's devices on their own held-out parts


def main() -> None:
    """Run both, print what they cost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("ours", "stock"))
    arguments = parser.parse_args()
    os.environ.update(QUIET)
    os.environ["PYTHONPATH"] = str(ROOT)
    figures: dict[str, object] = {
        "bench": "flower_rounds",
        "devices": arguments.devices,
        "rounds": arguments.rounds,
        "cpus": os.cpu_count(),
        "load_1min_before": round(os.getloadavg()[0], 2),
    }
    sides = {"ours": _ours, "stock": _stock}
    measured = {
        name: _measured(side, arguments.devices, arguments.rounds)
        for name, side in sides.items()
        if arguments.only in (None, name)
    }
    figures |= measured
    if len(measured) == len(sides):
        ours, stock = measured["ours"], measured["stock"]
        figures["ours_to_stock"] = {name: round(ours[name] / stock[name], 3) for name in ours}
    print(json.dumps(figures))


def _measured(
    start: "Callable[[Path, int, int], Iterator[Side]]", devices: int, rounds: int
) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory() as place,
        contextmanager(start)(Path(place), devices, rounds + 1) as side,
    ):
        idle = _pss_mb(side.nodes[0])
        side.begin()
        wait_until(lambda: len(side.closed()) >= 1, seconds_max=SECONDS_MAX)
        hub_s, nodes_s = _cpu_s([side.hub]), _cpu_s(side.nodes)
        wait_until(lambda: len(side.closed()) >= rounds + 1, seconds_max=SECONDS_MAX)
        hub_s, nodes_s = _cpu_s([side.hub]) - hub_s, _cpu_s(side.nodes) - nodes_s
        closed = side.closed()
        messages = rounds * devices
        return {
            "round_s": round((closed[rounds] - closed[0]) / rounds, 3),
            "message_cpu_s": round((hub_s + nodes_s) / messages, 3),
            "message_node_cpu_s": round(nodes_s / messages, 3),
            "message_hub_cpu_s": round(hub_s / messages, 3),
            "node_idle_pss_mb": idle,
            "node_worked_pss_mb": _pss_mb(side.nodes[0]),
            "accuracy": round(side.accuracy(), 3),
        }


def _ours(folder: Path, devices: int, rounds: int) -> Iterator[Side]:
    authority = Authority(folder / "pki", host_names=("localhost",), clock=SystemClock())
    process = SuperLinkProcess(
        folder / "superlink",
        ca_path=authority.ca_path,
        certificate_path=authority.server_certificate_path,
        key_path=authority.server_key_path,
        settings=SuperLinkSettings(host="127.0.0.1", port=0),
        clock=SystemClock(),
    )
    keys = {f"device-{number}": make_key() for number in range(devices)}
    job = folder / "jobs" / "job-1"
    job.parent.mkdir()
    files = JobFiles(job)
    order = JobOrder(
        model="digits", devices=tuple(keys), rounds=rounds, method=METHOD, devices_min=devices
    )
    plan = JobPlan(
        job="job-1",
        order=order,
        spec=SPEC,
        network=NETWORK,
        devices=tuple(keys),
        standing_path=str(folder / "superlink" / "standing.json"),
    )
    files.create(plan, encode_weights(first_weights()))
    wanted = [WantedNode(device=d, public_key_pem=public_pem(k)) for d, k in keys.items()]
    stop = threading.Event()
    thread = threading.Thread(target=process.run, args=(stop,))
    with ExitStack() as ends:
        ends.callback(thread.join)
        ends.callback(stop.set)
        process.want(wanted, [])
        thread.start()
        standing = wait_until(
            lambda: (s := process.standing()) and len(s.nodes) == devices and s, seconds_max=60
        )
        assert standing
        nodes = []
        for device, key in keys.items():
            learning = _write_order(folder / device, key, standing.device_port, authority)
            nodes.append(ends.enter_context(_running(node_command(learning), learning)))
            wait_until((learning / STANDING).exists, seconds_max=60)
        wait_until(
            lambda: (s := process.standing()) and all(n.status == "online" for n in s.nodes),
            seconds_max=60,
        )

        def begin() -> None:
            process.want(wanted, [WantedRun(job="job-1", attempt=1, folder=str(job))])

        def closed() -> list[float]:
            return [e.at_ms / 1000 for e in files.read_events() if e.code == "round.closed"]

        def accuracy() -> float:
            last = [e for e in files.read_events() if e.code == "update.accepted"][-devices:]
            return sum(e.numbers["accuracy_after"] for e in last) / devices

        yield Side(standing.pid, tuple(n.pid for n in nodes), begin, closed, accuracy)


def _write_order(
    folder: Path, key: ec.EllipticCurvePrivateKey, port: int, authority: Authority
) -> Path:
    learning = folder / "learning"
    learning.mkdir(parents=True)
    key_path = folder / "device.key"
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_digits(folder / "digits.npz")
    order = NodeOrder(
        device=folder.name,
        jobs=("job-1",),
        address=f"localhost:{port}",
        ca_path=str(authority.ca_path),
        key_path=str(key_path),
        settings=settings_for(folder / "digits.npz"),
        until_ms=2**50,
    )
    (learning / ORDER).write_bytes(msgspec.json.encode(order))
    return learning


def _stock(folder: Path, devices: int, rounds: int) -> Iterator[Side]:
    authority = Authority(
        folder / "pki", host_names=("localhost", "127.0.0.1"), clock=SystemClock()
    )
    port = _free_port()
    command = [
        *(str(BIN / "flower-superlink"), "--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-ca-certfile", str(authority.ca_path)),
        *("--ssl-certfile", str(authority.server_certificate_path)),
        *("--ssl-keyfile", str(authority.server_key_path)),
        *("--database", str(folder / "state.db"), "--enable-supernode-auth"),
        "--disable-runtime-dependency-installation",
    ]
    control = ControlHttpClient.from_server_address(
        f"localhost:{port}",
        insecure=False,
        root_certificates=str(authority.ca_path),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    with ExitStack() as ends:
        superlink = ends.enter_context(_running(command, folder / "hub"))
        ends.callback(control._client.close)  # Before the SuperLink, which waits for it
        wait_until(lambda: _answers(port), seconds_max=60)
        nodes = []
        for number in range(devices):
            key = ec.generate_private_key(ec.SECP384R1())
            control.RegisterNode(
                RegisterNodeRequest(
                    public_key=public_key_to_bytes(key.public_key()), name=f"device-{number}"
                )
            )
            command = _supernode(folder / f"device-{number}", key, port, authority)
            nodes.append(ends.enter_context(_running(command, folder / f"device-{number}")))

        def are_online() -> bool:
            found = control.ListNodes(ListNodesRequest()).nodes_info
            return sum(node.status == "online" for node in found) == devices

        wait_until(are_online, seconds_max=40)

        def begin() -> None:
            _write_app(folder / "app")
            data = build_fab_from_disk(folder / "app")
            fab = fab_to_proto(Fab(digest_of(data).removeprefix("sha256:"), data, {}))
            config = user_config_to_proto(
                {"folder": str(folder), "rounds": rounds, "nodes": devices}
            )
            control.StartRun(StartRunRequest(fab=fab, override_config=config, federation=""))

        def lines() -> list[list[float]]:
            path = folder / CLOSED
            text = path.read_text() if path.exists() else ""
            return [[float(word) for word in line.split()] for line in text.splitlines()]

        yield Side(
            superlink.pid,
            tuple(node.pid for node in nodes),
            begin,
            lambda: [line[0] for line in lines()],
            lambda: lines()[-1][1],
        )


def _supernode(
    folder: Path, key: ec.EllipticCurvePrivateKey, port: int, authority: Authority
) -> list[str]:
    folder.mkdir()
    (folder / "device.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
    (folder / "device.key").chmod(0o600)
    write_digits(folder / "digits.npz")
    return [
        *(str(BIN / "flower-supernode"), "--superlink", f"localhost:{port}"),
        *("--root-certificates", str(authority.ca_path)),
        *("--host", "127.0.0.1", "--port", str(_free_port())),
        *("--auth-supernode-private-key", str(folder / "device.key")),
        *("--node-config", f'samples="{folder / "digits.npz"}"'),
    ]


def _write_app(folder: Path) -> None:
    (folder / "stockdigits").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(APP)
    (folder / "stockdigits" / "__init__.py").write_text("")
    (folder / "stockdigits" / "apps.py").write_text(APP_CODE)


@contextmanager
def _running(command: Sequence[str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",  # Flower calls its own programs by name
        "FLWR_HOME": str(folder / "flwr"),
    }
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    except BaseException:
        print((folder / "log.txt").read_text(errors="replace")[-3000:], file=sys.stderr)
        raise
    finally:
        tree = _tree([process.pid])
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in tree - {process.pid}:
            _end(pid, str(folder))


def _end(pid: int, folder: str) -> None:
    """End what was left of a tree; its command line or folder says that it is ours."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        if folder in words:
            os.kill(pid, 9)
    except OSError:
        return


def _cpu_s(roots: Sequence[int]) -> float:
    """Return the CPU seconds of trees, children that ended included."""
    return sum(sum(int(n) for n in _stat(pid)[11:15]) for pid in _tree(roots)) / TICKS


def _pss_mb(root: int) -> float:
    """Return the proportional set size of a tree in MB."""
    total = 0
    for pid in _tree([root]):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(total * 1024 / 1e6, 1)


def _tree(roots: Sequence[int]) -> set[int]:
    parents = {
        int(entry.name): int(stat[1])
        for entry in Path("/proc").glob("[0-9]*")
        if (stat := _stat(int(entry.name)))
    }
    tree = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return tree


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; zeros for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
