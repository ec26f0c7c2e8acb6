"""Any message of the wire, for property tests: strategies read off the message types themselves."""

import functools
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from msgspec import NODEFAULT, UNSET
from msgspec import inspect as types

from shared.wire.topics import Message, Topic

_LIST_MAX = 4  # Longer lists cost much and show little.
_TEXT_MAX = 20


def messages(topic: Topic) -> st.SearchStrategy[Message]:
    """Return a strategy of messages of one topic, every value within its limits."""
    return _of(types.type_info(topic.message))


@functools.singledispatch
def _of(info: object) -> st.SearchStrategy[Any]:
    raise NotImplementedError(f"no strategy for {info!r}")


@_of.register
def _(info: types.NoneType) -> st.SearchStrategy[Any]:
    return st.none()


@_of.register
def _(info: types.BoolType) -> st.SearchStrategy[Any]:
    return st.booleans()


@_of.register
def _(info: types.IntType) -> st.SearchStrategy[Any]:
    return st.integers(info.ge, info.le)


@_of.register
def _(info: types.FloatType) -> st.SearchStrategy[Any]:
    low = info.ge if info.gt is None else info.gt
    is_open = info.gt is not None
    return st.floats(low, info.le, exclude_min=is_open, allow_nan=False, allow_infinity=False)


@_of.register
def _(info: types.StrType) -> st.SearchStrategy[Any]:
    if info.pattern is not None:
        return st.from_regex(info.pattern, fullmatch=True).filter(
            lambda text: len(text) <= (info.max_length or len(text))
        )
    most = min(info.max_length or _TEXT_MAX, _TEXT_MAX)
    return st.text(
        st.characters(codec="utf-8", exclude_characters="\0"),
        min_size=info.min_length or 0,
        max_size=most,
    )


@_of.register
def _(info: types.BytesType) -> st.SearchStrategy[Any]:
    return st.binary(min_size=info.min_length or 0, max_size=min(info.max_length or 64, 64))


@_of.register
def _(info: types.EnumType) -> st.SearchStrategy[Any]:
    return st.sampled_from(list(info.cls))


@_of.register
def _(info: types.UnionType) -> st.SearchStrategy[Any]:
    return st.one_of([_of(kind) for kind in info.types])


@_of.register
def _(info: types.VarTupleType) -> st.SearchStrategy[Any]:
    least = info.min_length or 0
    return st.lists(_of(info.item_type), min_size=least, max_size=max(least, _LIST_MAX)).map(tuple)


@_of.register
def _(info: types.DictType) -> st.SearchStrategy[Any]:
    return st.dictionaries(_of(info.key_type), _of(info.value_type), max_size=_LIST_MAX)


@_of.register
def _(info: types.StructType) -> st.SearchStrategy[Any]:
    fields: Mapping[str, st.SearchStrategy[Any]] = {
        field.name: _of(field.type) | st.just(UNSET) if _can_be_left_out(field) else _of(field.type)
        for field in info.fields
    }
    return st.fixed_dictionaries(dict(fields)).map(lambda values: info.cls(**values))


def _can_be_left_out(field: types.Field) -> bool:
    """Whether a field's default is UNSET, which msgspec tells by telling no default."""
    no_default = (field.default, field.default_factory) == (NODEFAULT, NODEFAULT)
    return not field.required and no_default
