"""Ending: judges a trained run's best weights and writes what came of it: BEST, Report, RESULT.

1. RESULT is written when everything it names is there. The states are forgotten then, unless the
   run was stopped: somebody may want it to go on.
2. A stopped run is neither judged by the test part nor explained: it is to end soon.
3. Weights without a Report are worth more than none: what keeps it from being written is noted.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cloud_hub.datasets.manifest import Manifest
from cloud_hub.datasets.opencv_arrays import Arrays
from cloud_hub.explain.torch_explain import explain
from cloud_hub.training.trainer.file_run_folder import RunFolder
from cloud_hub.training.trainer.run_files import BEST, RunResult
from cloud_hub.training.trainer.schedule import Plan
from cloud_hub.training.trainer.spec import TrainSpec
from cloud_hub.training.trainer.torch_data import DeviceItems
from cloud_hub.training.trainer.torch_device import device_name, memory_peak_bytes
from cloud_hub.training.trainer.torch_loop import Loop, Teller
from cloud_hub.training.trainer.torch_objective import Objective
from cloud_hub.training.trainer.torch_processes import Processes
from cloud_hub.training.trainer.torch_scores import Evaluation, evaluate
from cloud_hub.training.trainer.torch_start import ChosenItems
from cloud_hub.training.trainer.torch_states import RunState
from shared.errors import IsthmusError
from shared.model.torch_networks import build_network
from shared.model.weights import digest_weights, encode_weights


@dataclass(frozen=True, slots=True)
class Material:
    """What a run worked with."""

    manifest: Manifest
    arrays: Arrays
    data: DeviceItems
    chosen: ChosenItems
    objective: Objective
    plan: Plan


class Ending:
    """See the rules above."""

    def __init__(
        self,
        folder: RunFolder,
        spec: TrainSpec,
        state: RunState,
        teller: Teller,
        processes: Processes,
    ) -> None:
        """Args: state: as the loop left it."""
        self._folder = folder
        self._spec = spec
        self._state = state
        self._teller = teller
        self._processes = processes

    def carry_out(self, loop: Loop, material: Material) -> None:
        """Write everything; only the first of several processes does."""
        spec, state, plan = self._spec, self._state, material.plan
        device = material.data.device
        network = build_network(spec.network, spec.model, seed=spec.seed).to(device)
        network.load_state_dict(state.best)
        judged = material.chosen.test
        test_metrics: dict[str, float] = {}
        if len(judged) and not loop.is_stopped:
            found = evaluated(
                network, material.objective, material.data, judged, spec, self._processes
            )
            test_metrics = found.metrics
        if not self._processes.is_first:
            return
        weights = {name: state.best[name].cpu().numpy() for name in network.state_dict()}
        digest = digest_weights(weights)
        self._folder.write(BEST, encode_weights(weights))
        if spec.is_explained and not loop.is_stopped:
            self._explain(network, material, digest)
        assert state.best_value is not None, "a loop ends with an evaluation"
        result = RunResult(
            weights=BEST,
            weights_digest=digest,
            value=state.best_value,
            metrics=state.best_metrics,
            test_metrics=test_metrics,
            epochs=plan.epoch_of(state.step),
            steps=state.step,
            best_epoch=plan.epoch_of(state.best_step),
            items_per_s=loop.items_per_s,
            device=device_name(device),
            device_seconds=loop.device_seconds,
            memory_bytes=memory_peak_bytes(device),
            is_stopped=loop.is_stopped,
            notes=tuple(state.notes),
        )
        self._folder.write_result(result)
        if not loop.is_stopped:
            self._folder.forget_states()

    def _explain(self, network: nn.Module, material: Material, digest: str) -> None:
        """Write the Report on the test part, or on the validation part where there is no other."""
        chosen = material.chosen
        part, judged = "test", chosen.test
        if not len(judged):
            part, judged = "validation", chosen.validation
        if not len(judged):
            return
        try:
            explain(
                network.eval(),
                self._spec.model,
                material.arrays,
                judged,
                material.manifest,
                self._folder.path,
                part=part,
                weights_digest=digest,
                device=material.data.device,
                validation=chosen.validation if part == "test" else None,
            )
        except IsthmusError as error:
            self._teller.note(f"There is no report: {error.message}")


def evaluated(
    network: nn.Module,
    objective: Objective,
    data: DeviceItems,
    judged: NDArray[np.int64],
    spec: TrainSpec,
    processes: Processes,
) -> Evaluation:
    """Return how good a network is on the items of (n,) indices, at least one."""
    chosen = data.indices(judged)
    return evaluate(
        network, objective, data, chosen, spec.model, processes, batch=spec.recipe.batch
    )
