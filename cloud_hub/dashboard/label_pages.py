"""The labelling page: one item large, answers kept on the hub as they come, saved as a version.

The page's script (static/label.js) asks here for items in their order, tells here what a person
says of them, and saves. A draft belongs to the operator; see cloud_hub/datasets/label_drafts.py.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from msgspec import Meta

from cloud_hub.api.bodies import NamePath
from cloud_hub.api.dataset_bodies import LABELS_MAX, NewLabel, NewLabels, changes_of
from cloud_hub.api.dataset_upload import parsed
from cloud_hub.api.order_body import BytesBody
from cloud_hub.api.services import ActingDep, OperatorDep, Services, ServicesDep
from cloud_hub.dashboard.label_view import (
    QUEUE_MAX,
    draft_answer,
    queue_answer,
    save_answer,
    view_labelling,
)
from cloud_hub.dashboard.render import render
from cloud_hub.datasets.label_drafts import LabelDrafts
from cloud_hub.datasets.label_queue import QueueOrder
from cloud_hub.datasets.manifest import ITEMS_MAX
from shared.settings import Settings
from shared.wire.limits import Digest

routes = APIRouter()

VERSION_MAX = 1_000_000
AnyText = Annotated[str, Query(max_length=120)]
Digests = Annotated[tuple[Digest, ...], Meta(max_length=LABELS_MAX)]


class DraftBody(Settings, frozen=True):
    """What an operator says of items of a version."""

    version: Annotated[int, Meta(ge=1, le=VERSION_MAX)]
    labels: Annotated[tuple[NewLabel, ...], Meta(min_length=1, max_length=LABELS_MAX)]


class SaveBody(Settings, frozen=True):
    """Which of the items that others changed meanwhile are labelled as the operator says."""

    mine: Digests = ()
    theirs: Digests = ()


@routes.get("/datasets/{dataset}/label")
def show_labelling(
    request: Request,
    dataset: NamePath,
    services: ServicesDep,
    operator: OperatorDep,
    item: Annotated[int, Query(ge=-1, lt=ITEMS_MAX)] = -1,
) -> Response:
    """Show the page; `item` is a position in the newest version to begin at."""
    view = view_labelling(services, dataset, item, drafts_of(services), operator.name)
    return render(request, "label", clock=services.clock, view=view)


@routes.get("/datasets/{dataset}/label/queue")
def get_queue(
    dataset: NamePath,
    services: ServicesDep,
    operator: OperatorDep,
    order: QueueOrder = QueueOrder.UNLABELLED,
    class_name: AnyText = "",
    seed: Annotated[int, Query(ge=0, le=2**31)] = 0,
    first: Annotated[int, Query(ge=0, le=ITEMS_MAX)] = 0,
    item: Annotated[int, Query(ge=-1, lt=ITEMS_MAX)] = -1,
    limit: Annotated[int, Query(ge=1, le=QUEUE_MAX)] = QUEUE_MAX,
) -> JSONResponse:
    """Return items of the newest version in their order, with what the operator said of them."""
    return JSONResponse(
        queue_answer(
            services,
            dataset,
            drafts_of(services).get(operator.name, dataset),
            order=order,
            class_name=class_name,
            seed=seed,
            first=first,
            wanted=item,
            limit=limit,
        )
    )


@routes.post("/datasets/{dataset}/label/draft")
def keep_draft(
    dataset: NamePath, data: BytesBody, services: ServicesDep, operator: OperatorDep
) -> JSONResponse:
    """Keep what an operator says of items; nothing of it is a version yet."""
    body = parsed(data, DraftBody)
    changes = changes_of(NewLabels(labels=body.labels))
    entries = drafts_of(services).put(operator.name, dataset, changes, version=body.version)
    return JSONResponse(draft_answer(services, dataset, entries))


@routes.post("/datasets/{dataset}/label/save")
def save_draft(
    dataset: NamePath, data: BytesBody, services: ServicesDep, acting: ActingDep
) -> JSONResponse:
    """Make the next version of the draft, or say which items others changed meanwhile."""
    body = parsed(data, SaveBody)
    drafts = drafts_of(services)
    with acting.act("dataset.label", dataset, "a draft"):
        saved = drafts.save(
            acting.operator.name, dataset, mine=set(body.mine), theirs=set(body.theirs)
        )
    answer: dict[str, Any] = save_answer(saved)
    return JSONResponse(answer)


@routes.post("/datasets/{dataset}/label/discard")
def discard_draft(dataset: NamePath, services: ServicesDep, acting: ActingDep) -> JSONResponse:
    """Forget what an operator said and did not save."""
    with acting.act("dataset.draft_discard", dataset):
        count = drafts_of(services).discard(acting.operator.name, dataset)
    return JSONResponse({"discarded_count": count})


def drafts_of(services: Services) -> LabelDrafts:
    """Return the drafts of the hub."""
    return LabelDrafts(services.database, services.datasets, services.clock)
