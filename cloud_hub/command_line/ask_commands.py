"""`models ask`: files asked of a released model over the hub, as a device would answer them."""

import argparse
import base64
import csv
from pathlib import Path
from typing import Any

import msgspec

from cloud_hub.command_line.commands import open_context
from shared.command_line import Command
from shared.errors import ContractError
from shared.exit_codes import DONE

HEADING = "Models and releases"
FILE_BYTES_MAX = 24 << 20  # As the hub takes a picture
BOXES_SHOWN_MAX = 10
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


class Times(msgspec.Struct, frozen=True):
    """Where the time went."""

    wait_ms: float
    run_ms: float


class Inferred(msgspec.Struct, frozen=True):
    """What a model said, item by item."""

    model: str
    version: int
    precision: str
    answers: tuple[dict[str, Any], ...]
    times: Times


def ask_model(args: argparse.Namespace) -> int:
    """Ask a released model."""
    context = open_context(args)
    named = [(path.name, item) for path in args.files for item in read_items(path)]
    body = msgspec.json.encode({"items": [item for _, item in named]})
    with context.hub as hub:
        answer = hub.send_long("POST", f"/api/v1/models/{args.model}/infer", Inferred, body)
    told, output = answer.value, context.output
    rows = [(name, answer_text(said)) for (name, _), said in zip(named, told.answers, strict=False)]
    output.table(("item", "answer"), rows, empty="Nothing was asked.")
    waited, ran = told.times.wait_ms, told.times.run_ms
    output.say(
        f"{told.model} version {told.version}, {told.precision}: {ran:.1f} ms, after {waited:.1f} "
        "ms in the queue."
    )
    output.result(answer.json)
    return DONE


def read_items(path: Path) -> list[dict[str, Any]]:
    """Return the items of a file, as the hub takes them.

    A picture is one item, a .csv one window (a row a sample), a .json what the API takes, and any
    other file one text. Raises ContractError `file.unreadable`, `file.invalid`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ContractError(
            "file.unreadable", f"Cannot read {path}: {error.strerror}.", remedy="Check the path."
        ) from error
    if len(data) > FILE_BYTES_MAX:
        raise _invalid(path, f"it is over {FILE_BYTES_MAX} bytes", "Ask with less at a time.")
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return [{"image": base64.b64encode(data).decode()}]
    try:
        if suffix == ".json":
            return _from_json(path, msgspec.json.decode(data))
        text = data.decode("utf-8")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _invalid(path, str(error), "Give a picture, .json, .csv or text.") from error
    return [{"window": _window(path, text)}] if suffix == ".csv" else [{"text": text}]


def answer_text(said: dict[str, Any]) -> str:
    """Return an answer as a person reads it."""
    match said:
        case {"label": label, "probability": probability, "probabilities": all_of}:
            others = [f"{name} {share * 100:.1f} %" for name, share in all_of.items()]
            rest = ", ".join(name for name in others[1:4])
            return f"{label} {probability * 100:.1f} %" + (f" (then {rest})" if rest else "")
        case {"boxes": boxes}:
            shown = [
                f"{box['label']} {box['score'] * 100:.0f} % at {box['left']:.2f},{box['top']:.2f}-"
                f"{box['right']:.2f},{box['bottom']:.2f}"
                for box in boxes[:BOXES_SHOWN_MAX]
            ]
            more = f" and {len(boxes) - len(shown)} more" if len(boxes) > len(shown) else ""
            return "; ".join(shown) + more if shown else "nothing found"
        case {"score": score, "is_anomalous": is_anomalous}:
            return f"{score:.4f}{', anomalous' if is_anomalous else ''}"
        case _:
            return msgspec.json.encode(said).decode()


def _from_json(path: Path, value: object) -> list[dict[str, Any]]:
    """Return what a .json holds: {"items": […]}, a list of items, or one item."""
    if isinstance(value, dict) and "items" in value:
        value = value["items"]
    items = value if isinstance(value, list) else [value]
    found = [item for item in items if isinstance(item, dict)]
    if not found or len(found) < len(items):
        remedy = 'Write {"items": [{"window": [[0.1, 0.2], …]}]}, or one item.'
        raise _invalid(path, "it holds no items", remedy)
    return found


def _window(path: Path, text: str) -> list[list[float]]:
    """Return the rows of a .csv as samples; a first row without numbers is a heading."""
    rows = [row for row in csv.reader(text.splitlines()) if row]
    samples: list[list[float]] = []
    for number, row in enumerate(rows, start=1):
        try:
            samples.append([float(cell) for cell in row])
        except ValueError as error:
            if number == 1 and not samples:
                continue
            raise _invalid(path, f"row {number}: {error}", "Write numbers.") from error
    return samples


def _invalid(path: Path, reason: str, remedy: str) -> ContractError:
    return ContractError("file.invalid", f"{path}: {reason}.", remedy=remedy)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="the model's name; its release is asked")
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a picture, a .csv window (a row a sample), a .json of items, or a text",
    )


COMMANDS = (
    Command(
        ("models", "ask"),
        HEADING,
        "ask a released model what it says of files",
        ask_model,
        _arguments,
        examples=(
            "cloud-hub models ask digits seven.png",
            "cloud-hub models ask shaft window.csv --json",
        ),
        description="The hub runs the same weights with the same scaling as devices do.",
    ),
)
