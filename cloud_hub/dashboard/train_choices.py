"""What the form that orders a Job in the cloud offers: methods, networks, tasks, settings. Values.

Names of settings are those of CloudOrder (cloud_hub/training/cloud/order.py); the words are for
people.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from cloud_hub.datasets.manifest import ItemKind
from cloud_hub.training.trainer.spec import (
    AdversarialMethod,
    ContrastiveMethod,
    DistillationMethod,
    GenerativeMethod,
    MaskedMethod,
    PseudoLabelMethod,
    SupervisedMethod,
)
from shared.model.spec import Decoder, Task

NEW = "new"
RANGES = 3  # Rows of a search
FEW_ITEMS = 5000  # Of the training part: smaller batches, so that there are enough steps

_SMOOTHING = {"label_smoothing": "Label smoothing"}
METHODS: Mapping[str, tuple[str, type[msgspec.Struct], Mapping[str, str]]] = MappingProxyType(
    {
        "supervised": (
            "On labels",
            SupervisedMethod,
            {
                **_SMOOTHING,
                "class_weights": "Classes count",
                "focal_gamma": "Focal loss, gamma",
                "mixup_alpha": "Mixup, alpha",
                "input_noise": "Noise on the input",
            },
        ),
        "distillation": (
            "Distilled from a larger teacher",
            DistillationMethod,
            {"temperature": "Temperature", "soft_share": "The teacher’s share of the loss"},
        ),
        "adversarial": (
            "Against attacked inputs",
            AdversarialMethod,
            {
                "attack": "Attack",
                "epsilon": "As far as",
                "step": "In steps of",
                "steps": "Steps",
                "share": "Attacked share",
                **_SMOOTHING,
            },
        ),
        "pseudo-label": (
            "On labels, and on its own sure answers",
            PseudoLabelMethod,
            {
                "threshold": "Sure from",
                "unlabelled_weight": "Weight of those answers",
                "warm_epochs": "Epochs on labels alone",
                **_SMOOTHING,
            },
        ),
        "contrastive": (
            "Without labels, by contrast (SimCLR)",
            ContrastiveMethod,
            {"temperature": "Temperature", "projection": "Width of the projection"},
        ),
        "masked": (
            "Without labels, by filling gaps",
            MaskedMethod,
            {"mask_share": "Masked share", "span": "Samples masked together"},
        ),
        "gan": (
            "Reconstruction against a critic",
            GenerativeMethod,
            {
                "adversary_weight": "Weight of the critic",
                "input_noise": "Noise on the input",
                "erased_share": "Erased share of a picture",
            },
        ),
    }
)
UNRELEASED = "contrastive masked"  # What comes of these is to be fine-tuned first
NETWORKS: Mapping[tuple[ItemKind, Task], tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        (ItemKind.IMAGE, Task.CLASSIFICATION): (
            ("resnet", "ResNet-8"),
            ("mobilenet-v2", "MobileNetV2, slim"),
            ("ds-cnn", "DS-CNN, for small machines"),
            ("lenet", "LeNet-5"),
            ("cnn", "Two convolutions"),
            ("mlp", "One hidden layer"),
        ),
        (ItemKind.IMAGE, Task.DETECTION): (("ssd", "SSD, light"),),
        (ItemKind.IMAGE, Task.ANOMALY): (
            ("repair", "Encoder and decoder"),
            ("autoencoder", "Autoencoder, narrow"),
        ),
        (ItemKind.WINDOW, Task.CLASSIFICATION): (
            ("conv1d", "1-D convolutions"),
            ("gru", "GRU"),
            ("transformer", "Transformer"),
            ("ds-cnn", "DS-CNN"),
            ("mlp", "One hidden layer"),
        ),
        (ItemKind.WINDOW, Task.ANOMALY): (("autoencoder", "Autoencoder"),),
        (ItemKind.TEXT, Task.CLASSIFICATION): (("transformer", "Transformer"),),
    }
)
TASKS: Mapping[Task, str] = MappingProxyType(
    {
        Task.CLASSIFICATION: "Say which class an item is of",
        Task.DETECTION: "Find things on a picture",
        Task.ANOMALY: "Notice what is not as usual",
    }
)
DECODERS: Mapping[Task, Decoder] = MappingProxyType(
    {
        Task.CLASSIFICATION: Decoder.LOGITS,
        Task.DETECTION: Decoder.SSD_CORNERS,
        Task.ANOMALY: Decoder.RECONSTRUCTION,
    }
)
BASICS = {
    "epochs": "Epochs, at most",
    "batch": "Batch",
    "optimiser": "Optimiser",
    "learning_rate": "Learning rate",
    "schedule": "It then",
    "patience_epochs": "Patience, epochs",
}
MORE = {
    "weight_decay": "Weight decay",
    "momentum": "Momentum",
    "warmup_share": "Warm-up, share",
    "gradient_norm_max": "Longest gradient",
    "average_decay": "Averaging, decay",
    "precision": "Computed in",
    "is_compiled": "Compile the network first",
    "is_deterministic": "The same numbers each time, slower",
}
AUGMENTATION: Mapping[ItemKind, Mapping[str, str]] = {
    ItemKind.IMAGE: {
        "shift": "Shift, share of the side",
        "rotation_degrees": "Rotation, degrees",
        "zoom": "Zoom",
        "brightness": "Brightness",
        "contrast": "Contrast",
        "erased": "Erased square, side",
        "noise": "Noise",
        "has_flip": "Mirror left and right",
    },
    ItemKind.WINDOW: {
        "jitter": "Gain of each channel",
        "time_shift": "Shift in time, share",
        "noise": "Noise",
    },
    ItemKind.TEXT: {},
}
MACHINE = {
    "executor": "Carried out by",
    "device": "Processor",
    "processes": "Processes",
    "seed": "Seed",
}
SEARCHED = (
    ("recipe.learning_rate", "Learning rate"),
    ("recipe.weight_decay", "Weight decay"),
    ("recipe.batch", "Batch"),
    ("recipe.epochs", "Epochs"),
    ("recipe.optimiser", "Optimiser"),
    ("recipe.momentum", "Momentum"),
    ("recipe.warmup_share", "Warm-up, share"),
    ("recipe.augmentation.shift", "Shift"),
    ("recipe.augmentation.noise", "Noise"),
    ("method.label_smoothing", "Label smoothing"),
    ("method.mixup_alpha", "Mixup, alpha"),
    ("method.temperature", "Temperature"),
    ("network.architecture.hidden", "Hidden width"),
    ("network.architecture.width", "Width"),
)
SCALES = (("even", "evenly"), ("log", "log scale"), ("whole", "whole"))
