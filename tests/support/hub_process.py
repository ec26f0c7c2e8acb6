"""The hub's inbox as a process of its own, to be killed; --embedded puts the broker into it."""

import argparse
import threading
from pathlib import Path

from cloud_hub.inbox.amqtt_broker import BrokerSettings, EmbeddedBroker
from cloud_hub.sql_database import Database
from shared.clock import SystemClock
from shared.ids import HUB_ID, DeviceId
from shared.link.paho_link import LinkSettings, PahoLink
from shared.wire.topics import hub_filters
from shared.worker import Worker
from tests.support.hub_parts import make_hub_parts

HOST = "127.0.0.1"


def link_settings(client: DeviceId, port: int, pki: Path) -> LinkSettings:
    """Return how `client` reaches the broker on this machine, quick to try again."""
    return LinkSettings(
        host=HOST,
        port=port,
        ca_path=str(pki / "ca.crt"),
        certificate_path=str(pki / f"{client}.crt"),
        key_path=str(pki / f"{client}.key"),
        keepalive_s=5,
        backoff_s_min=0.05,
        backoff_s_max=0.4,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pki", type=Path, required=True)
    parser.add_argument("--embedded", action="store_true")
    arguments = parser.parse_args()
    if arguments.embedded:
        _start_broker(arguments.port, arguments.pki)
    clock = SystemClock()
    link = PahoLink(
        settings=link_settings(HUB_ID, arguments.port, arguments.pki),
        client=HUB_ID,
        filters=hub_filters(),
        clock=clock,
        with_last_will=False,
    )
    parts = make_hub_parts(Database(arguments.database), arguments.state, link, clock)
    link.start()
    for worker in (Worker("inbox", parts.inbox.run), Worker("blocks", parts.blocks.run)):
        worker.start()
    threading.Event().wait()


def _start_broker(port: int, pki: Path) -> None:
    settings = BrokerSettings(
        host=HOST,
        port=port,
        ca_path=str(pki / "ca.crt"),
        certificate_path=str(pki / "server.crt"),
        key_path=str(pki / "server.key"),
    )
    EmbeddedBroker(settings, is_allowed=lambda _device, _serial: True).start()


if __name__ == "__main__":
    main()
