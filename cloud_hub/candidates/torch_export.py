"""The export process: `python -m cloud_hub.candidates.torch_export FOLDER`.

FOLDER holds task.json and perhaps weights.npz and evaluation.npz; this writes what the task asks
for and, last, export.json (export_files.py says which). Torch takes memory and seconds to import:
the hub itself never does.

1. Weights are put into the network that is built from names and numbers; nothing given is executed.
2. A model takes any number of items at once (a device gives it one, the hub's API several), has
   its data inside, no paths or texts; its operator set is the exporter's own, 18 or more.
3. onnxruntime must reproduce torch's outputs on drawn inputs and, where a set is given, real ones.
"""

import io
import logging
import sys
import warnings
from pathlib import Path

from shared.quick_imports import quick_imports

with quick_imports():
    import msgspec
    import numpy as np
    import torch
    from torch import nn

    from cloud_hub.candidates import export_files as files
    from cloud_hub.candidates.evaluation_data import decode_evaluation, split
    from cloud_hub.candidates.export_files import ExportResult, ExportTask, Work
    from cloud_hub.candidates.onnx_parity import Array, compare_with, parity_inputs, strip
    from cloud_hub.candidates.torch_pruning import prune
    from cloud_hub.candidates.torch_tuning import distil, tune_for_int8
    from cloud_hub.candidates.torch_weights import load_network, state_of
    from cloud_hub.process_limits import limit_this_process
    from shared.errors import IsthmusError, RefusedError
    from shared.model.preprocess import tensor_dtype, to_tensor
    from shared.model.spec import ModelSpec
    from shared.model.weights import averaged, decode_weights, digest_weights, encode_weights


def work(folder: Path) -> ExportResult:
    """Return what came of the task in `folder`; its files are written there."""
    task = msgspec.json.decode((folder / files.TASK).read_bytes(), type=ExportTask)
    limit_this_process(task.settings.export_memory_bytes_max, task.settings.export_s_max)
    given = folder / files.WEIGHTS
    try:
        weights = decode_weights(given.read_bytes()) if given.exists() else None
        module = load_network(task.network, task.spec, weights, seed=task.seed)
        match task.work:
            case Work.CHECK:
                return _check(folder, module)
            case Work.EXPORT:
                return _export(folder, task, module)
            case Work.TUNE:
                return _tune(folder, task, module)
    except IsthmusError as error:
        return ExportResult(code=error.code, error=error.message, remedy=error.remedy)


def export_onnx(module: nn.Module, spec: ModelSpec) -> bytes:
    """Return a network as an ONNX model for any batch. Raises RefusedError `export.unreadable`."""
    buffer = io.BytesIO()
    # Two items: of one, the exporter would take the batch for a fixed 1.
    example = torch.from_numpy(np.zeros((2, *spec.input_shape[1:]), tensor_dtype(spec)))
    batch = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter's own, about itself
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=(batch,),
            external_data=False,
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns the program"
    program.model_proto.ByteSize()
    buffer.write(program.model_proto.SerializeToString())
    return strip(buffer.getvalue())


def outputs_of(answer: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[Array, ...]:
    """Return what a network put out as arrays; a detector puts out two."""
    tensors = answer if isinstance(answer, tuple) else (answer,)
    return tuple(tensor.numpy() for tensor in tensors)


def _check(folder: Path, module: nn.Module) -> ExportResult:
    state = state_of(module)
    (folder / files.CHECKED).write_bytes(encode_weights(state))
    return ExportResult(
        weights_digest=digest_weights(state),
        parameters_count=sum(array.size for array in averaged(state).values()),
    )


def _export(folder: Path, task: ExportTask, module: nn.Module) -> ExportResult:
    calibration = _calibration(folder, task.spec)
    data = export_onnx(module, task.spec)
    inputs = parity_inputs(task.spec, calibration, items=task.settings.parity_items)
    with torch.no_grad():
        outputs = outputs_of(module(torch.from_numpy(inputs)))  # (n, ...) each
    parity = compare_with(data, inputs, outputs, task.settings.parity)
    (folder / files.MODEL).write_bytes(data)
    return ExportResult(parity=parity, pruned_error=_prune(folder, task, module, calibration))


def _prune(folder: Path, task: ExportTask, module: nn.Module, calibration: Array | None) -> str:
    """Write the pruned form if one is asked for; return why there is none."""
    share = task.settings.pruned_share
    if not share:
        return ""
    if calibration is None:
        return "There is no evaluation set to tune a pruned network with."
    try:
        pruned = prune(module, task.network, task.spec, share)
    except RefusedError as error:
        return error.message
    inputs = torch.from_numpy(calibration)
    distil(pruned, module, inputs, task.spec, task.settings, seed=task.seed)
    (folder / files.PRUNED).write_bytes(export_onnx(pruned, task.spec))
    return ""


def _tune(folder: Path, task: ExportTask, module: nn.Module) -> ExportResult:
    calibration = _calibration(folder, task.spec)
    if calibration is None:
        return ExportResult(tuned_error="There is no evaluation set to tune with.")
    try:
        inputs = torch.from_numpy(calibration)
        tuned = tune_for_int8(module, inputs, task.spec, task.settings, seed=task.seed)
    except RefusedError as error:
        return ExportResult(tuned_error=error.message)
    (folder / files.TUNED).write_bytes(export_onnx(tuned, task.spec))
    return ExportResult()


def _calibration(folder: Path, spec: ModelSpec) -> Array | None:
    """Return the set's calibration part as inputs, (n, ...); None where there is none."""
    path = folder / files.EVALUATION
    if not path.exists():
        return None
    data = decode_evaluation(path.read_bytes())
    chosen = split(data.items).calibration
    if not chosen:
        return None
    return np.concatenate([to_tensor(data.items[index], spec) for index in chosen])


def main() -> None:
    """Do the task in the folder named on the command line."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    (folder / files.RESULT).write_bytes(msgspec.json.encode(work(folder)))


if __name__ == "__main__":
    main()
