"""Which values a key of a struct may have, for an error that names the key.

msgspec says that a value is no member of an enumeration, or no tag of a union, and where; it does
not say which there are. The path is msgspec's own: `$.pipelines[0].source.kind`.
"""

import re
from collections.abc import Iterator

import msgspec
from msgspec import inspect

_REFUSED = re.compile(r"Invalid (?:enum )?value .* - at `\$(?P<path>[^`]*)`", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>\w+)|\[[^\]]*\]")


def choices(error: msgspec.ValidationError, shape: object) -> tuple[str, ...]:
    """Return what may stand where `error` refused a value of `shape`; empty if that is no list."""
    found = _REFUSED.search(str(error))
    if found is None:
        return ()
    types: list[inspect.Type] = [inspect.type_info(shape)]
    tags: list[str] = []
    for step in _STEP.finditer(found["path"]):
        key = step["key"]
        inside = [one for kind in types for one in _unions_opened(kind)]
        tags = [tag for one in inside for tag in _tag_at(one, key)]
        types = [kind for one in inside for kind in _below(one, key)]
    values = [
        str(member.value)
        for kind in types
        for one in _unions_opened(kind)
        if isinstance(one, inspect.EnumType)
        for member in one.cls
    ]
    return tuple(dict.fromkeys(values or tags))


def _unions_opened(kind: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.Metadata):
        yield from _unions_opened(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _unions_opened(one)
    else:
        yield kind


def _tag_at(kind: inspect.Type, key: str | None) -> Iterator[str]:
    if isinstance(kind, inspect.StructType) and key is not None and kind.tag_field == key:
        yield str(kind.tag)


def _below(kind: inspect.Type, key: str | None) -> Iterator[inspect.Type]:
    """Yield the types of what stands at `key` of a struct, or in a list or a mapping."""
    match kind:
        case inspect.StructType(fields=fields) if key is not None:
            yield from (field.type for field in fields if field.encode_name == key)
        case inspect.DictType(value_type=inner):
            yield inner
        case inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner):
            yield inner
        case inspect.TupleType(item_types=inner_types):
            yield from inner_types
