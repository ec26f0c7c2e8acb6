"""Explains a model on one part of a dataset: writes report.json, answers.npz and pictures.

1. Only labelled items are judged; the share left out is said.
2. Pictures are drawn of what there is: what cannot be drawn is left out, never empty.
3. report.json is written last: with it the folder is whole.
4. `python -m cloud_hub.explain.torch_explain FOLDER` does the same for any checkpoint, in a process
   of its own with limits; explain_files.py says what FOLDER holds.
"""

import logging
import sys
from pathlib import Path

from shared.quick_imports import quick_imports

with quick_imports():
    import msgspec
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from cloud_hub.datasets.folds import NUMBERS, parts_of
    from cloud_hub.datasets.manifest import Manifest, Part, encode_manifest
    from cloud_hub.datasets.object_packs import read_manifest
    from cloud_hub.datasets.opencv_arrays import Arrays, load_arrays
    from cloud_hub.explain import explain_files as files
    from cloud_hub.explain.answers import encode_answers
    from cloud_hub.explain.explain_files import ExplainResult, ExplainTask
    from cloud_hub.explain.matplotlib_figure import Picture
    from cloud_hub.explain.matplotlib_report import draw_findings
    from cloud_hub.explain.report import Report, WorstItem
    from cloud_hub.explain.torch_judgement import (
        Judgement,
        answers_of,
        judge,
        labelled,
        temperature_of,
    )
    from cloud_hub.explain.torch_worst import draw_worst
    from cloud_hub.object_store import ObjectStore
    from cloud_hub.process_limits import limit_this_process
    from shared.errors import ContractError, IsthmusError, TransientError
    from shared.model.network import NetworkSpec
    from shared.model.spec import ModelSpec
    from shared.model.torch_networks import build_network
    from shared.model.weights import Weights, decode_weights, digest_weights
    from shared.release.digest import digest_of

MANY_SLICES = 20  # A 95 % interval lies below the truth for one in forty

Indices = NDArray[np.int64]


def explain(
    network: nn.Module,
    spec: ModelSpec,
    arrays: Arrays,
    chosen: Indices,
    manifest: Manifest,
    folder: Path,
    *,
    part: str,
    weights_digest: str,
    device: torch.device,
    validation: Indices | None = None,
) -> Report:
    """Write a report on the chosen items into `folder` and return it.

    Args:
        network: with its weights, on `device`; it is left as it came.
        spec: the model's.
        arrays: of the dataset version.
        chosen: (n,) positions in the arrays: the part that is judged.
        manifest: of the version.
        folder: exists; what lies there under the same names is replaced.
        part: what the chosen items are, for people.
        weights_digest: of the network's weights.
        device: where the network is.
        validation: (m,) positions of other items, to fit a temperature that would calibrate.

    Raises:
        RefusedError: `explain.not_finite`, `explain.labels` or `inference.output`.
        TransientError: `explain.disk`.
    """
    try:
        return _explain(
            network,
            spec,
            arrays,
            chosen,
            manifest,
            folder,
            part=part,
            weights_digest=weights_digest,
            device=device,
            validation=validation,
        )
    except OSError as error:
        raise TransientError(
            "explain.disk",
            f"The report could not be written to {folder}: {error.strerror or error}.",
            remedy="Free some space there, and explain the model again.",
        ) from error


def work(folder: Path) -> ExplainResult:
    """Return what came of the task in `folder`; its files are written there."""
    task = msgspec.json.decode((folder / files.TASK).read_bytes(), type=ExplainTask)
    settings = task.settings
    limit_this_process(settings.explain_memory_bytes_max, settings.explain_s_max)
    torch.set_num_threads(settings.threads)
    try:
        weights = decode_weights((folder / files.WEIGHTS).read_bytes())
        network = load_network(task.network, task.spec, weights)
        objects = ObjectStore(task.objects)
        manifest = read_manifest(objects, task.manifest)
        cache = Path(task.cache) if task.cache else None
        arrays = load_arrays(objects, manifest, task.spec, cache=cache)
        parts = parts_of(manifest)[arrays.indices]
        is_validation = parts == NUMBERS[Part.VALIDATION]
        explain(
            network,
            task.spec,
            arrays,
            np.flatnonzero(parts == NUMBERS[task.part]),
            manifest,
            folder,
            part=task.part,
            weights_digest=digest_weights(weights),
            device=torch.device("cpu"),
            validation=np.flatnonzero(is_validation) if task.part is Part.TEST else None,
        )
    except IsthmusError as error:
        return ExplainResult(code=error.code, error=error.message, remedy=error.remedy)
    return ExplainResult()


def load_network(network: NetworkSpec, spec: ModelSpec, weights: Weights) -> nn.Module:
    """Return a network with these weights. Raises ContractError `network.unfit` or as below."""
    module = build_network(network, spec)
    try:
        module.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in weights.items()})
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ContractError(
            "weights.misfit",
            f"The weights do not fit the network: {lines[-1].strip()[:300]}",
            remedy="Save network.state_dict() of exactly the architecture that is named.",
        ) from error
    return module.eval()


def _explain(
    network: nn.Module,
    spec: ModelSpec,
    arrays: Arrays,
    chosen: Indices,
    manifest: Manifest,
    folder: Path,
    *,
    part: str,
    weights_digest: str,
    device: torch.device,
    validation: Indices | None,
) -> Report:
    """Return the report, written; see explain. Raises OSError beside what that raises."""
    known = labelled(arrays, chosen)
    judgement = judge(network, spec, arrays, known, manifest, device)
    findings = judgement.findings
    temperature = None if validation is None else temperature_of(judgement, validation)
    told = {} if temperature is None else {"temperature": temperature}
    notes = findings.notes
    if not known.size:
        notes = (f"No item of the part {part!r} is labelled: nothing can be said.", *notes)
    if len(findings.slices) >= MANY_SLICES:
        count = len(findings.slices)
        notes = (*notes, f"Of {count} slices about {count * 0.025:.0f} look worse by chance alone.")
    pictures, worst = _draw(judgement, folder, temperature) if known.size else ([], ())
    report = Report(
        task=spec.task,
        part=part,
        dataset=manifest.dataset,
        manifest=digest_of(encode_manifest(manifest)),
        weights_digest=weights_digest,
        items_count=int(known.size),
        classes=findings.classes,
        accuracy=findings.accuracy,
        metrics={**findings.metrics, **told},
        per_class=findings.per_class,
        confusion=findings.confusion,
        slices=findings.slices,
        calibration=findings.calibration,
        worst=worst,
        plots=tuple(drawn.plot for drawn in pictures),
        notes=notes,
        left_out=1.0 - known.size / chosen.size if chosen.size else 0.0,
    )
    for drawn in pictures:
        (folder / drawn.plot.file).write_bytes(drawn.png)
    (folder / files.ANSWERS).write_bytes(encode_answers(answers_of(judgement)))
    (folder / files.REPORT).write_bytes(msgspec.json.encode(report))
    return report


def _draw(
    judgement: Judgement, folder: Path, temperature: float | None
) -> tuple[list[Picture], tuple[WorstItem, ...]]:
    outputs = judgement.outputs
    pictures = draw_findings(
        judgement.findings,
        judgement.kind,
        judgement.spec,
        values=outputs.scores if outputs.probabilities is None else outputs.probabilities,
        found=outputs.boxes or (),
        true=judgement.true,
        temperature=temperature,
    )
    of_items, worst = draw_worst(judgement, folder)
    return pictures + of_items, worst


def main() -> None:
    """Do the task in the folder named on the command line."""
    logging.disable(logging.WARNING)
    folder = Path(sys.argv[1])
    (folder / files.RESULT).write_bytes(msgspec.json.encode(work(folder)))


if __name__ == "__main__":
    main()
