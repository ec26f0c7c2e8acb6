"""The page about collections - samples that devices send - and what its forms do."""

from typing import Annotated, Literal, assert_never
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from cloud_hub.api.bodies import NamePath
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.dashboard.collection_view import view_collections
from cloud_hub.dashboard.render import render
from cloud_hub.datasets.collecting.collection import ITEMS_DEFAULT
from cloud_hub.datasets.making import ImportRule
from cloud_hub.datasets.manifest import ITEMS_MAX
from cloud_hub.datasets.splits import SplitBy
from shared.ids import NAME_PATTERN

routes = APIRouter()

Act = Literal["stop", "discard", "version"]
PLACE = "/collections"


@routes.get(PLACE)
def show_collections(request: Request, services: ServicesDep) -> Response:
    """Show which datasets are open to devices, and what has come."""
    return render(
        request,
        "collections",
        clock=services.clock,
        view=view_collections(services),
        items_default=ITEMS_DEFAULT,
        items_max=ITEMS_MAX,
        split_by=tuple(by.value for by in SplitBy),
        name_pattern=NAME_PATTERN.removeprefix("^").removesuffix("$").replace("-]", r"\-]"),
    )


@routes.post(PLACE)
def open_collection(
    services: ServicesDep,
    acting: ActingDep,
    dataset: Annotated[str, Form(pattern=NAME_PATTERN)],
    group: Annotated[str, Form(pattern=NAME_PATTERN)],
    items_max: Annotated[int, Form(ge=1, le=ITEMS_MAX)] = ITEMS_DEFAULT,
) -> Response:
    """Open a dataset to a group's devices, or open it again."""
    with acting.act("dataset.collect", dataset, f"group {group}"):
        services.collections.collect(
            dataset, group=group, items_max=items_max, by=acting.operator.name
        )
    return RedirectResponse(PLACE, status_code=303)


@routes.post("/collections/{dataset}/{act}")
def act_on_collection(
    dataset: NamePath,
    act: Act,
    services: ServicesDep,
    acting: ActingDep,
    by: Annotated[SplitBy, Form()] = SplitBy.DEVICE,
) -> Response:
    """Close a collection, forget what waits in it, or make a version of that, split `by`."""
    found = services.collections
    match act:
        case "stop":
            with acting.act("dataset.collect_stop", dataset):
                found.stop(dataset)
        case "discard":
            with acting.act("dataset.collect_stop", dataset, "and discard"):
                found.stop(dataset)
                found.discard(dataset)
        case "version":
            with acting.act("dataset.collect_version", dataset):
                made = found.make_version(dataset, ImportRule(split_by=by), by=acting.operator.name)
            query = urlencode({"version": made.version.version})
            return RedirectResponse(f"/datasets/{dataset}?{query}", status_code=303)
        case _:
            assert_never(act)
    return RedirectResponse(PLACE, status_code=303)
