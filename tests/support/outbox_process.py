"""An agent's outbox and publisher as a process of their own, to be killed.

Appends decision records with items 0, 1, … up to --items, once each over all its lives: where to go
on is read from what is committed. Runs until killed. Without --port it only appends.
"""

import argparse
import resource
import signal
import threading
from pathlib import Path

from edge_agent.telemetry.publisher import Publisher, PublisherSettings
from edge_agent.telemetry.sql_outbox import OutboxSettings, SqlOutbox
from shared.clock import SystemClock
from shared.ids import DeviceId
from shared.link.link import Connected, Delivery
from shared.link.paho_link import PahoLink
from shared.wire.records import Watermark
from shared.wire.topics import device_filters
from shared.worker import Worker
from tests.support.hub_process import link_settings
from tests.support.record_bodies import decision_record

CHUNK_ITEMS = 200


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--file-bytes-max", type=int)
    parser.add_argument("--device", type=DeviceId)
    parser.add_argument("--port", type=int)
    parser.add_argument("--pki", type=Path)
    arguments = parser.parse_args()
    if arguments.file_bytes_max:  # Writing past it fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_bytes_max,) * 2)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    outbox = SqlOutbox(arguments.folder / "outbox.db", OutboxSettings(), SystemClock())
    workers = [Worker("outbox", outbox.run)]
    if arguments.port:
        workers += _publishing(outbox, arguments.device, arguments.port, arguments.pki)
    for worker in workers:
        worker.start()
    # One sequence per item, so that what is committed says which item comes next.
    for item in range(outbox.last_sequence, arguments.items):
        outbox.append(decision_record(item))
        if item % CHUNK_ITEMS == 0:
            print(item, flush=True)
            threading.Event().wait(0.02)  # A pace at which the kills fall into the middle
    while not outbox.flush():
        print("disk", outbox.rows_count, outbox.dropped_count, flush=True)
        threading.Event().wait(0.05)
    print("all", outbox.last_sequence, flush=True)
    threading.Event().wait()


def _publishing(outbox: SqlOutbox, device: DeviceId, port: int, pki: Path) -> list[Worker]:
    clock = SystemClock()
    link = PahoLink(
        settings=link_settings(device, port, pki),
        client=device,
        filters=device_filters(device),
        clock=clock,
        with_last_will=False,
    )
    settings = PublisherSettings(resend_s=1.0, resend_s_max=4.0, batch_records_max=100)
    publisher = Publisher(outbox, link, device, clock, settings)

    def receive(stop: threading.Event) -> None:
        while not stop.is_set():
            for arrival in link.arrivals(wait_s=0.5):
                match arrival:
                    case Connected():
                        publisher.on_connected()
                    case Delivery(received=received) if isinstance(received.message, Watermark):
                        publisher.on_watermark(received.message)
                    case _:
                        pass
                link.acknowledge(arrival)

    link.start()
    return [Worker("inbox", receive), Worker("publisher", publisher.run)]


if __name__ == "__main__":
    main()
