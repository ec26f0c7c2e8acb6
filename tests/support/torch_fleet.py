"""TorchFleet: the devices of a Job in this process, each with real samples, files and training.

Of what lies between a device and the ServerApp only the network is missing: tasks and updates are
those that travel.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import Path

from cloud_hub.training.fleet import Answer, AskId, Reply
from edge_agent.training.file_ledger import open_ledger
from edge_agent.training.settings import LearningSettings
from edge_agent.training.torch_task import TorchTask
from shared.learning.task import LearningTask, encode_reply
from shared.model.weights import Weights
from tests.support.learning_digits import write_key
from tests.support.manual_clock import ManualClock


class TorchFleet:
    """Implements cloud_hub.training.fleet.Fleet; an answer is there as soon as it is asked for."""

    def __init__(
        self, folder: Path, settings: Mapping[str, LearningSettings], clock: ManualClock
    ) -> None:
        """Args: settings: what the owner of each device says; its samples are there."""
        self._clock = clock
        self._ids = count(1)
        self._answers: deque[Answer] = deque()
        self._devices: dict[str, TorchTask] = {}
        for device, say in settings.items():
            state = folder / device
            state.mkdir(parents=True, exist_ok=True)
            write_key(state / "device.key")
            ledger = open_ledger(state / "learning", state / "device.key", say.privacy)
            self._devices[device] = TorchTask(state / "learning", say, ledger)

    def present(self) -> Mapping[str, str]:
        return dict.fromkeys(self._devices, "1")

    def ask(
        self,
        devices: Sequence[str],
        task: LearningTask,
        weights: Weights,
        *,
        ttl_s: float,  # noqa: ARG002  (answered at once)
    ) -> Mapping[str, AskId]:
        asks = {device: AskId(next(self._ids)) for device in devices}
        for device, ask in asks.items():
            answer = self._devices[device].run(task, weights)
            text = encode_reply(answer.reply)
            self._answers.append(
                Reply(ask, device, text, dict(answer.update), dict(answer.metrics))
            )
        return asks

    def answers(self, wait_s: float) -> Sequence[Answer]:
        if self._answers:
            return (self._answers.popleft(),)
        self._clock.advance(max(wait_s, 0.001))
        return ()

    def forget(self, asks: Collection[AskId]) -> None:
        """Nothing is on its way here."""
