"""The pages about datasets, and what their forms do: the same acts as the API's.

Uploads are not forms: static/datasets.js sends the file itself to the API, where it goes to the
disk as it comes.
"""

from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import RedirectResponse, Response

from cloud_hub.api import dataset_labels
from cloud_hub.api import datasets as datasets_api
from cloud_hub.api.bodies import NamePath, VersionPath
from cloud_hub.api.dataset_bodies import EvaluationOrderBody
from cloud_hub.api.services import ActingDep, OperatorDep, ServicesDep
from cloud_hub.dashboard.dataset_view import view_dataset, view_datasets, view_item
from cloud_hub.dashboard.render import render
from cloud_hub.dashboard.window_charts import window_svg
from cloud_hub.datasets.item_page import ItemFilter
from cloud_hub.datasets.label_tools.labelled import LabelTool
from cloud_hub.datasets.manifest import ITEMS_MAX, ItemKind, Part
from cloud_hub.datasets.readers.options import SourceLayout
from cloud_hub.datasets.splits import SplitBy, SplitRule
from shared.errors import ContractError
from shared.ids import NAME_PATTERN

routes = APIRouter()

FOREVER = "private, max-age=31536000, immutable"  # A version never changes
COUNT_MAX = 10**9
State = Literal["", "labelled", "unlabelled"]
AnyText = Annotated[str, Query(max_length=120)]
Count = Annotated[int | None, Query(ge=0, le=COUNT_MAX)]
ItemPath = Annotated[int, Path(ge=0, lt=ITEMS_MAX)]
Percent = Annotated[float, Form(ge=0.0, le=100.0)]
LAYOUTS = tuple(layout.value for layout in SourceLayout)


@dataclass(frozen=True, slots=True)
class Shown:
    """Which items are looked at, as the address says it; empty: whichever."""

    part: str
    class_name: str
    state: str
    device: str

    def filter(self) -> ItemFilter:
        """Return what must be true of an item. Raises ContractError `request.invalid`."""
        return ItemFilter(
            part=Part(self.part) if self.part else None,
            class_name=self.class_name or None,
            is_labelled={"labelled": True, "unlabelled": False}.get(self.state),
            device=self.device or None,
        )

    def query(self, **more: object) -> str:
        """Return it as the query of an address."""
        own = (("part", self.part), ("class_name", self.class_name), ("state", self.state))
        pairs = [*own, ("device", self.device), *more.items()]
        return urlencode([(name, value) for name, value in pairs if value not in ("", None)])


@dataclass(frozen=True, slots=True)
class Done:
    """What an import, labels that came back or a new evaluation set have told this page."""

    read_as: str
    added: int | None
    left_out: int | None
    broken: int | None
    relabelled: int | None
    model: str  # Whose Candidates are now measured on this
    measured: int | None  # On so many items


def shown(
    part: Literal["", "train", "validation", "test"] = "",
    class_name: AnyText = "",
    state: State = "",
    device: AnyText = "",
) -> Shown:
    """Return the filter in the query."""
    return Shown(part, class_name, state, device)


def done(
    read_as: Annotated[str, Query(max_length=40)] = "",
    added: Count = None,
    left_out: Count = None,
    broken: Count = None,
    relabelled: Count = None,
    model: Annotated[str, Query(pattern=rf"{NAME_PATTERN}|^$")] = "",
    measured: Count = None,
) -> Done:
    """Return what was done; a layout that there is not is not repeated."""
    layout = read_as if read_as in LAYOUTS else ""
    return Done(layout, added, left_out, broken, relabelled, model, measured)


ShownQuery = Annotated[Shown, Depends(shown)]
DoneQuery = Annotated[Done, Depends(done)]


@routes.get("/datasets")
def show_datasets(request: Request, services: ServicesDep) -> Response:
    """Show every dataset, and the form that imports one."""
    return render(
        request,
        "datasets",
        clock=services.clock,
        view=view_datasets(services),
        layouts=LAYOUTS,
        name_pattern=_html_pattern(),
    )


@routes.get("/datasets/{dataset}")
def show_dataset(
    request: Request,
    dataset: NamePath,
    services: ServicesDep,
    operator: OperatorDep,
    wanted: ShownQuery,
    told: DoneQuery,
    version: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    after: Annotated[int, Query(ge=-1, lt=ITEMS_MAX)] = -1,
) -> Response:
    """Show one version of a dataset: what it holds, what is wrong with it, and its items."""
    view = view_dataset(
        services, dataset, version, wanted.filter(), after=after, operator=operator.name
    )
    return render(
        request,
        "dataset",
        clock=services.clock,
        view=view,
        shown=wanted,
        done=told,
        after=after,
        layouts=LAYOUTS,
        tools=tuple(tool.value for tool in LabelTool),
        split_by=tuple(by.value for by in SplitBy),
        name_pattern=_html_pattern(),
    )


@routes.get("/datasets/{dataset}/versions/{version}/items/{index}")
def show_item(
    request: Request,
    dataset: NamePath,
    version: VersionPath,
    index: ItemPath,
    services: ServicesDep,
) -> Response:
    """Show one item with all that is known of it."""
    view = view_item(services, dataset, version, index)
    return render(request, "dataset_item", clock=services.clock, view=view)


@routes.get("/datasets/{dataset}/versions/{version}/items/{index}/spark.svg")
def show_spark(
    dataset: NamePath, version: VersionPath, index: ItemPath, services: ServicesDep
) -> Response:
    """Return a window as a small picture."""
    manifest = services.datasets.manifest(services.datasets.version(dataset, version))
    if manifest.kind is not ItemKind.WINDOW:
        raise ContractError("dataset.kind", f"The items of {dataset!r} are no windows.")
    picture = window_svg(services.datasets.item_bytes(manifest, index), manifest.window_shape)
    return Response(picture, media_type="image/svg+xml", headers={"Cache-Control": FOREVER})


@routes.get("/datasets/{dataset}/versions/{version}/labels.zip")
def export_labels(
    dataset: NamePath, version: VersionPath, services: ServicesDep, tool: LabelTool
) -> Response:
    """Return items and labels as a label tool imports them; what it cannot hold is told a page."""
    return dataset_labels.export_labels(dataset, services, tool, version)


@routes.post("/datasets/{dataset}/split")
def split_anew(
    dataset: NamePath,
    services: ServicesDep,
    acting: ActingDep,
    by: Annotated[SplitBy, Form()],
    train: Percent,
    validation: Percent,
    test: Percent,
    seed: Annotated[int, Form(ge=0, le=2**31)] = 0,
) -> Response:
    """Make the next version, its items in other parts."""
    with acting.act("dataset.split", dataset, f"by {by}"):
        try:
            rule = SplitRule(
                by=by, train=train / 100, validation=validation / 100, test=test / 100, seed=seed
            )
        except ValueError as error:
            raise ContractError(
                "request.invalid", f"{error}.".capitalize(), remedy="Make the shares add up to 100."
            ) from error
        services.datasets.resplit(dataset, rule, by=acting.operator.name)
    return _to(f"/datasets/{dataset}")


@routes.post("/datasets/{dataset}/versions/{version}/evaluation")
def make_evaluation(
    dataset: NamePath,
    version: VersionPath,
    services: ServicesDep,
    acting: ActingDep,
    model: Annotated[str, Form(pattern=NAME_PATTERN)],
) -> Response:
    """Measure a model's Candidates on the version's test part from now on."""
    body = EvaluationOrderBody(model=model)
    made = datasets_api.set_evaluation(dataset, version, body, services, acting)
    query = urlencode({"version": version, "model": model, "measured": made.items_count})
    return _to(f"/datasets/{dataset}?{query}")


@routes.post("/datasets/{dataset}/versions/{version}/remove")
def remove_version(
    dataset: NamePath, version: VersionPath, services: ServicesDep, acting: ActingDep
) -> Response:
    """Forget a version, and the dataset with its last one."""
    is_last = len(services.datasets.versions(dataset)) == 1
    with acting.act("dataset.remove", dataset, f"version {version}"):
        services.cloud_jobs.require_dataset_free(dataset, version)
        services.datasets.remove(dataset, None if is_last else version)
    return _to("/datasets" if is_last else f"/datasets/{dataset}")


@routes.post("/datasets/{dataset}/remove")
def remove_dataset(dataset: NamePath, services: ServicesDep, acting: ActingDep) -> Response:
    """Forget a dataset with all its versions."""
    with acting.act("dataset.remove", dataset, "all versions"):
        services.cloud_jobs.require_dataset_free(dataset, None)
        services.datasets.remove(dataset, None)
    return _to("/datasets")


def _html_pattern() -> str:
    """Return what a name is, for the browser to check: in its dialect a last dash is escaped."""
    return NAME_PATTERN.removeprefix("^").removesuffix("$").replace("-]", r"\-]")


def _to(path: str) -> Response:
    return RedirectResponse(path, status_code=303)
