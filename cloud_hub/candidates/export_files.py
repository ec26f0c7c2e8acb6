"""Names and shapes of what the hub and its export process exchange in one folder."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec, Tolerance
from shared.settings import Settings

TASK = "task.json"  # ExportTask
WEIGHTS = "weights.npz"  # As given; absent where they are to be drawn
EVALUATION = "evaluation.npz"  # Whose calibration part tunes; absent where there is none
RESULT = "export.json"  # ExportResult; written last
CHECKED = "checked.npz"  # Weights in the network's own order
MODEL = "model.onnx"
PRUNED = "pruned.onnx"
TUNED = "tuned.onnx"  # fp32 whose weights lie on int8's grid


class ExportSettings(Settings, frozen=True):
    """How checkpoints become ONNX files."""

    export_s_max: Annotated[int, Meta(ge=1, le=7200)] = 600  # Of processor time
    # Address space, which is more than what is used: torch alone maps 1 GiB.
    export_memory_bytes_max: Annotated[int, Meta(ge=2 << 30)] = 12 << 30
    # How far onnxruntime may be from torch: 3e-7 was measured for networks of these kinds.
    parity: Tolerance = Tolerance(absolute=1e-4, relative=1e-3)
    parity_items: Annotated[int, Meta(ge=1, le=64)] = 8
    # Structured pruning: this share of each hidden layer's channels or neurons goes; 0 is none.
    pruned_share: Annotated[float, Meta(ge=0.0, le=0.9)] = 0.0
    tuning_steps: Annotated[int, Meta(ge=0, le=100_000)] = 300
    tuning_batch: Annotated[int, Meta(ge=1, le=1024)] = 32
    tuning_learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 1e-3


class Work(StrEnum):
    """What the process is to do."""

    CHECK = "check"  # Check or draw weights
    EXPORT = "export"  # And make model.onnx, and pruned.onnx if settings say so
    TUNE = "tune"  # Make tuned.onnx


class ExportTask(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is asked."""

    work: Work
    spec: ModelSpec
    network: NetworkSpec
    settings: ExportSettings
    seed: int = 0


class ParityFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How far onnxruntime is from torch on the same inputs."""

    items_count: int
    error_max: float
    is_within: bool
    limit: str


class ExportResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `code` and `error` say why nothing did."""

    code: str = ""
    error: str = ""
    remedy: str = ""
    weights_digest: str = ""
    parameters_count: int = 0
    parity: ParityFacts | None = None
    # Why there is no pruned or tuned form although one was asked for.
    pruned_error: str = ""
    tuned_error: str = ""
