"""One run from job.json to RESULT: fetches, builds, has the loop train, and writes what came of it.

1. What can never work ends with ERROR and EXIT_REFUSED; what may work later (a store that does not
   answer, a process that died) with another code, and the next start goes on from the last state.
2. Every process reads everything; the first one writes. Any of them may say why it cannot go on.
3. What is done at the end is torch_ending.py's.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from torch import nn

from cloud_hub.datasets.folds import parts_of
from cloud_hub.datasets.manifest import Manifest
from cloud_hub.datasets.object_packs import read_manifest
from cloud_hub.datasets.opencv_arrays import Arrays, load_arrays
from cloud_hub.object_store import ObjectStore
from cloud_hub.training.trainer.file_run_folder import RunFolder, read_spec, read_weights
from cloud_hub.training.trainer.run_files import EXIT_REFUSED, Started
from cloud_hub.training.trainer.schedule import Plan, make_plan, seed_of
from cloud_hub.training.trainer.spec import Precision, TrainSpec
from cloud_hub.training.trainer.torch_data import DeviceItems
from cloud_hub.training.trainer.torch_device import (
    choose_device,
    choose_precision,
    compiled,
    device_name,
    is_out_of_memory,
    out_of_memory,
)
from cloud_hub.training.trainer.torch_ending import Ending, Material, evaluated
from cloud_hub.training.trainer.torch_loop import Learner, Loop, Teller, now_ms
from cloud_hub.training.trainer.torch_low_rank import prepare_trained
from cloud_hub.training.trainer.torch_objective import Objective
from cloud_hub.training.trainer.torch_objectives import make_objective
from cloud_hub.training.trainer.torch_optimisers import Optimiser
from cloud_hub.training.trainer.torch_processes import Processes
from cloud_hub.training.trainer.torch_scores import Evaluation
from cloud_hub.training.trainer.torch_start import (
    ChosenItems,
    choose_items,
    class_counts,
    load_start,
)
from cloud_hub.training.trainer.torch_states import RunState, read_state
from cloud_hub.training.trainer.torch_step import START, Stepper
from shared.errors import (
    ContractError,
    IsthmusError,
    TransientError,
    UnavailableError,
)
from shared.exit_codes import DONE, exit_code_of
from shared.model.torch_networks import build_network, head_prefix
from shared.release.digest import digest_of

CHANCES_BATCH = 64  # Items on which precision is measured and compilation tried


def run(spec_path: Path, environment: Mapping[str, str]) -> int:
    """Carry a run out and return the exit code; see the rules above."""
    folder = RunFolder(spec_path.parent)
    if folder.has_result:
        return DONE
    try:
        try:
            _run(folder, read_spec(spec_path), environment)
        except (RuntimeError, MemoryError) as error:
            raise _translated(error, environment) from error
    except (TransientError, UnavailableError) as error:
        _complain(error)
        return exit_code_of(error)
    except IsthmusError as error:
        _complain(error)
        folder.write_error(error)
        return EXIT_REFUSED
    return DONE


def _run(folder: RunFolder, spec: TrainSpec, environment: Mapping[str, str]) -> None:
    started_s = time.monotonic()
    is_first = environment.get("RANK", "0") == "0"
    if is_first:
        folder.hold()
    try:
        device = choose_device(spec, environment)
        processes = Processes(device, environment)
        try:
            _Run(folder, spec, device, processes, started_s=started_s).carry_out()
        finally:
            processes.leave()
    finally:
        if is_first:
            folder.release()


class _Run:
    """What the steps of one run share."""

    def __init__(
        self,
        folder: RunFolder,
        spec: TrainSpec,
        device: torch.device,
        processes: Processes,
        *,
        started_s: float,
    ) -> None:
        self._folder = folder
        self._spec = spec
        self._device = device
        self._processes = processes
        self._started_s = started_s
        text = msgspec.json.encode(spec, order="deterministic")
        self._state = RunState(spec_digest=digest_of(text), precision="")
        self._teller = Teller(folder, self._state, is_first=processes.is_first)

    def carry_out(self) -> None:
        """Train, and write what came of it."""
        spec, device = self._spec, self._device
        resumed = self._find_state()
        network = self._start_network(is_fresh=resumed is None)
        manifest, arrays = self._fetch()
        # What is seen of the training part: which items those are, an objective may say.
        parts = parts_of(
            manifest, folds_count=spec.data.folds_count, fold=spec.data.fold, seed=spec.seed
        )
        labelled = choose_items(spec, arrays, parts, takes_unlabelled=True)
        counts = class_counts(spec.model, arrays, labelled.train)
        # What an objective draws for itself, the same in every process:
        torch.manual_seed(seed_of(spec.seed, 0, stream=START))
        objective = make_objective(
            spec, network, self._folder.path, class_counts=counts, device=device
        )
        chosen = choose_items(spec, arrays, parts, takes_unlabelled=objective.takes_unlabelled)
        data = DeviceItems(arrays, spec.model, device)
        plan = make_plan(len(chosen.train), spec.recipe, processes=self._processes.count)
        prepare_trained(network, spec.trained, seed=spec.seed)
        learner = self._learner(network, objective, data, chosen, plan, resumed)
        if resumed is not None:
            self._resume(learner, resumed)
        self._tell_start(learner, chosen, plan, resumed)
        loop = Loop(
            learner,
            plan,
            spec.recipe,
            self._processes,
            self._folder,
            self._teller,
            self._state,
            device=device,
            started_s=self._started_s,
        )
        loop.run()
        material = Material(manifest, arrays, data, chosen, objective, plan)
        Ending(self._folder, spec, self._state, self._teller, self._processes).carry_out(
            loop, material
        )

    def _find_state(self) -> RunState | None:
        """Return the newest state that can be read; the others are passed over, and it is said."""
        for path in self._folder.states():
            try:
                return read_state(path, spec_digest=self._state.spec_digest)
            except ContractError as error:
                self._teller.note(error.message)
        return None

    def _start_network(self, *, is_fresh: bool) -> nn.Module:
        spec = self._spec
        network = build_network(spec.network, spec.model, seed=spec.seed)
        if spec.start.weights is not None:
            data = read_weights(self._folder.path / spec.start.weights)
            told = load_start(network, spec, data)
            if is_fresh:
                self._teller.note(told)
        network.to(self._device)
        if spec.recipe.has_channels_last and len(spec.model.input_shape) == 4:
            # The stubs do not know this form of `to`.
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._device.type == "cuda" and self._processes.count > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return network

    def _fetch(self) -> tuple[Manifest, Arrays]:
        objects = ObjectStore(self._spec.data.objects)
        manifest = read_manifest(objects, self._spec.data.manifest)
        cache = Path(self._spec.cache) if self._spec.cache else None
        return manifest, load_arrays(objects, manifest, self._spec.model, cache=cache)

    def _learner(
        self,
        network: nn.Module,
        objective: Objective,
        data: DeviceItems,
        chosen: ChosenItems,
        plan: Plan,
        resumed: RunState | None,
    ) -> Learner:
        spec = self._spec
        train = data.indices(chosen.train)
        probe = data.to_input(data.items(train[:CHANCES_BATCH]))
        if probe.ndim == 4 and spec.recipe.has_channels_last:
            probe = probe.contiguous(memory_format=torch.channels_last)
        if resumed is None:
            precision = choose_precision(spec, network, probe)
        else:  # Measured again it might come out otherwise
            precision = Precision(resumed.precision)
        is_bf16 = self._processes.agreed(float(precision is Precision.BF16)) > 0
        self._state.precision = (Precision.BF16 if is_bf16 else Precision.FP32).value
        optimiser = Optimiser(
            (network, objective.extra), spec.recipe, head_prefix=_head_prefix(spec)
        )
        stepped = network
        if spec.recipe.is_compiled:
            stepped = compiled(network, probe, self._teller.note, is_bf16=is_bf16)
        if not data.is_resident:
            self._teller.note(
                f"The items ({data.bytes_count >> 20} MiB) do not fit on the GPU beside the "
                "network: batches are copied to it."
            )
        stepper = Stepper(
            spec,
            stepped,
            objective,
            data,
            train,
            optimiser,
            plan,
            self._processes,
            Precision(self._state.precision),
        )
        judged = chosen.validation
        if not len(judged):
            self._teller.note(
                "There is no validation part: epochs are compared by their training loss."
            )

        def judge() -> Evaluation:
            return evaluated(network, objective, data, judged, spec, self._processes)

        return Learner(network, objective.extra, optimiser, stepper, judge if len(judged) else None)

    def _resume(self, learner: Learner, found: RunState) -> None:
        """Go on from a state; notes told meanwhile stay. Raises ContractError `training.state`."""
        learner.network.load_state_dict(found.network)
        learner.extra.load_state_dict(found.extra)
        learner.optimiser.load(found.optimiser)
        found.notes += [text for text in self._state.notes if text not in found.notes]
        for name in RunState.__slots__:
            setattr(self._state, name, getattr(found, name))

    def _tell_start(
        self, learner: Learner, chosen: ChosenItems, plan: Plan, resumed: RunState | None
    ) -> None:
        parameters = list(learner.network.parameters())
        self._teller.tell(
            Started(
                now_ms(),
                resumed_step=None if resumed is None else resumed.step,
                device=device_name(self._device),
                precision=self._state.precision,
                processes=self._processes.count,
                parameters_count=sum(p.numel() for p in parameters),
                trained_count=sum(p.numel() for p in parameters if p.requires_grad),
                items_by_part=chosen.counts,
                steps_total=plan.steps_total,
            )
        )


def _head_prefix(spec: TrainSpec) -> str:
    try:
        return head_prefix(spec.network, spec.model)
    except ContractError:  # `network.headless`: every matrix is a hidden one
        return ""


def _translated(
    error: RuntimeError | MemoryError, environment: Mapping[str, str]
) -> IsthmusError | RuntimeError | MemoryError:
    """Return what an error of torch means, or the error itself where it is a fault of ours."""
    if is_out_of_memory(error):
        return out_of_memory(error)
    text = str(error)
    is_lost = any(word in text for word in ("Connection closed", "Connection reset", "Timed out"))
    if environment.get("WORLD_SIZE", "1") != "1" and (is_lost or "NCCL" in text):
        return TransientError(
            "training.processes",
            "Another process of this run is gone.",
            remedy="Start the run again: it goes on from its last state.",
        )
    return error


def _complain(error: IsthmusError) -> None:
    """Tell a person, on one line."""
    print(f"{error.code}: {error}", file=sys.stderr)  # noqa: T201  (a command's own words)
