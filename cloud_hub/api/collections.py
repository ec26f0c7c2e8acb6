"""Collections: which datasets are open to devices, and what has come of that."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from pydantic import Field, JsonValue

from cloud_hub.api.bodies import AnswerBody, NamePath, RequestBody, errors
from cloud_hub.api.dataset_bodies import ImportedOut, imported_out
from cloud_hub.api.dataset_upload import parsed
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.datasets.collecting.collection import ITEMS_DEFAULT
from cloud_hub.datasets.collecting.service import CollectionStanding
from cloud_hub.datasets.making import ImportRule
from cloud_hub.datasets.manifest import ITEMS_MAX
from shared.ids import NAME_PATTERN

routes = APIRouter(prefix="/api/v1", tags=["Learning"])


class CollectionBody(RequestBody):
    """To whom a dataset is open."""

    group: str = Field(pattern=NAME_PATTERN, description="Whose devices may send")
    items_max: int = Field(default=ITEMS_DEFAULT, ge=1, le=ITEMS_MAX, description="In all")


class NewVersionBody(RequestBody):
    """How what waits is put into parts."""

    rule: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="See the import's `rule`; where it names no `split_by`, devices stay whole",
    )


class CollectionOut(AnswerBody):
    """A dataset that devices may send samples for, and what waits to be a version."""

    dataset: str
    group: str
    is_open: bool
    items_max: int
    kind: str | None = Field(description="What the samples are; null: nothing has come yet")
    window_shape: tuple[int, ...]
    arrived_count: int = Field(description="In all, those that a version has included")
    waiting_count: int
    waiting_labelled_count: int
    waiting_bytes: int
    waiting_by_device: dict[str, int]
    created_ms: int
    created_by: str


class CollectionsOut(AnswerBody):
    """Every collection, by dataset."""

    collections: tuple[CollectionOut, ...]


@routes.get("/collections", summary="Datasets open to devices", responses=errors())
def list_collections(services: ServicesDep) -> CollectionsOut:
    """Return every dataset that is or was open to devices."""
    return CollectionsOut(collections=tuple(map(_out, services.collections.list())))


@routes.get("/datasets/{dataset}/collection", summary="What devices sent", responses=errors(404))
def get_collection(dataset: NamePath, services: ServicesDep) -> CollectionOut:
    """Return to whom a dataset is open, and what waits to be a version."""
    return _out(services.collections.get(dataset))


@routes.put(
    "/datasets/{dataset}/collection",
    summary="Open a dataset to devices",
    responses=errors(404, 422),
)
def open_collection(
    dataset: NamePath, body: CollectionBody, services: ServicesDep, acting: ActingDep
) -> CollectionOut:
    """Let a group's devices send samples, as far as their owners' policies allow it."""
    with acting.act("dataset.collect", dataset, f"group {body.group}"):
        services.collections.collect(
            dataset, group=body.group, items_max=body.items_max, by=acting.operator.name
        )
    return _out(services.collections.get(dataset))


@routes.delete(
    "/datasets/{dataset}/collection", summary="Close it to devices", responses=errors(404)
)
def close_collection(
    dataset: NamePath,
    services: ServicesDep,
    acting: ActingDep,
    discards: Annotated[bool, Query(description="Also forget what waits")] = False,
) -> CollectionOut:
    """Take no more samples for a dataset; what has arrived stays, unless it is discarded."""
    with acting.act("dataset.collect_stop", dataset, "and discard" if discards else ""):
        services.collections.stop(dataset)
        if discards:
            services.collections.discard(dataset)
    return _out(services.collections.get(dataset))


@routes.post(
    "/datasets/{dataset}/collection/version",
    summary="Make a version of what devices sent",
    responses=errors(404, 409, 422),
)
def make_version(
    dataset: NamePath, body: NewVersionBody, services: ServicesDep, acting: ActingDep
) -> ImportedOut:
    """Import all that waits, as any source is imported, and forget that it waited."""
    with acting.act("dataset.collect_version", dataset):
        rule = parsed(msgspec.json.encode(body.rule), ImportRule)
        made = services.collections.make_version(dataset, rule, by=acting.operator.name)
    return imported_out(made)


def _out(standing: CollectionStanding) -> CollectionOut:
    found, waiting = standing.collection, standing.waiting
    return CollectionOut(
        dataset=found.dataset,
        group=found.group,
        is_open=found.is_open,
        items_max=found.items_max,
        kind=found.kind.value if found.kind is not None else None,
        window_shape=found.window_shape,
        arrived_count=found.arrived_count,
        waiting_count=waiting.items_count,
        waiting_labelled_count=waiting.labelled_count,
        waiting_bytes=waiting.bytes_count,
        waiting_by_device=standing.waiting_by_device,
        created_ms=found.created_ms,
        created_by=found.created_by,
    )
