"""Device: where and in what precision a run computes, and what it takes of the machine.

1. `auto` is the GPU where there is one. Each process under torchrun has the GPU of its local rank,
   for itself: NCCL refuses two on one, so more processes than GPUs are refused before that.
2. Precision `auto` is measured on the network itself: bf16 where a step is BF16_GAIN times as fast.
   A deterministic run computes in fp32, for a measurement may come out otherwise the next time.
3. What is compiled is tried first; a machine without a compiler trains all the same, and says so.
"""

import copy
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from cloud_hub.training.trainer.spec import Precision, TrainSpec
from shared.errors import RefusedError

BF16_GAIN = 1.15
MEASURED_BATCH = 64
MEASURED_TIMES = 4


def choose_device(spec: TrainSpec, environment: Mapping[str, str]) -> torch.device:
    """Return this process's device, its threads and kernels set up.

    Raises RefusedError `training.no_gpu`.
    """
    local_count = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(spec.recipe.threads or max(1, cores // local_count))
    has_gpu = torch.cuda.is_available()
    if spec.device == "cuda" and not has_gpu:
        raise RefusedError(
            "training.no_gpu",
            "The run asks for a GPU, and there is none here.",
            remedy='Set device to "auto" or "cpu", or run it on a machine with a GPU.',
        )
    is_deterministic = spec.recipe.is_deterministic
    torch.use_deterministic_algorithms(is_deterministic, warn_only=True)
    if spec.device == "cpu" or not has_gpu:
        return torch.device("cpu")
    require_gpus(local_count, torch.cuda.device_count())
    device = torch.device("cuda", int(environment.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = not is_deterministic
    torch.backends.cudnn.deterministic = is_deterministic
    # What fp32 is left beside bf16 may use TF32; a deterministic run is meant to be exact.
    torch.set_float32_matmul_precision("highest" if is_deterministic else "high")
    torch.backends.cudnn.allow_tf32 = not is_deterministic  # Of convolutions: another switch
    return device


def choose_precision(spec: TrainSpec, network: nn.Module, batch: Tensor) -> Precision:
    """Return what to compute in, FP32 or BF16; see rule 2. `batch` is an input of the network."""
    wanted = spec.recipe.precision
    if wanted is not Precision.AUTO:
        return wanted
    if spec.recipe.is_deterministic or not batch.is_floating_point():
        return Precision.FP32
    twin = copy.deepcopy(network).train()
    try:
        slow = _step_s(twin, batch, is_bf16=False)
        fast = _step_s(twin, batch, is_bf16=True)
    except RuntimeError:  # Some layers of some builds have no bf16
        return Precision.FP32
    return Precision.BF16 if slow > BF16_GAIN * fast else Precision.FP32


def compiled(
    network: nn.Module, batch: Tensor, note: Callable[[str], None], *, is_bf16: bool
) -> nn.Module:
    """Return the network, its kernels fused by torch.compile where that works; see rule 3."""
    try:
        # A twin is tried, forward and backward: running statistics and gradients stay as they are.
        _step_s(torch.compile(copy.deepcopy(network).train()), batch, is_bf16=is_bf16, times=1)
        faster = torch.compile(network)
    except (RuntimeError, OSError, ImportError) as error:
        torch._dynamo.reset()  # noqa: SLF001  (torch's documented way to forget what was compiled)
        first_line = str(error).strip().partition("\n")[0]
        note(f"Not compiled: {first_line[:200]}. Training goes on without it.")
        return network
    assert isinstance(faster, nn.Module)
    return faster


def device_name(device: torch.device) -> str:
    """Return a device for people: "cuda: NVIDIA H200", "cpu: 2 threads"."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {torch.get_num_threads()} threads"


def memory_peak_bytes(device: torch.device) -> int:
    """Return the most that was held: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def gpu_share(device: torch.device) -> float | None:
    """Return how busy the GPU was lately, 0..1, where the driver tells (needs nvidia-ml-py)."""
    if device.type != "cuda":
        return None
    try:
        return float(torch.cuda.utilization(device)) / 100.0
    except (ImportError, RuntimeError, AttributeError, _nvml_error()):
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, of the GPU or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text or "ALLOC_FAILED" in text
    )


def out_of_memory(error: BaseException) -> RefusedError:
    """Return the error for it."""
    first_line = str(error).strip().partition("\n")[0][:300] or type(error).__name__
    return RefusedError(
        "training.memory",
        f"Memory ran out: {first_line}",
        remedy="Use a smaller recipe.batch, a smaller network or input, or a machine with more.",
    )


def require_gpus(processes: int, gpus: int) -> None:
    """Refuse more processes of one machine than it has GPUs. Raises RefusedError."""
    if processes > gpus:
        raise RefusedError(
            "training.no_gpu",
            f"The run has {processes} processes on this machine, and there are {gpus} GPUs.",
            remedy=f'Order at most {gpus} processes, or set device to "cpu".',
        )


def _nvml_error() -> type[BaseException]:
    """Return what the driver's library raises where it does not tell: no MIG slice is told.

    It is a family of its own, and is imported by torch where it is installed.
    """
    found = getattr(sys.modules.get("pynvml"), "NVMLError", RuntimeError)
    return found if isinstance(found, type) else RuntimeError


def _step_s(
    network: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
    batch: Tensor,
    *,
    is_bf16: bool,
    times: int = MEASURED_TIMES,
) -> float:
    """Return the shortest time of a step forward and backward, seconds."""
    best = sys.float_info.max
    for _ in range(times):
        start_s = time.perf_counter()
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=is_bf16):
            outputs = network(batch)
        answers = outputs if isinstance(outputs, Tensor) else outputs[0]
        answers.float().mean().backward()  # type: ignore[no-untyped-call]  # torch's own gap
        if batch.is_cuda:
            torch.cuda.synchronize(batch.device)
        best = min(best, time.perf_counter() - start_s)
    return best
