"""Values of a search put into an order, by path; and what a search space may say. Pure."""

import itertools
import math
from collections.abc import Mapping

import msgspec

from cloud_hub.training.cloud.cloud_job import Params
from cloud_hub.training.cloud.order import (
    TRIALS_MAX,
    Choice,
    CloudOrder,
    Range,
    Sampler,
    SearchOrder,
)
from shared.errors import ContractError
from shared.model.network import NetworkSpec

Value = str | float | int | bool | None
GRID_MAX = TRIALS_MAX  # Points


def with_params(
    order: CloudOrder, network: NetworkSpec, params: Params
) -> tuple[CloudOrder, NetworkSpec]:
    """Return an order, and the network that it trains, with values set by path.

    Raises ContractError `order.search` naming the path: it is not there, or takes no such value.
    """
    if not params:
        return order, network
    # Of the order only what a path may name: the rest may be large.
    parts = {name: getattr(order, name) for name in ("recipe", "method", "trained")}
    # Through JSON: tuples become lists, in which one value can be set.
    tree = msgspec.json.decode(msgspec.json.encode(parts | {"network": network}))
    for path, value in params.items():
        _set(tree, path, value)
    try:
        changed = {
            name: msgspec.convert(tree[name], _FIELD_TYPES[name], strict=True) for name in parts
        }
        return (
            msgspec.structs.replace(order, **changed),
            msgspec.convert(tree["network"], NetworkSpec, strict=True),
        )
    except msgspec.ValidationError as error:
        raise ContractError(
            "order.search",
            f"search.space: {', '.join(params)}: {error}.",
            remedy="Give values that the setting takes; the order's reference lists them.",
        ) from error


def check_space(order: CloudOrder, network: NetworkSpec) -> None:
    """Return if every end and choice of the search space may stand in the order.

    Raises ContractError `order.search` naming the path.
    """
    if order.search is None:
        return
    for path, values in order.search.space.items():
        if path.startswith("network.") and order.checkpoint and not order.is_transfer:
            raise ContractError(
                "order.search",
                f"search.space: {path!r} would change the network, whose weights must fit.",
                remedy="Leave it out, or set is_transfer, so that what fits is taken.",
            )
        for value in _samples(values):
            with_params(order, network, {path: value})
    if order.search.sampler is Sampler.GRID:
        grid_size(order.search)


def grid_size(search: SearchOrder) -> int:
    """Return how many points a grid has. Raises ContractError `order.search`."""
    size = 1
    for path, values in search.space.items():
        size *= len(_points(path, values))
    if size > GRID_MAX:
        raise ContractError(
            "order.search",
            f"search.space: the grid has {size} points, over {GRID_MAX}.",
            remedy="Make steps larger, or use the sampler random or tpe.",
        )
    return size


def grid_point(search: SearchOrder, index: int) -> Params:
    """Return the grid's point `index`, in the order in which people would write them down."""
    paths = sorted(search.space)
    axes = [_points(path, search.space[path]) for path in paths]
    chosen = next(itertools.islice(itertools.product(*axes), index, None))
    return dict(zip(paths, chosen, strict=True))


def trials_count(search: SearchOrder) -> int:
    """Return how many trials a search has, at most."""
    if search.sampler is Sampler.GRID:
        return min(search.trials, grid_size(search))
    return search.trials


def _points(path: str, values: Range | Choice) -> tuple[Value, ...]:
    if isinstance(values, Choice):
        return values.values
    if values.step is None:
        raise ContractError(
            "order.search",
            f"search.space: {path!r} has no step, which a grid needs.",
            remedy="Give step, or use the sampler random or tpe.",
        )
    count = math.floor((values.high - values.low) / values.step + 1e-9) + 1
    if count > GRID_MAX:
        raise ContractError(
            "order.search",
            f"search.space: {path!r} has {count} steps, over {GRID_MAX}.",
            remedy="Make step larger.",
        )
    numbers = [values.low + values.step * index for index in range(count)]
    return tuple(round(n) if values.is_whole else n for n in numbers)


def _samples(values: Range | Choice) -> tuple[Value, ...]:
    if isinstance(values, Choice):
        return values.values
    if values.is_whole:
        return (math.ceil(values.low), math.floor(values.high))
    return (values.low, values.high)


def _set(tree: dict[str, object], path: str, value: Value) -> None:
    *names, last = path.split(".")
    node: object = tree
    for name in names:
        node = _child(node, name, path)
    if isinstance(node, list) and last.isdecimal() and int(last) < len(node):
        node[int(last)] = value
        return
    if not isinstance(node, dict) or last not in node or last == "kind":
        raise _unknown(path)
    node[last] = value


def _child(node: object, name: str, path: str) -> object:
    if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
        return node[int(name)]
    if isinstance(node, dict) and name in node:
        return node[name]
    raise _unknown(path)


def _unknown(path: str) -> ContractError:
    return ContractError(
        "order.search",
        f"search.space: there is no setting {path!r} in this order.",
        remedy='Name one of the order, such as "recipe.learning_rate" or "network.architecture.…".',
    )


_FIELD_TYPES: Mapping[str, object] = {
    field.name: field.type for field in msgspec.structs.fields(CloudOrder)
}
