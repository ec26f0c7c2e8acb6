"""Fields of a form, from a settings struct, so that its limits are not written down twice. Pure.

1. A field's name is its path in the struct that the form makes: "recipe.learning_rate".
2. What the struct's types say (range, choices, default) is what the browser is told; the struct
   itself checks it again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec
from msgspec import inspect

WORDS: Mapping[str, str] = {
    "lora": "LoRA", "sgd": "SGD, momentum", "adamw": "AdamW", "muon": "Muon",
    "fp32": "fp32", "bf16": "bf16", "auto": "automatic",
    "local": "this machine", "ray": "a Ray cluster",
    "cpu": "CPU", "cuda": "GPU", "equal": "alike",
    "balanced": "rare ones more", "effective": "rare ones more, tempered",
    "constant": "stays", "linear": "falls in a line", "cosine": "falls as a cosine",
    "pgd": "PGD, several steps", "fgsm": "FGSM, one step",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FormField:
    """One input. `kind` is "number", "text", "check" or "select"."""

    name: str
    label: str
    kind: str
    value: str
    options: tuple[tuple[str, str], ...] = ()  # Value and words
    low: str = ""
    high: str = ""
    is_whole: bool = False
    hint: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class FormState:
    """What was typed in before, and what is wrong with it, by field."""

    values: Mapping[str, str]
    errors: Mapping[str, str]


NOTHING = FormState({}, {})


def struct_fields(
    shape: type[msgspec.Struct],
    prefix: str,
    labels: Mapping[str, str],
    *,
    state: FormState = NOTHING,
    defaults: Mapping[str, object] | None = None,
) -> tuple[FormField, ...]:
    """Return the fields of a struct that have a label, in the labels' order."""
    info = inspect.type_info(shape)
    assert isinstance(info, inspect.StructType), "a struct"
    types = {field.name: (field.type, field.default) for field in info.fields}
    return tuple(
        _field(
            f"{prefix}.{name}" if prefix else name,
            label,
            types[name][0],
            (defaults or {}).get(name, types[name][1]),
            state,
        )
        for name, label in labels.items()
    )


def choice_field(
    name: str,
    label: str,
    options: Sequence[tuple[str, str]],
    *,
    value: str = "",
    state: FormState = NOTHING,
    hint: str = "",
) -> FormField:
    """Return a field to choose one of some values."""
    found = state.values.get(name, value)
    error = state.errors.get(name, "")
    return FormField(name, label, "select", found, tuple(options), hint=hint, error=error)


def text_field(
    name: str, label: str, value: str = "", *, state: FormState = NOTHING, hint: str = ""
) -> FormField:
    """Return a field for a line of text."""
    found, error = state.values.get(name, value), state.errors.get(name, "")
    return FormField(name, label, "text", found, hint=hint, error=error)


def number_field(
    name: str,
    label: str,
    value: str = "",
    *,
    low: str = "",
    high: str = "",
    is_whole: bool = True,
    state: FormState = NOTHING,
    hint: str = "",
) -> FormField:
    """Return a field for a number."""
    found, error = state.values.get(name, value), state.errors.get(name, "")
    return FormField(name, label, "number", found, (), low, high, is_whole, hint, error)


def check_field(
    name: str, label: str, *, is_set: bool, state: FormState = NOTHING, hint: str = ""
) -> FormField:
    """Return a box to tick."""
    before = "yes" if is_set else ""
    found = state.values.get(name, "") if state.values else before
    return FormField(name, label, "check", found, hint=hint, error=state.errors.get(name, ""))


def _field(
    name: str, label: str, kind: inspect.Type, default: object, state: FormState
) -> FormField:
    if isinstance(kind, inspect.UnionType):  # Something, or nothing
        kind = next(part for part in kind.types if not isinstance(part, inspect.NoneType))
    match kind:
        case inspect.BoolType():
            return check_field(name, label, is_set=bool(default), state=state)
        case inspect.EnumType(cls=names):
            options = [(str(one.value), _words(one)) for one in names]
            return choice_field(name, label, options, value=str(default), state=state)
        case inspect.IntType() | inspect.FloatType():
            low = kind.ge if kind.ge is not None else kind.gt
            high = kind.le if kind.le is not None else kind.lt
            return number_field(
                name,
                label,
                "" if default is None or default is msgspec.NODEFAULT else f"{default:g}",
                low="" if low is None else f"{low:g}",
                high="" if high is None or high > 1e6 else f"{high:g}",
                is_whole=isinstance(kind, inspect.IntType),
                state=state,
            )
        case inspect.StrType(pattern=pattern) if pattern and "|" in pattern:
            words = pattern.removeprefix("^(").removesuffix(")\\Z").split("|")
            options = [(one, WORDS.get(one, one)) for one in words]
            return choice_field(name, label, options, value=str(default), state=state)
        case _:
            return text_field(name, label, str(default or ""), state=state)


def _words(one: Enum) -> str:
    return WORDS.get(str(one.value), str(one.value).replace("-", " "))
