"""An order for a Job from flags and a TOML file. Flags win; the hub checks the whole.

What an order may hold is the hub's to say (JobOrder): every field can be given in the file or with
--set, the usual ones have flags of their own.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from cloud_hub.command_line.spans import parse_span_s
from shared.errors import ContractError
from shared.settings import load_toml

SETTINGS_DEEP_MAX = 4
LOCAL, CENTRAL = "local", "central"
STRATEGIES = (
    "fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "qfedavg", "fedmedian",
    "fedtrimmedavg", "krum", "multikrum", "bulyan",
)  # fmt: skip
# Flag's name to the field's path in an order.
FIELDS: Mapping[str, str] = {
    "model": "model",
    "checkpoint": "checkpoint",
    "group": "group",
    "rounds": "rounds",
    "epochs": "method.epochs",
    "learning_rate": "method.learning_rate",
    "batch_size": "method.batch_size",
    "optimiser": "method.optimiser",
    "encoding": "encoding",
    "devices_min": "devices_min",
    "samples_min": "samples_min",
    "deadline": "deadline_s",
    "gather": "gather_s",
    "fraction": "fraction",
    "quorum": "quorum",
    "on_too_few": "on_too_few",
    "seed": "seed",
    "notes": "notes",
}

Order = dict[str, Any]  # TOML as it came; the hub gives it its types


def read_order(args: argparse.Namespace, find_device: Callable[[str], str]) -> Order:
    """Return the order of the file with the flags over it.

    Raises ContractError `config.…`, `order.set`, `order.privacy`, `order.model`; and what
    `find_device`, which finds a device by its name, raises.
    """
    order: Order = load_toml(args.file, dict) if args.file is not None else {}
    for flag, path in FIELDS.items():
        value = getattr(args, flag)
        if value is not None:
            put(order, path, value)
    if args.strategy is not None and _strategy_of(order) != args.strategy:
        order["strategy"] = {"name": args.strategy}
    for flag, path in (("device", "devices"), ("mandatory", "mandatory")):
        named = getattr(args, flag)
        if named:
            order[path] = [find_device(device) for device in named]
    if args.needs_approval:
        order["needs_approval"] = True
    if args.no_release:
        order["is_released"] = False
    _put_privacy(order, args)
    for path, value in args.set:
        put(order, path, value)
    if "model" not in order:
        raise ContractError(
            "order.model", "The order names no model.", remedy="Give --model, or model in the file."
        )
    return order


def put(order: Order, path: str, value: object) -> None:
    """Set one field of an order, `method.epochs`. Raises ContractError `order.set`."""
    *outer, last = path.split(".")
    place = order
    for name in outer:
        inner = place.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ContractError(
                "order.set", f"{path}: {name} is no table.", remedy="See JobOrder in the API."
            )
        place = inner
    place[last] = value


def parse_setting(text: str) -> tuple[str, object]:
    """Return "strategy.eta=0.03" as a path and a value of TOML; what is no TOML is a text."""
    path, equals, written = text.partition("=")
    path = path.strip()
    parts = path.split(".")
    if not equals or not all(parts) or len(parts) > SETTINGS_DEEP_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} sets nothing: write strategy.eta=0.03")
    try:
        value = msgspec.toml.decode(f"v = {written}", type=dict[str, object])["v"]
    except (msgspec.DecodeError, KeyError):
        value = written.strip()
    return path, value


def add_order_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of an order."""
    add = parser.add_argument
    add("--file", type=Path, metavar="JOB.toml", help="an order as a file; flags win over it")
    add("--model", metavar="MODEL", help="what to learn")
    add("--checkpoint", metavar="ID", help="start from this one (default: the model's newest)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--group", metavar="GROUP", help="only devices of this group")
    where.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="DEVICE",
        help="only this device, by its id or name; repeat",
    )
    add("--strategy", choices=STRATEGIES, help="how updates become one (default: fedavg)")
    add("--rounds", type=int, metavar="N", help="how many Rounds (default: 3)")
    add("--epochs", type=int, metavar="N", help="local epochs in a Round (default: 1)")
    add("--learning-rate", type=float, metavar="RATE", help="of local training (default: 0.05)")
    add("--batch-size", type=int, metavar="N", help="of local training (default: 32)")
    add("--optimiser", choices=("sgd", "adam"), help="of local training (default: sgd)")
    add("--encoding", choices=("fp32", "fp16", "int8"), help="how updates travel (default: fp32)")
    add("--devices-min", type=int, metavar="N", help="no Round with fewer (default: 2)")
    add(
        "--mandatory",
        action="append",
        default=[],
        metavar="DEVICE",
        help="no Round without this device; repeat",
    )
    add("--fraction", type=float, metavar="SHARE", help="of the devices there, asked in a Round")
    add("--quorum", type=float, metavar="SHARE", help="of those asked, must answer (default: 0.5)")
    add(
        "--deadline",
        "--deadline-s",
        type=parse_span_s,
        metavar="SPAN",
        help="how long a Round waits for its devices: 90s, 10m (default: 5m)",
    )
    add(
        "--gather",
        type=parse_span_s,
        metavar="SPAN",
        help="how long to wait until enough devices are there (default: 10m)",
    )
    add(
        "--on-too-few",
        choices=("repeat", "end", "fail"),
        help="what a Round without a quorum leads to (default: repeat)",
    )
    add("--samples-min", type=int, metavar="N", help="only devices with at least so many samples")
    add("--clip-norm", type=float, metavar="NORM", help="clip every update to this norm")
    add(
        "--noise-multiplier",
        type=float,
        metavar="SIGMA",
        help="differential privacy: noise of this many clip norms",
    )
    add(
        "--privacy",
        choices=(LOCAL, CENTRAL),
        default=LOCAL,
        help="who adds the noise: each device, or the hub to the mean (default: local)",
    )
    add("--seed", type=int, metavar="N", help="of the choice of devices (default: 0)")
    add("--needs-approval", action="store_true", help="begin only when a person approves it")
    add("--no-release", action="store_true", help="keep the result; do not send it to the gate")
    add("--notes", help="a sentence for whoever reads this later")
    add(
        "--set",
        action="append",
        default=[],
        type=parse_setting,
        metavar="FIELD=VALUE",
        help="any other field, as in the file: strategy.eta=0.03; repeat",
    )


def _strategy_of(order: Order) -> object:
    strategy = order.get("strategy")
    return strategy.get("name") if isinstance(strategy, dict) else None


def _put_privacy(order: Order, args: argparse.Namespace) -> None:
    wanted = {"clip_norm": args.clip_norm, "noise_multiplier": args.noise_multiplier}
    if wanted["clip_norm"] is None and wanted["noise_multiplier"] is None:
        return
    field, other = f"{args.privacy}_privacy", "local_privacy, central_privacy"
    given = order.get(field)
    merged = {**(given if isinstance(given, dict) else {})}
    merged.update({name: value for name, value in wanted.items() if value is not None})
    if not {"clip_norm", "noise_multiplier"} <= merged.keys():
        raise ContractError(
            "order.privacy",
            f"{field} needs both a clip norm and a noise multiplier.",
            remedy="Give --clip-norm and --noise-multiplier.",
        )
    for name in other.split(", "):
        order.pop(name, None)
    order[field] = merged
