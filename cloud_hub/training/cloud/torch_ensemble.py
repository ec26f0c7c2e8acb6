"""Joins checkpoints into an ensemble: `python -m cloud_hub.training.cloud.torch_ensemble --spec …`.

It obeys run_files.py as a trainer does, in the same kind of folder, but trains nothing: the
members' weights (`member-<i>.npz`) become one state, named "members.<i>.…", which is judged on the
dataset's validation and test parts. With `--as-it-is` the weights of one checkpoint (`start.npz`)
are judged instead, and no weights are written.
"""

import argparse
import sys
import time
from pathlib import Path

from shared.quick_imports import quick_imports

with quick_imports():
    import torch
    from torch import nn

    from cloud_hub.candidates.torch_weights import load_network, state_of
    from cloud_hub.datasets.folds import parts_of
    from cloud_hub.datasets.manifest import Manifest
    from cloud_hub.datasets.object_packs import read_manifest
    from cloud_hub.datasets.opencv_arrays import Arrays, load_arrays
    from cloud_hub.explain.torch_explain import explain
    from cloud_hub.object_store import ObjectStore
    from cloud_hub.training.cloud.run_commands import AS_IT_IS
    from cloud_hub.training.trainer.file_run_folder import RunFolder, read_spec, read_weights
    from cloud_hub.training.trainer.run_files import (
        BEST,
        EXIT_REFUSED,
        WEIGHTS,
        RunResult,
        Started,
    )
    from cloud_hub.training.trainer.spec import TrainSpec
    from cloud_hub.training.trainer.torch_data import DeviceItems
    from cloud_hub.training.trainer.torch_device import (
        choose_device,
        device_name,
        memory_peak_bytes,
    )
    from cloud_hub.training.trainer.torch_objectives import make_objective
    from cloud_hub.training.trainer.torch_processes import Processes
    from cloud_hub.training.trainer.torch_scores import Evaluation, evaluate
    from cloud_hub.training.trainer.torch_start import (
        ChosenItems,
        Indices,
        choose_items,
        class_counts,
    )
    from shared.errors import IsthmusError, TransientError, UnavailableError
    from shared.exit_codes import DONE, exit_code_of
    from shared.logs import set_up_logging
    from shared.model.network import EnsembleNetwork
    from shared.model.weights import Array, decode_weights, digest_weights, encode_weights

MEMBER = "member-{index}.npz"
BATCH = 256


def run(spec_path: Path, *, is_as_it_is: bool = False) -> int:
    """Join, or take one checkpoint as it is, and judge; return the exit code."""
    folder = RunFolder(spec_path.parent)
    if folder.has_result:
        return DONE
    try:
        spec = read_spec(spec_path)
        folder.hold()
        try:
            _judge_all(folder, spec, is_as_it_is=is_as_it_is)
        finally:
            folder.release()
    except (TransientError, UnavailableError) as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return exit_code_of(error)
    except IsthmusError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        folder.write_error(error)
        return EXIT_REFUSED
    return DONE


def joined_state(members: list[dict[str, Array]]) -> dict[str, Array]:
    """Return members' states as one: "members.<i>.<name>", in their own order."""
    return {
        f"members.{index}.{name}": array
        for index, member in enumerate(members)
        for name, array in member.items()
    }


def _members(folder: RunFolder, spec: TrainSpec) -> list[dict[str, Array]]:
    architecture = spec.network.architecture
    assert isinstance(architecture, EnsembleNetwork), "a run of kind join has one"
    paths = [folder.path / MEMBER.format(index=i) for i in range(len(architecture.members))]
    return [decode_weights(read_weights(path)) for path in paths]


def _judge_all(folder: RunFolder, spec: TrainSpec, *, is_as_it_is: bool) -> None:
    started_s = time.monotonic()
    device = choose_device(spec, {})
    if is_as_it_is:
        state = decode_weights(read_weights(folder.path / WEIGHTS))
        told = "A checkpoint as it is; nothing was trained."
    else:
        members = _members(folder, spec)
        state = joined_state(members)
        told = f"{len(members)} checkpoints joined; nothing was trained."
    network = load_network(spec.network, spec.model, state, seed=spec.seed)
    ordered = state_of(network)
    digest = digest_weights(ordered)
    data = b"" if is_as_it_is else encode_weights(ordered)
    network.to(device)
    objects = ObjectStore(spec.data.objects)
    manifest = read_manifest(objects, spec.data.manifest)
    cache = Path(spec.cache) if spec.cache else None
    arrays = load_arrays(objects, manifest, spec.model, cache=cache)
    chosen = choose_items(spec, arrays, parts_of(manifest), takes_unlabelled=False)
    _tell_start(folder, network, chosen, device)
    judge = _Judge(folder, spec, network, arrays, chosen, device)
    validation, test = judge.evaluate(chosen.validation), judge.evaluate(chosen.test)
    if not is_as_it_is:
        folder.write(BEST, data)
    if spec.is_explained:
        _explain(folder, spec, network, arrays, chosen, manifest, digest, device)
    first = validation or test
    assert first is not None, "the hub refuses a dataset with neither part"
    folder.write_result(
        RunResult(
            weights=WEIGHTS if is_as_it_is else BEST,
            weights_digest=digest,
            value=first.value,
            metrics=first.metrics,
            test_metrics=test.metrics if test is not None else {},
            epochs=0.0,
            steps=0,
            best_epoch=0.0,
            items_per_s=0.0,
            device=device_name(device),
            device_seconds=time.monotonic() - started_s,
            memory_bytes=memory_peak_bytes(device),
            notes=(told,),
        )
    )


class _Judge:
    def __init__(
        self,
        folder: RunFolder,
        spec: TrainSpec,
        network: nn.Module,
        arrays: Arrays,
        chosen: ChosenItems,
        device: torch.device,
    ) -> None:
        self._spec = spec
        self._network = network
        counts = class_counts(spec.model, arrays, chosen.train)
        self._objective = make_objective(
            spec, network, folder.path, class_counts=counts, device=device
        )
        self._data = DeviceItems(arrays, spec.model, device)
        self._processes = Processes(device, {})

    def evaluate(self, judged: Indices) -> Evaluation | None:
        """Return how good the network is on some items; None where there are none."""
        if not len(judged):
            return None
        return evaluate(
            self._network,
            self._objective,
            self._data,
            self._data.indices(judged),
            self._spec.model,
            self._processes,
            batch=BATCH,
        )


def _tell_start(
    folder: RunFolder, network: nn.Module, chosen: ChosenItems, device: torch.device
) -> None:
    folder.append(
        Started(
            int(time.time() * 1000),
            resumed_step=None,
            device=device_name(device),
            precision="fp32",
            processes=1,
            parameters_count=sum(p.numel() for p in network.parameters()),
            trained_count=0,
            items_by_part=chosen.counts,
            steps_total=0,
        )
    )


def _explain(
    folder: RunFolder,
    spec: TrainSpec,
    network: nn.Module,
    arrays: Arrays,
    chosen: ChosenItems,
    manifest: Manifest,
    digest: str,
    device: torch.device,
) -> None:
    is_tested = bool(len(chosen.test))
    explain(
        network,
        spec.model,
        arrays,
        chosen.test if is_tested else chosen.validation,
        manifest,
        folder.path,
        part="test" if is_tested else "validation",
        weights_digest=digest,
        device=device,
        validation=chosen.validation if is_tested else None,
    )


def main(arguments: list[str] | None = None) -> int:
    """Join what the arguments name and return the exit code."""
    parser = argparse.ArgumentParser(prog="cloud_hub.training.cloud.torch_ensemble")
    parser.add_argument("--spec", type=Path, required=True, help="FOLDER/job.json of the run")
    parser.add_argument(AS_IT_IS, action="store_true", help="judge one checkpoint, join nothing")
    args = parser.parse_args(arguments)
    spec_path: Path = args.spec
    set_up_logging()
    return run(spec_path.resolve(), is_as_it_is=args.as_it_is)


if __name__ == "__main__":
    sys.exit(main())
