"""Labels out to a label tool and back: Label Studio, CVAT, COCO, YOLO."""

from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse
from pydantic import Field
from starlette.background import BackgroundTask

from cloud_hub.api.bodies import AnswerBody, NamePath, errors
from cloud_hub.api.dataset_bodies import VersionOut, version_out
from cloud_hub.api.dataset_upload import ReceivedFile
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.datasets.label_exchange import LabelExchange
from cloud_hub.datasets.label_tools.labelled import LabelTool
from cloud_hub.datasets.manifest import Part

routes = APIRouter(prefix="/api/v1/datasets", tags=["Learning"])

ZIP_TYPE = "application/zip"
_FILE = {"type": "string", "format": "binary"}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The tool's own file (.json, .xml), or an archive of its folder",
        "content": {"application/octet-stream": {"schema": _FILE}},
    }
}
Tool = Annotated[LabelTool, Query(description="Which tool's format")]


class LabelProblemOut(AnswerBody):
    """Something in the file that changed nothing."""

    name: str
    reason: str


class ReturnedOut(AnswerBody):
    """What came of labels that came back."""

    version: VersionOut = Field(description="The new one; the newest where nothing changed")
    changed_count: int
    unchanged_count: int
    problems: tuple[LabelProblemOut, ...]
    problems_count: int


@routes.get(
    "/{dataset}/labels",
    summary="Export for a label tool",
    response_class=Response,
    responses={**errors(404, 409, 422), 200: {"content": {ZIP_TYPE: {"schema": _FILE}}}},
)
def export_labels(
    dataset: NamePath,
    services: ServicesDep,
    tool: Tool,
    version: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    part: Part | None = None,
    is_labelled: Annotated[bool | None, Query(description="Only those, or only others")] = None,
) -> Response:
    """Return a .zip with items and labels as the tool imports them; without one: the newest."""
    with ExitStack() as stack:
        exported = stack.enter_context(
            LabelExchange(services.datasets).export(
                dataset, tool, version=version, part=part, is_labelled=is_labelled
            )
        )
        kept = stack.pop_all()
    return FileResponse(
        exported.file,
        media_type=ZIP_TYPE,
        filename=exported.name,
        background=BackgroundTask(kept.close),
    )


@routes.put(
    "/{dataset}/labels",
    summary="Bring labels back",
    responses=errors(404, 409, 422),
    openapi_extra=_BODY,
)
def bring_labels_back(
    dataset: NamePath,
    tool: Tool,
    file: ReceivedFile,
    services: ServicesDep,
    acting: ActingDep,
) -> ReturnedOut:
    """Make the next version of a dataset, with the labels of a tool's file."""
    with acting.act("dataset.label", dataset, f"from {tool}: {file.name}"):
        exchange = LabelExchange(services.datasets)
        returned = exchange.bring_back(dataset, tool, file, by=acting.operator.name)
    return ReturnedOut(
        version=version_out(returned.version),
        changed_count=returned.changed_count,
        unchanged_count=returned.unchanged_count,
        problems=tuple(LabelProblemOut.model_validate(one) for one in returned.problems),
        problems_count=returned.problems_count,
    )
