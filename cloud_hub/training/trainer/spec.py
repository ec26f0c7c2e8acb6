"""TrainSpec: one training run, whole: `job.json`, which the trainer reads and nothing else.

1. Strict: unknown keys and values out of range are refused with their path. Names and numbers only.
2. Paths are relative to the folder of job.json, so that the folder may be moved to another machine.
3. The same spec on the same kind of machine trains the same model (`recipe.is_deterministic`).
4. What comes out is a state of `network` for `model`: a checkpoint, then a Candidate for the gate.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec
from shared.settings import Settings
from shared.wire.limits import Digest, Share

EPOCHS_MAX = 100_000
BATCH_MAX = 65_536
SECONDS_MAX = 30 * 86_400
FOLDS_MAX = 20
PREFIXES_MAX = 64

Rate = Annotated[float, Meta(gt=0.0, le=100.0)]
Weight = Annotated[float, Meta(ge=0.0, le=1000.0)]
Prefix = Annotated[str, Meta(min_length=1, max_length=120)]
Prefixes = Annotated[tuple[Prefix, ...], Meta(max_length=PREFIXES_MAX)]
RelativePath = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.-]+\Z")]
Gamma = Annotated[float, Meta(ge=0.0, le=10.0)]
Steps = Annotated[int, Meta(ge=1, le=100)]
PixelLevels = Annotated[float, Meta(gt=0.0, le=255.0)]


class DataSource(Settings, frozen=True):
    """Where the items are: one dataset version in an object store."""

    objects: Annotated[str, Meta(min_length=1, max_length=1000)]  # A folder, or s3://bucket/prefix
    manifest: Digest
    # K-fold: the parts train and validation are made anew, `fold` is the validation of this run.
    folds_count: Annotated[int, Meta(ge=2, le=FOLDS_MAX)] | None = None
    fold: Annotated[int, Meta(ge=0, lt=FOLDS_MAX)] = 0
    items_max: Annotated[int, Meta(ge=1)] | None = None  # Of the training part, drawn by seed


class Start(Settings, frozen=True):
    """Which weights training begins with; fresh ones where there is no `weights`."""

    weights: RelativePath | None = None  # .npz
    # Transfer: what fits by name and shape is taken, the rest is drawn; False: all must fit.
    is_partial: bool = False


class AllTrained(Settings, frozen=True, tag="all", tag_field="kind"):
    """Every parameter is trained."""


class PartTrained(Settings, frozen=True, tag="part", tag_field="kind"):
    """Partial fine-tuning: only parameters whose name begins with one of these."""

    prefixes: Annotated[tuple[Prefix, ...], Meta(min_length=1, max_length=PREFIXES_MAX)]


class LowRankTrained(Settings, frozen=True, tag="lora", tag_field="kind"):
    """LoRA (Hu et al. 2021): W + (alpha / rank) B A on linear and convolution weights.

    The result is merged into W: a state of the same network. `full` are trained as they are.
    """

    rank: Annotated[int, Meta(ge=1, le=256)] = 8
    alpha: Annotated[float, Meta(gt=0.0, le=1024.0)] = 16.0
    full: Prefixes = ()


Trained = AllTrained | PartTrained | LowRankTrained


class ClassWeights(StrEnum):
    """How much a class counts in the loss."""

    EQUAL = "equal"
    BALANCED = "balanced"  # n / (classes * n_class)
    EFFECTIVE = "effective"  # (1 - b) / (1 - b ** n_class), b = 0.999 (Cui et al. 2019)


class SupervisedMethod(Settings, frozen=True, tag="supervised", tag_field="kind"):
    """Labels (classification, score), boxes (detection) or the item itself (reconstruction)."""

    label_smoothing: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    class_weights: ClassWeights = ClassWeights.EQUAL
    focal_gamma: Gamma = 0.0  # Above 0: focal loss (Lin et al. 2017)
    mixup_alpha: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0  # Zhang et al. 2018
    # Reconstruction: noise added to the input, in its own unit after scaling; the target is clean.
    input_noise: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0


class DistillationMethod(Settings, frozen=True, tag="distillation", tag_field="kind"):
    """A larger teacher's soft answers (Hinton et al. 2015), beside the labels where there are."""

    # An order leaves these two out and names the teacher's checkpoint.
    teacher: NetworkSpec | None = None
    teacher_weights: RelativePath = "teacher.npz"
    temperature: Annotated[float, Meta(gt=0.0, le=100.0)] = 4.0
    soft_share: Share = 0.7  # Of the loss; the rest is the labels'


class AdversarialMethod(Settings, frozen=True, tag="adversarial", tag_field="kind"):
    """Training on attacked inputs: FGSM (Goodfellow et al. 2015) or PGD (Madry et al. 2018).

    For images `epsilon` and `step` are pixel levels (0..255); for windows, the scaled input's unit.
    """

    attack: Annotated[str, Meta(pattern=r"^(fgsm|pgd)\Z")] = "pgd"
    epsilon: PixelLevels = 8.0
    step: PixelLevels = 2.0
    steps: Steps = 5
    share: Share = 1.0  # Of each batch that is attacked
    label_smoothing: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0


class ContrastiveMethod(Settings, frozen=True, tag="contrastive", tag_field="kind"):
    """SimCLR (Chen et al. 2020), images without labels: what comes out is to be fine-tuned."""

    temperature: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.2
    projection: Annotated[int, Meta(ge=8, le=4096)] = 128


class MaskedMethod(Settings, frozen=True, tag="masked", tag_field="kind"):
    """Masked reconstruction of windows without labels: what comes out is to be fine-tuned."""

    mask_share: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.4
    span: Annotated[int, Meta(ge=1, le=4096)] = 8  # Samples masked together


class PseudoLabelMethod(Settings, frozen=True, tag="pseudo-label", tag_field="kind"):
    """Unlabelled items whose class is sure count as labelled (Lee 2013; FixMatch's threshold)."""

    threshold: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.95
    unlabelled_weight: Weight = 1.0
    warm_epochs: Annotated[int, Meta(ge=0, le=EPOCHS_MAX)] = 1  # On labels alone
    label_smoothing: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0


class GenerativeMethod(Settings, frozen=True, tag="gan", tag_field="kind"):
    """A reconstructing network against a small critic: sharper repair and anomaly scores.

    The critic is trained beside it and thrown away (after Akcay et al. 2018, GANomaly).
    """

    adversary_weight: Weight = 0.05
    input_noise: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.1
    erased_share: Share = 0.0  # Of each picture; to be painted in again


Method = (
    SupervisedMethod
    | DistillationMethod
    | AdversarialMethod
    | ContrastiveMethod
    | MaskedMethod
    | PseudoLabelMethod
    | GenerativeMethod
)


class OptimiserName(StrEnum):
    """Which optimiser."""

    SGD = "sgd"  # Nesterov momentum
    ADAMW = "adamw"
    MUON = "muon"  # On filters and matrices, SGD on the rest (Jordan et al. 2024)


class Schedule(StrEnum):
    """How the learning rate goes after the warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"  # To zero
    COSINE = "cosine"


class Precision(StrEnum):
    """What is computed with."""

    AUTO = "auto"  # bf16 where the device is fast at it (measured), else fp32
    FP32 = "fp32"
    BF16 = "bf16"  # Autocast; normalisation and losses stay fp32


class Augmentation(Settings, frozen=True):
    """What is done to training items, batch by batch, on the device that trains."""

    shift: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.0  # Share of the side, either way
    has_flip: bool = False  # Left and right
    rotation_degrees: Annotated[float, Meta(ge=0.0, le=180.0)] = 0.0
    zoom: Annotated[float, Meta(ge=0.0, le=0.9)] = 0.0
    brightness: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    contrast: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    erased: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.0  # Side of an erased square, share
    noise: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0  # Deviation, scaled input's unit
    # Windows only
    jitter: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0  # Gain of each channel, deviation
    time_shift: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.0  # Share of the window, either way


class Recipe(Settings, frozen=True):
    """How it is trained, whatever is learned."""

    epochs: Annotated[float, Meta(gt=0.0, le=EPOCHS_MAX)] = 10.0  # May end within one
    batch: Annotated[int, Meta(ge=1, le=BATCH_MAX)] = 256  # Over all processes together
    optimiser: OptimiserName = OptimiserName.SGD
    learning_rate: Rate = 0.1
    matrix_learning_rate: Rate = 0.02  # Muon's own
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.9
    weight_decay: Annotated[float, Meta(ge=0.0, le=10.0)] = 5e-4
    warmup_share: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1
    schedule: Schedule = Schedule.LINEAR
    gradient_norm_max: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None
    average_decay: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0  # Of weights (EMA); 0: none
    precision: Precision = Precision.AUTO
    is_compiled: bool = False
    has_channels_last: bool = True
    is_deterministic: bool = False
    augmentation: Augmentation = Augmentation()
    patience_epochs: Annotated[int, Meta(ge=1, le=EPOCHS_MAX)] | None = None  # Early stopping
    evaluate_every: Annotated[int, Meta(ge=1, le=EPOCHS_MAX)] = 1  # Epochs
    save_every_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 60.0  # 0: at every epoch's end
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None  # Of each process; None: cores / n


class TrainSpec(Settings, frozen=True):
    """The whole file."""

    run_id: Annotated[str, Meta(min_length=1, max_length=120)]
    model: ModelSpec
    network: NetworkSpec
    data: DataSource
    start: Start = Start()
    trained: Trained = AllTrained()
    method: Method = SupervisedMethod()
    recipe: Recipe = Recipe()
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 0
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|cuda)\Z")] = "auto"
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    is_explained: bool = True  # Scores, slices, plots on the test part at the end
    cache: Annotated[str, Meta(max_length=1000)] = ""  # Folder for decoded arrays; empty: none
