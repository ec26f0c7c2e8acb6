"""States of a run on disk: what a run goes on from after any death.

1. A file is MAGIC, the SHA-256 of what follows, and a torch archive without code
   (`weights_only`). One that is torn, damaged or of another run is passed over, and it is said.
2. A state belongs to a spec: another job.json in the same folder begins anew.
"""

import hashlib
import io
import pickle
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import ContractError

MAGIC = b"isthmus-state-1\n"
DIGEST_BYTES = 32
STATE_BYTES_MAX = 8 << 30
_LOAD_ERRORS = (RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError)


@dataclass(slots=True)
class RunState:
    """Everything that training goes on from; numbers are as of the end of `step`."""

    spec_digest: str
    precision: str
    step: int = 0
    device_seconds: float = 0.0  # Of all attempts until here
    best_step: int = 0
    best_value: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    epoch_loss: float = 0.0  # Sum over this epoch's steps: what judges a run without validation
    notes: list[str] = field(default_factory=list)
    network: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)


def encode_state(state: RunState) -> bytes:
    """Return a state as a file's bytes."""
    buffer = io.BytesIO()
    shallow = {name.name: getattr(state, name.name) for name in fields(state)}
    torch.save(shallow, buffer)
    data = buffer.getvalue()
    return MAGIC + hashlib.sha256(data).digest() + data


def read_state(path: Path, *, spec_digest: str) -> RunState:
    """Return a state, on the CPU. Raises ContractError `training.state`, saying what is wrong."""
    try:
        if path.stat().st_size > STATE_BYTES_MAX:
            raise _unreadable(path, "it is too large")
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or "it cannot be read") from error
    start = len(MAGIC) + DIGEST_BYTES
    body = memoryview(data)[start:]
    if data[: len(MAGIC)] != MAGIC or hashlib.sha256(body).digest() != data[len(MAGIC) : start]:
        raise _unreadable(path, "it is damaged")
    try:
        loaded: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        state = RunState(**loaded)
    except _LOAD_ERRORS as error:
        raise _unreadable(path, "another version wrote it") from error
    if state.spec_digest != spec_digest:
        raise _unreadable(path, "it belongs to another job.json")
    return state


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that later steps do not change."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _unreadable(path: Path, text: str) -> ContractError:
    return ContractError("training.state", f"{path.name} is passed over: {text}.")
