"""From the form's texts to a CloudOrder, or to what is wrong with which field. Pure.

1. Only fields of the chosen method, start and plan count; a browser leaves the others out, and
   what is sent all the same is dropped here.
2. CloudOrder says what is allowed. Its complaint names a path, which is a field's name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.dashboard.train_choices import DECODERS, METHODS, RANGES
from cloud_hub.datasets.dataset import Dataset
from cloud_hub.datasets.manifest import ItemKind, Manifest
from cloud_hub.training.cloud.order import CloudOrder
from shared.errors import ContractError, IsthmusError
from shared.model.spec import Task

_AT = re.compile(r"^(?P<text>.*?)\.? - at `\$\.?(?P<path>[^`]*)`$", re.DOTALL)
_SPEC_FIELDS = {"width": "width", "height": "height", "length": "length", "colour": "colour"}
_CODES = {  # Of what a service refuses: where it belongs in the form
    "training.no_ray": "executor",
    "checkpoint.unknown": "teacher",
    "network.unfit": "network",
    "dataset.unknown": "dataset",
    "dataset.classes": "dataset",
    "order.search": "search",
    "order.trained": "trained.prefixes",
    "order.recipe": "recipe.batch",
    "order.method": "method.kind",
}
_BOUND = re.compile(r"^Expected `(int|float)` (?P<sign>[<>]=?) (?P<number>-?[0-9.e+]+)$")
_BOUNDS = {"<": "below", "<=": "at most", ">": "above", ">=": "at least"}
_WORDS = (
    ("Expected `float`, got `str`", "It must be a number"),
    ("Expected `int`, got `str`", "It must be a whole number"),
    ("Expected `object` of length >= 1", "Choose at least one setting to try"),
    ("Object missing required field `low`", "Say from where to where"),
    ("Object missing required field `high`", "Say from where to where"),
    ("`", ""),
)
PIXEL_SCALE = 255.0
MESSAGE_CHARS_MAX = 300

Wish = dict[str, object]


@dataclass(frozen=True, slots=True)
class OrderMaterial:
    """What an order's fields stand for."""

    dataset: Dataset
    version: int
    manifest: Manifest | None  # Where a new model's input follows from it
    base: Checkpoint | None
    task: Task


def make_order(values: Mapping[str, str], material: OrderMaterial) -> CloudOrder:
    """Return the order. Raises msgspec.ValidationError with a path; see `errors_of`."""
    wish: Wish = {
        "model": values.get("model", "").strip(),
        "dataset": material.dataset.name,
        "dataset_version": material.version,
        "owner": values.get("owner", "").strip(),
        "notes": values.get("notes", "").strip(),
        "is_released": "is_released" in values,
        "is_explained": "is_explained" in values,
        "recipe": _tree(values, "recipe."),
        "method": _method(values),
    }
    for name in ("executor", "device", "processes", "seed"):
        if values.get(name, "").strip():
            wish[name] = values[name].strip()
    if wish_teacher := values.get("teacher", ""):
        wish["teacher"] = wish_teacher
    if material.base is not None:
        wish["checkpoint"] = material.base.checkpoint_id
        wish["is_transfer"] = wish["model"] != material.base.model
        wish["trained"] = _trained(values)
    else:
        wish["spec"] = _spec(values, material)
        wish["network"] = {"architecture": {"kind": values.get("network", "")}}
    match values.get("plan"):
        case "folds":
            wish["folds"] = values.get("folds", "")
        case "search":
            wish["search"] = _search(values)
    return msgspec.convert(wish, CloudOrder, strict=False)


def errors_of(error: msgspec.ValidationError | IsthmusError) -> dict[str, str]:
    """Return what is wrong, by field; "" is the form as a whole."""
    if isinstance(error, IsthmusError):
        text = f"{error.message} {error.remedy}".strip()
        field = _CODES.get(error.code) or _field_of(error)
        if field == "search" and "search.space: " in text:
            text = text.replace("search.space: ", "", 1)
        return {field: text[:MESSAGE_CHARS_MAX]}
    found = _AT.match(str(error))
    if found is None:
        return {"teacher" if "teacher" in str(error) else "": _plain(str(error))}
    path = found["path"]
    if path.startswith("search."):
        is_range = path.startswith("search.space")
        return {"search" if is_range else path: _plain(found["text"])}
    for prefix, name in (("spec.input.", ""), ("spec.", ""), ("network", "network")):
        if path.startswith(prefix):
            return {name or _SPEC_FIELDS.get(path.removeprefix(prefix), ""): _plain(found["text"])}
    return {path: _plain(found["text"])}


def _field_of(error: IsthmusError) -> str:
    """Return the field that an error's code or its message's first word names."""
    if not isinstance(error, ContractError) or not error.code.startswith("order."):
        return ""
    named = error.message.partition(":")[0]
    return named if re.fullmatch(r"[a-z_.]+", named) else error.code.removeprefix("order.")


def _plain(text: str) -> str:
    """Return msgspec's words for people: "Expected `float` <= 1.0" is "It must be at most 1"."""
    if "matching regex" in text:
        return "Use small letters, digits and hyphens; begin with a letter or digit."
    bound = _BOUND.search(text)
    if bound is not None:
        return f"It must be {_BOUNDS[bound['sign']]} {float(bound['number']):g}."
    for mark, words in _WORDS:
        text = text.replace(mark, words)
    return f"{text[:1].upper()}{text[1:MESSAGE_CHARS_MAX].rstrip('.')}."


def _tree(values: Mapping[str, str], prefix: str) -> Wish:
    """Return fields below a prefix as the tree that their paths say; empty ones are left out."""
    tree: Wish = {}
    for name, value in values.items():
        if name.startswith(prefix) and value.strip():
            *parts, last = name.removeprefix(prefix).split(".")
            node = tree
            for part in parts:
                found = node.setdefault(part, {})
                assert isinstance(found, dict), "names of fields do not begin each other"
                node = found
            node[last] = "true" if value == "yes" else value.strip()
    return tree


def _method(values: Mapping[str, str]) -> Wish:
    kind = values.get("method.kind", "supervised")
    allowed = METHODS[kind][2] if kind in METHODS else {}
    fields = _tree(values, "method.")
    return {"kind": kind} | {name: fields[name] for name in allowed if name in fields}


def _trained(values: Mapping[str, str]) -> Wish:
    kind = values.get("trained.kind", "all")
    prefixes = [one.strip() for one in values.get("trained.prefixes", "").split(",") if one.strip()]
    if kind == "part":
        return {"kind": kind, "prefixes": prefixes}
    if kind == "lora":
        wish: Wish = {"kind": kind, "full": prefixes}
        fields = _tree(values, "trained.")
        return wish | {name: fields[name] for name in ("rank", "alpha") if name in fields}
    return {"kind": kind}


def _spec(values: Mapping[str, str], material: OrderMaterial) -> Wish:
    dataset, task = material.dataset, material.task
    output: Wish = {"decoder": DECODERS[task].value}
    if task is not Task.ANOMALY:
        output["classes"] = list(dataset.classes)
    return {
        "model": values.get("model", "").strip(),
        "task": task.value,
        "input": _input(values, dataset.kind, material.manifest),
        "output": output,
    }


def _input(values: Mapping[str, str], kind: ItemKind, manifest: Manifest | None) -> Wish:
    match kind:
        case ItemKind.IMAGE:
            return {
                "kind": "image",
                "width": values.get("width", ""),
                "height": values.get("height", ""),
                "colour": values.get("colour", "bgr"),
                "scale": [PIXEL_SCALE],
            }
        case ItemKind.WINDOW:
            assert manifest is not None, "a new model of windows is made from them"
            samples, channels = manifest.window_shape
            wish: Wish = {"kind": "window", "samples": samples, "channels": channels}
            if manifest.channel_means:
                wish["mean"] = list(manifest.channel_means)
                wish["scale"] = [value or 1.0 for value in manifest.channel_deviations]
            return wish
        case ItemKind.TEXT:
            return {"kind": "text", "length": values.get("length", "")}


def _search(values: Mapping[str, str]) -> Wish:
    wish = _tree(values, "search.")
    space: Wish = {}
    for index in range(RANGES):
        own = _tree(values, f"range.{index}.")
        path = own.get("path")
        if path:
            space[str(path)] = _range(own)
    wish["space"] = space
    return wish


def _range(own: Wish) -> Wish:
    if chosen := str(own.get("values", "")):
        return {"kind": "choice", "values": [_value(one.strip()) for one in chosen.split(",")]}
    scale = own.get("scale", "even")
    wish: Wish = {"kind": "range", "is_log": scale == "log", "is_whole": scale == "whole"}
    return wish | {name: own[name] for name in ("low", "high") if name in own}


def _value(text: str) -> str | float | int | bool:
    """Return a choice as the number, yes or no, or word that it is."""
    if text.lower() in ("true", "yes", "false", "no"):
        return text.lower() in ("true", "yes")
    for shape in (int, float):
        try:
            return shape(text)
        except ValueError:
            continue
    return text
