"""An order for a Job in the cloud from flags and a file. Flags win; the hub checks the whole.

1. What an order may hold is the hub's to say (CloudOrder): every field can be given in the file or
   with --set, the usual ones have flags of their own.
2. `--vary` writes a search's space: PATH=LOW:HIGH, PATH=LOW:HIGH:log, or PATH=A,B,C.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from cloud_hub.command_line.order_arguments import Order, parse_setting, put
from cloud_hub.command_line.spans import parse_span_s
from shared.errors import ContractError
from shared.settings import CONFIG_BYTES_MAX, load_toml

JSON_SUFFIX = ".json"
SUPERVISED = "supervised"
METHODS = (
    SUPERVISED, "distillation", "adversarial", "contrastive", "masked", "pseudo-label", "gan",
)  # fmt: skip
LOG, WHOLE, STEP = "log", "whole", "step="
# Flag's name to the field's path in an order.
FIELDS: Mapping[str, str] = {
    "model": "model",
    "checkpoint": "checkpoint",
    "teacher": "teacher",
    "epochs": "recipe.epochs",
    "batch": "recipe.batch",
    "learning_rate": "recipe.learning_rate",
    "optimiser": "recipe.optimiser",
    "schedule": "recipe.schedule",
    "weight_decay": "recipe.weight_decay",
    "precision": "recipe.precision",
    "patience": "recipe.patience_epochs",
    "folds": "folds",
    "trials": "search.trials",
    "sampler": "search.sampler",
    "pruner": "search.pruner",
    "executor": "executor",
    "device": "device",
    "processes": "processes",
    "seed": "seed",
    "timeout": "timeout_s",
    "items": "items_max",
    "owner": "owner",
    "notes": "notes",
}
METHOD_FIELDS = (
    "label_smoothing", "class_weights", "focal_gamma", "mixup_alpha", "temperature", "soft_share",
    "attack", "epsilon", "threshold", "mask_share", "input_noise",
)  # fmt: skip


def read_cloud_order(args: argparse.Namespace, newest_of: Callable[[str], str | None]) -> Order:
    """Return the order of the file with the flags over it.

    Args:
        args: as `add_cloud_order_arguments` reads them.
        newest_of: the newest checkpoint of a model, or None; asked where the order begins nowhere.

    Raises ContractError `config.…`, `order.set`, `order.dataset`, `order.model`, `order.start`.
    """
    order: Order = _load(args.order) if args.order is not None else {}
    for flag, path in FIELDS.items():
        value = getattr(args, flag)
        if value is not None:
            put(order, path, value)
    _put_data(order, args)
    _put_model(order, args)
    _put_method(order, args)
    _put_search(order, args)
    for is_given, path, value in (
        (args.transfer, "is_transfer", True),
        (args.refit, "search.is_refitted", True),
        (args.no_release, "is_released", False),
        (args.no_report, "is_explained", False),
    ):
        if is_given:
            put(order, path, value)
    for path, value in args.set:
        put(order, path, value)
    _require(order, newest_of)
    return order


def parse_variation(text: str) -> tuple[str, dict[str, Any]]:
    """Return "recipe.learning_rate=0.001:0.1:log" as a path and a range or choice."""
    path, equals, written = text.partition("=")
    path, written = path.strip(), written.strip()
    if not equals or not path or not written:
        raise argparse.ArgumentTypeError(
            f"{text!r} varies nothing: write recipe.learning_rate=0.001:0.1:log"
        )
    if ":" not in written:
        values = [_value(part.strip()) for part in written.split(",")]
        return path, {"kind": "choice", "values": values}
    low, high, *more = written.split(":")
    found: dict[str, Any] = {"kind": "range", "low": _number(low), "high": _number(high)}
    # Both ends written whole: what lies between is whole too.
    if all(isinstance(found[end], int) for end in ("low", "high")) and LOG not in more:
        found["is_whole"] = True
    for word in more:
        match word:
            case "log":
                found["is_log"] = True
            case "whole":
                found["is_whole"] = True
            case _ if word.startswith(STEP):
                found["step"] = _number(word.removeprefix(STEP))
            case _:
                raise argparse.ArgumentTypeError(f"{text!r}: {word!r} is not log, whole or step=N")
    return path, found


def add_cloud_order_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of an order."""
    _add_what(parser)
    _add_how(parser)
    _add_search(parser)
    _add_where(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is trained, from what, on what").add_argument
    add("--order", type=Path, metavar="FILE", help="a whole order, .toml or .json; flags win")
    add("--model", metavar="MODEL", help="what to train (default: the spec's)")
    add("--dataset", metavar="NAME[:VERSION]", help="on what (default: its newest version)")
    add("--checkpoint", metavar="ID", help="go on from this one (default: the model's newest)")
    add("--transfer", action="store_true", help="take what fits of the checkpoint, of any model")
    add("--spec", type=Path, metavar="SPEC.toml", help="a new model's input, task and output")
    add("--network", type=Path, metavar="NETWORK.toml", help="a new model's architecture")
    add("--teacher", metavar="ID", help="distillation: the checkpoint that teaches")
    add(
        "--ensemble",
        nargs="+",
        metavar="ID",
        help="instead of training: join these checkpoints, their answers averaged",
    )
    add("--items", type=int, metavar="N", help="train on so many items at most, drawn by seed")


def _add_how(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how it is trained").add_argument
    add("--epochs", type=float, metavar="N", help="(default: 10)")
    add("--batch", type=int, metavar="N", help="items in a step (default: 256)")
    add("--learning-rate", type=float, metavar="RATE", help="(default: 0.1)")
    add("--optimiser", choices=("sgd", "adamw", "muon"), help="(default: sgd)")
    add("--schedule", choices=("constant", "linear", "cosine"), help="(default: linear)")
    add("--weight-decay", type=float, metavar="RATE", help="(default: 0.0005)")
    add("--precision", choices=("auto", "fp32", "bf16"), help="(default: auto)")
    add("--patience", type=int, metavar="EPOCHS", help="end after so many without a better value")
    add("--only", nargs="+", metavar="PREFIX", help="train only parameters that begin with these")
    add("--lora", type=int, metavar="RANK", help="train low-rank changes (LoRA) of this rank")
    add("--method", choices=METHODS, help=f"(default: {SUPERVISED})")
    add("--label-smoothing", type=float, metavar="SHARE", help="of the labels, spread evenly")
    add("--class-weights", choices=("equal", "balanced", "effective"), help="in the loss")
    add("--focal-gamma", type=float, metavar="N", help="above 0: focal loss")
    add("--mixup-alpha", type=float, metavar="N", help="above 0: mixup")
    add("--temperature", type=float, metavar="N", help="distillation, contrastive")
    add("--soft-share", type=float, metavar="SHARE", help="distillation: the teacher's share")
    add("--attack", choices=("fgsm", "pgd"), help="adversarial: which attack")
    add("--epsilon", type=float, metavar="N", help="adversarial: how far, in pixel levels")
    add("--threshold", type=float, metavar="SHARE", help="pseudo-label: how sure it must be")
    add("--mask-share", type=float, metavar="SHARE", help="masked: how much is hidden")
    add("--input-noise", type=float, metavar="N", help="reconstruction: noise to take away")


def _add_search(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("folds, and search for better settings").add_argument
    add("--folds", type=int, metavar="N", help="K-fold: the value gets an interval")
    add("--search", type=Path, metavar="FILE", help="a search as .toml or .json: space, trials, …")
    add("--trials", type=int, metavar="N", help="how many at most (default: 20)")
    add(
        "--vary",
        action="append",
        default=[],
        type=parse_variation,
        metavar="PATH=VALUES",
        help="recipe.learning_rate=0.001:0.1:log, recipe.batch=32:256, recipe.optimiser=sgd,muon; "
        "repeat",
    )
    add("--sampler", choices=("grid", "random", "tpe"), help="(default: tpe)")
    add("--pruner", choices=("none", "median", "hyperband"), help="(default: hyperband)")
    add("--refit", action="store_true", help="train once more with the best settings found")


def _add_where(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where, and what comes of it").add_argument
    add("--executor", choices=("local", "ray"), help="the hub's machine, or its Ray cluster")
    add("--device", choices=("auto", "cpu", "cuda"), help="(default: auto)")
    add("--processes", type=int, metavar="N", help="that train together (default: 1)")
    add("--seed", type=int, metavar="N", help="(default: 0)")
    add("--timeout", type=parse_span_s, metavar="SPAN", help="of one run: 30m, 12h (default: 1d)")
    add("--owner", metavar="NAME", help="whom usage is counted for (default: who asks)")
    add("--notes", metavar="TEXT", help="a sentence for whoever reads this later")
    add("--no-release", action="store_true", help="keep the result; do not send it to the gate")
    add("--no-report", action="store_true", help="do not measure and explain the result")
    add(
        "--set",
        action="append",
        default=[],
        type=parse_setting,
        metavar="FIELD=VALUE",
        help="any other field: recipe.augmentation.shift=0.1; repeat",
    )


def _load(path: Path) -> Order:
    """Return a file as an object. Raises ContractError `config.…`."""
    if path.suffix.lower() != JSON_SUFFIX:
        return load_toml(path, dict)
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(CONFIG_BYTES_MAX), type=dict)
    except OSError as error:
        raise ContractError(
            "config.missing", f"Cannot read {path}: {error.strerror}.", remedy="Check the path."
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ContractError(
            "config.invalid",
            f"{path}: {error}.",
            remedy=f"Write one JSON object, of {CONFIG_BYTES_MAX} bytes at most.",
        ) from error


def _put_data(order: Order, args: argparse.Namespace) -> None:
    if args.dataset is None:
        return
    name, colon, version = args.dataset.partition(":")
    order["dataset"] = name
    if colon:
        if not version.isdecimal():
            raise ContractError(
                "order.dataset",
                f"{args.dataset!r} names no version of a dataset.",
                remedy="Write NAME or NAME:VERSION, such as digits:3.",
            )
        order["dataset_version"] = int(version)


def _put_model(order: Order, args: argparse.Namespace) -> None:
    if args.spec is not None:
        order["spec"] = _load(args.spec)
    if args.network is not None:
        order["network"] = _load(args.network)
    if args.ensemble is not None:
        order["ensemble"] = args.ensemble
    if args.only is not None:
        order["trained"] = {"kind": "part", "prefixes": args.only}
    if args.lora is not None:
        given = order.get("trained")
        kept = given if isinstance(given, dict) and given.get("kind") == "lora" else {}
        order["trained"] = {**kept, "kind": "lora", "rank": args.lora}


def _put_method(order: Order, args: argparse.Namespace) -> None:
    fields = {name: getattr(args, name) for name in METHOD_FIELDS}
    wanted = {name: value for name, value in fields.items() if value is not None}
    given = order.get("method")
    method = dict(given) if isinstance(given, dict) else {}
    if args.method is not None and method.get("kind", SUPERVISED) != args.method:
        method = {}
    if args.method is None and not wanted:
        return
    order["method"] = {"kind": args.method or SUPERVISED, **method, **wanted}


def _put_search(order: Order, args: argparse.Namespace) -> None:
    given = order.get("search", {})
    loaded = _load(args.search) if args.search is not None else {}
    if not isinstance(given, dict) or not isinstance(loaded.get("space", {}), dict):
        raise ContractError(
            "order.search", "search is no table.", remedy="See CloudOrder in the API."
        )
    search = {**loaded, **given}
    for path, values in args.vary:
        search.setdefault("space", {})[path] = values
    if not search:
        return
    order["search"] = search
    if not search.get("space"):
        raise ContractError(
            "order.search",
            "A search varies nothing.",
            remedy="Give --vary recipe.learning_rate=0.001:0.1:log, or --search FILE.",
        )


def _require(order: Order, newest_of: Callable[[str], str | None]) -> None:
    spec = order.get("spec")
    if "model" not in order and isinstance(spec, dict) and isinstance(spec.get("model"), str):
        order["model"] = spec["model"]
    for field, flag in (("model", "--model"), ("dataset", "--dataset")):
        if not isinstance(order.get(field), str):
            raise ContractError(
                f"order.{field}",
                f"The order names no {field}.",
                remedy=f"Give {flag}, or {field} in the file.",
            )
    begins = ("checkpoint", "spec", "ensemble")
    if not any(order.get(field) for field in begins):
        newest = newest_of(str(order["model"]))
        if newest is None:
            raise ContractError(
                "order.start",
                f"{order['model']} has no checkpoint to go on from.",
                remedy="Give --spec and --network for a new model.",
            )
        order["checkpoint"] = newest


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _value(text: str) -> object:
    try:
        return msgspec.toml.decode(f"v = {text}", type=dict[str, object])["v"]
    except (msgspec.DecodeError, KeyError):
        return text
