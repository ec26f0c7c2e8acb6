"""What Flower's stock processes run in bench_flower_rounds: its FedAvg, and our local training.

A ClientApp that does what TorchTask does to the samples (read, measure, train, measure), with the
same functions; what differs is only how the work reaches the device and comes back.
"""

import time
from collections.abc import Iterable
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from edge_agent.training.opencv_samples import load_samples
from edge_agent.training.torch_trainer import measure, train
from shared.model.torch_networks import build_network
from tests.support.learning_digits import METHOD, NETWORK, SPEC, settings_for

CLOSED = "closed.txt"  # In the run's folder: a line, the time, for each Round that was closed
WHOLE_ROUND = 1.0

client_app = ClientApp()
server_app = ServerApp()


@client_app.train()  # type: ignore[untyped-decorator]  # flwr leaves it untyped
def train_on_device(message: Message, context: Context) -> Message:
    """Train once on this device's samples."""
    torch.set_num_threads(1)
    entry = settings_for(Path(str(context.node_config["samples"]))).samples[0]
    samples = load_samples(entry, SPEC)
    network = build_network(NETWORK, SPEC)
    network.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    held_out = torch.from_numpy(samples.held_out.items), torch.from_numpy(samples.held_out.labels)
    items = torch.from_numpy(samples.training.items)
    before = measure(network, *held_out, spec=SPEC)
    outcome = train(network, items, torch.from_numpy(samples.training.labels), METHOD, spec=SPEC)
    after = measure(network, *held_out, spec=SPEC)
    metrics = {
        "num-examples": outcome.samples_count,
        "loss": outcome.loss,
        "accuracy_before": before.accuracy or 0.0,
        "accuracy_after": after.accuracy or 0.0,
    }
    arrays = ArrayRecord(network.state_dict())
    return Message(
        RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)}), reply_to=message
    )


class TimedFedAvg(FedAvg):
    """Flower's own, which says when a Round was closed."""

    def __init__(self, folder: Path, *, nodes_count: int) -> None:
        """Args: folder: where CLOSED is written."""
        super().__init__(
            fraction_train=WHOLE_ROUND,
            fraction_evaluate=0.0,
            min_train_nodes=nodes_count,
            min_available_nodes=nodes_count,
        )
        self._folder = folder
        self._nodes_count = nodes_count

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate as FedAvg does."""
        taken = list(replies)
        assert sum(reply.has_content() for reply in taken) == self._nodes_count, taken
        result = super().aggregate_train(server_round, taken)
        accuracy = (result[1] or {}).get("accuracy_after")
        with (self._folder / CLOSED).open("a") as file:
            file.write(f"{time.time()} {accuracy}\n")
        return result


@server_app.main()  # type: ignore[untyped-decorator]  # flwr leaves it untyped
def serve(grid: Grid, context: Context) -> None:
    """Run all Rounds."""
    config = context.run_config
    strategy = TimedFedAvg(Path(str(config["folder"])), nodes_count=int(config["nodes"]))
    arrays = ArrayRecord(build_network(NETWORK, SPEC, seed=1).state_dict())
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(config["rounds"]))
