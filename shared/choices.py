"""Which keys and values there are, for an error that names a key.

msgspec says that a value is no member of an enumeration, or no tag of a union, or that a key is
unknown, and where; it does not say which there are. The path is msgspec's own:
`$.pipelines[0].source.kind`.
"""

import difflib
import re
from collections.abc import Iterator

import msgspec
from msgspec import inspect

_REFUSED = re.compile(r"Invalid (?:enum )?value .* - at `\$(?P<path>[^`]*)`", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(
    r"missing required field `(?P<key>[^`]*)`(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL
)
_STEP = re.compile(r"\.(?P<key>\w+)|\[[^\]]*\]")


def hint(error: Exception, shape: object) -> str:
    """Return what there is instead of what `error` refused of `shape`, in brackets; "" if nothing.

    A value that is none of a list: the list. A key that there is not: the one that is nearly the
    same; or of which kinds it is, where it depends on the kind; else all keys there.
    """
    if not isinstance(error, msgspec.ValidationError):
        return ""
    unknown = _UNKNOWN.search(str(error))
    if unknown is not None:
        return _hint_of_key(unknown["key"], _structs_at(unknown["path"] or "", shape))
    listed = ", ".join(choices(error, shape))
    return f" (one of: {listed})" if listed else ""


def _hint_of_key(key: str, structs: list[inspect.StructType]) -> str:
    kinds = [str(one.tag) for one in structs if key in _keys(one)]
    if kinds:
        return f" (only of the kinds: {', '.join(kinds)})"
    keys = list(dict.fromkeys(name for one in structs for name in _keys(one)))
    near = difflib.get_close_matches(key, keys, n=1)
    if near:
        return f" (did you mean `{near[0]}`?)"
    return f" (one of: {', '.join(keys)})" if len(structs) == 1 else ""


def _keys(struct: inspect.StructType) -> list[str]:
    tag = [] if struct.tag_field is None else [struct.tag_field]
    return [*tag, *(field.encode_name for field in struct.fields)]


def _structs_at(path: str, shape: object) -> list[inspect.StructType]:
    types: list[inspect.Type] = [inspect.type_info(shape)]
    for step in _STEP.finditer(path):
        inside = [one for kind in types for one in _unions_opened(kind)]
        types = [kind for one in inside for kind in _below(one, step["key"])]
    opened = [one for kind in types for one in _unions_opened(kind)]
    return [one for one in opened if isinstance(one, inspect.StructType)]


def choices(error: msgspec.ValidationError, shape: object) -> tuple[str, ...]:
    """Return what may stand where `error` refused a value of `shape`; empty if that is no list."""
    refused, missing = _REFUSED.search(str(error)), _MISSING.search(str(error))
    if refused is not None:
        path = refused["path"]
    elif missing is not None:
        path = f"{missing['path'] or ''}.{missing['key']}"
    else:
        return ()
    types: list[inspect.Type] = [inspect.type_info(shape)]
    tags: list[str] = []
    for step in _STEP.finditer(path):
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
