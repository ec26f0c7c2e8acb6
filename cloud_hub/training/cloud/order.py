"""CloudOrder: what people ask for when a model is to be trained in the cloud. Complete and strict.

1. Either a checkpoint to go on from, or a spec and a network for a new model, never neither.
2. One order is one Job; a Job has one run, or one for each fold, or one for each trial of a search
   and then, if asked for, one more with what was found.
3. What comes of it is one checkpoint, and unless told otherwise a Candidate for the gate.
4. With `is_trained` false nothing is trained: the checkpoint is judged on the dataset as it is, and
   a report is all that comes of it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from cloud_hub.datasets.manifest import ITEMS_MAX
from cloud_hub.training.trainer.spec import (
    FOLDS_MAX,
    SECONDS_MAX,
    AllTrained,
    DistillationMethod,
    Method,
    Recipe,
    SupervisedMethod,
    Trained,
)
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec
from shared.settings import Settings
from shared.wire.limits import Name

TRIALS_MAX = 1000
CHOICES_MAX = 100
SPACE_MAX = 20
ENSEMBLE_MAX = 16
VERSION_MAX = 1_000_000  # Of a dataset
Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
# A path into the order: "recipe.learning_rate", "method.temperature", "network.architecture.hidden"
SettingPath = Annotated[
    str, Meta(max_length=120, pattern=r"^(recipe|method|trained|network)(\.[a-z_0-9]+)+\Z")
]


class Range(Settings, frozen=True, tag="range", tag_field="kind"):
    """Numbers from `low` to `high`."""

    low: Number
    high: Number
    is_log: bool = False
    is_whole: bool = False
    step: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None  # Needed by grid search

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.is_log and self.low <= 0:
            raise ValueError("a logarithmic range begins above 0")


class Choice(Settings, frozen=True, tag="choice", tag_field="kind"):
    """One of these."""

    values: Annotated[
        tuple[str | float | int | bool | None, ...], Meta(min_length=1, max_length=CHOICES_MAX)
    ]


class Sampler(StrEnum):
    """How trials are chosen."""

    GRID = "grid"
    RANDOM = "random"
    TPE = "tpe"  # Bergstra et al. 2011


class Pruner(StrEnum):
    """How trials without hope are ended early."""

    NONE = "none"
    MEDIAN = "median"
    HYPERBAND = "hyperband"  # Li et al. 2018


class SearchOrder(Settings, frozen=True):
    """A search for hyperparameters, by Optuna."""

    space: Annotated[Mapping[SettingPath, Range | Choice], Meta(min_length=1, max_length=SPACE_MAX)]
    sampler: Sampler = Sampler.TPE
    pruner: Pruner = Pruner.HYPERBAND
    trials: Annotated[int, Meta(ge=1, le=TRIALS_MAX)] = 20
    # Train once more with the best values on training and validation parts together? False: the
    # best trial's weights are the result.
    is_refitted: bool = False


class ExecutorName(StrEnum):
    """Where runs are carried out."""

    LOCAL = "local"
    RAY = "ray"


class CloudOrder(Settings, frozen=True):
    """A Job in the cloud."""

    model: Name
    dataset: Name
    dataset_version: Annotated[int, Meta(ge=1, le=VERSION_MAX)] | None = None  # The newest, now
    checkpoint: Name | None = None  # To go on from; of any model where `is_transfer`
    is_transfer: bool = False  # What fits of the checkpoint is taken
    spec: ModelSpec | None = None
    network: NetworkSpec | None = None
    is_trained: bool = True  # False: the checkpoint is judged and explained as it is
    teacher: Name | None = None  # Distillation: the checkpoint that teaches
    # Instead of training: these checkpoints of one model, joined, their answers averaged.
    ensemble: Annotated[tuple[Name, ...], Meta(max_length=ENSEMBLE_MAX)] = ()
    trained: Trained = AllTrained()
    method: Method = SupervisedMethod()
    recipe: Recipe = Recipe()
    folds: Annotated[int, Meta(ge=2, le=FOLDS_MAX)] | None = None
    search: SearchOrder | None = None
    executor: ExecutorName = ExecutorName.LOCAL
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|cuda)\Z")] = "auto"
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 0
    timeout_s: Annotated[float, Meta(ge=1.0, le=SECONDS_MAX)] = 86_400.0  # Of one run, all attempts
    retries_max: Annotated[int, Meta(ge=0, le=20)] = 3  # Of one run that died, not one refused
    items_max: Annotated[int, Meta(ge=1, le=ITEMS_MAX)] | None = None
    is_explained: bool = True
    is_released: bool = True
    owner: Annotated[str, Meta(max_length=80)] = ""  # Whom usage is counted for; empty: who asks
    notes: Annotated[str, Meta(max_length=2000)] = ""

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.checkpoint is None and not self.ensemble and None in (self.spec, self.network):
            raise ValueError("name a checkpoint, or give spec and network")
        if self.spec is not None and self.spec.model != self.model:
            raise ValueError("spec.model must be the order's model")
        if self.folds is not None and self.search is not None:
            raise ValueError("folds and search exclude each other")
        if isinstance(self.method, DistillationMethod) and self.teacher is None:
            raise ValueError("distillation needs a teacher")
        if not self.is_trained and self.checkpoint is None:
            raise ValueError("is_trained is false: name the checkpoint that is explained")
