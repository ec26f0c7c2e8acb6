"""Datasets: in by upload or from a folder, looked at, labelled, split, and out to the gate."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Response

from cloud_hub.api.bodies import Limit, NamePath, VersionPath, errors
from cloud_hub.api.dataset_bodies import (
    DatasetOut,
    DatasetsOut,
    EvaluationOrderBody,
    FolderImport,
    ImportedOut,
    ItemsOut,
    NewLabels,
    ReportOut,
    VersionOut,
    VersionsOut,
    changes_of,
    dataset_out,
    imported_out,
    items_out,
    plain_report,
    version_out,
)
from cloud_hub.api.dataset_upload import ImportRuleQuery, ReceivedFile, parsed
from cloud_hub.api.evaluation_sets import EvaluationSetOut, evaluation_set_out
from cloud_hub.api.order_body import BytesBody
from cloud_hub.api.services import ActingDep, Services, ServicesDep
from cloud_hub.candidates.dataset_evaluation import DatasetEvaluation
from cloud_hub.datasets.item_page import ItemFilter, media_type
from cloud_hub.datasets.making import ImportRule
from cloud_hub.datasets.manifest import ITEMS_MAX, Part
from cloud_hub.datasets.splits import SplitRule
from shared.errors import RefusedError
from shared.model.spec import ModelSpec
from shared.plural import counted

routes = APIRouter(prefix="/api/v1/datasets", tags=["Learning"])

BYTES_TYPE = "application/octet-stream"
JSON_TYPE = "application/json"
FOREVER = "private, max-age=31536000, immutable"  # A version never changes
AnyText = Annotated[str | None, Query(max_length=120)]
ItemPath = Annotated[int, Path(ge=0, lt=ITEMS_MAX)]
_SPLIT_EXAMPLE = {"by": "device", "train": 0.7, "validation": 0.15, "test": 0.15, "seed": 0}
_LABELS_EXAMPLE = {"labels": [{"digest": "0" * 64, "label": "cat"}]}


def _takes(media: str, description: str, schema: dict[str, Any], example: object) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {
        "requestBody": {
            "required": True,
            "description": description,
            "content": {media: content},
        }
    }


_SOURCE_BODY = _takes(
    BYTES_TYPE,
    "An archive (.zip, .tar, .tar.gz) of a folder, or one .csv, .npz or .json file",
    {"type": "string", "format": "binary"},
    None,
)
_SPLIT_BODY = _takes(JSON_TYPE, "Split rule", {"type": "object"}, _SPLIT_EXAMPLE)
_LABELS_BODY = _takes(JSON_TYPE, "Labels by item", {"type": "object"}, _LABELS_EXAMPLE)


@routes.get("", summary="Datasets", responses=errors())
def list_datasets(services: ServicesDep) -> DatasetsOut:
    """Return every dataset by name, each with its newest version."""
    return DatasetsOut(datasets=tuple(dataset_out(each) for each in services.datasets.list()))


@routes.get("/{dataset}", summary="One dataset", responses=errors(404))
def get_dataset(dataset: NamePath, services: ServicesDep) -> DatasetOut:
    """Return a dataset with its newest version."""
    return dataset_out(services.datasets.get(dataset))


@routes.get("/{dataset}/versions", summary="Its versions", responses=errors(404))
def list_versions(dataset: NamePath, services: ServicesDep) -> VersionsOut:
    """Return a dataset's versions, newest first."""
    found = services.datasets.versions(dataset)
    return VersionsOut(versions=tuple(version_out(each) for each in found))


@routes.put(
    "/{dataset}/import",
    summary="Import an upload",
    responses=errors(404, 409, 422),
    openapi_extra=_SOURCE_BODY,
)
def import_upload(
    dataset: NamePath,
    file: ReceivedFile,
    rule: ImportRuleQuery,
    services: ServicesDep,
    acting: ActingDep,
    is_added: Annotated[bool, Query(description="Keep the newest version's items too")] = False,
) -> ImportedOut:
    """Read a source, check every item, split it, and make it the next version. Takes a while."""
    with acting.act("dataset.import", dataset, file.name):
        imported = services.datasets.import_file(
            dataset, file, rule, by=acting.operator.name, is_added=is_added
        )
    return imported_out(imported)


@routes.post(
    "/{dataset}/import-folder",
    summary="Import a folder of the hub's machine",
    responses=errors(404, 409, 422),
)
def import_folder(
    dataset: NamePath, body: FolderImport, services: ServicesDep, acting: ActingDep
) -> ImportedOut:
    """Import from below one of the folders that `datasets.import_roots` of the settings names."""
    rule = parsed(msgspec.json.encode(body.rule), ImportRule)
    with acting.act("dataset.import", dataset, body.path[:100]):
        imported = services.datasets.import_folder(
            dataset, body.path, rule, by=acting.operator.name, is_added=body.is_added
        )
    return imported_out(imported)


@routes.get(
    "/{dataset}/versions/{version}/report", summary="What cleaning found", responses=errors(404)
)
def get_report(dataset: NamePath, version: VersionPath, services: ServicesDep) -> ReportOut:
    """Return the cleaning report of the items' import; null where none is kept."""
    found = services.datasets.report(services.datasets.version(dataset, version))
    return ReportOut(report=plain_report(found))


@routes.get("/{dataset}/versions/{version}/items", summary="Its items", responses=errors(404, 422))
def list_items(
    dataset: NamePath,
    version: VersionPath,
    services: ServicesDep,
    part: Part | None = None,
    class_name: AnyText = None,
    is_labelled: bool | None = None,
    device: AnyText = None,
    site: AnyText = None,
    after: Annotated[int, Query(ge=-1, lt=ITEMS_MAX)] = -1,
    limit: Limit = 50,
) -> ItemsOut:
    """Return a page of the items that match every filter, in the manifest's order."""
    found = services.datasets.version(dataset, version)
    wanted = ItemFilter(part, class_name, is_labelled, device, site)
    page = services.datasets.items(found, wanted, after=after, limit=limit)
    return items_out(services.datasets.manifest(found), page)


@routes.get(
    "/{dataset}/versions/{version}/items/{index}",
    summary="One item's bytes",
    response_class=Response,
    responses={**errors(404, 422), 200: {"content": {BYTES_TYPE: {}, "image/png": {}}}},
)
def get_item(
    dataset: NamePath, version: VersionPath, index: ItemPath, services: ServicesDep
) -> Response:
    """Return a picture as it came, a window's float32 samples, or a text."""
    manifest = services.datasets.manifest(services.datasets.version(dataset, version))
    data = services.datasets.item_bytes(manifest, index)
    headers = {
        "Cache-Control": FOREVER,
        # Opened by itself nothing in it runs, whatever a stranger has put there.
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Disposition": "inline",
    }
    return Response(data, media_type=media_type(manifest.kind, data), headers=headers)


@routes.post(
    "/{dataset}/labels",
    summary="Label items",
    responses=errors(404, 409, 422),
    openapi_extra=_LABELS_BODY,
)
def label_items(
    dataset: NamePath, data: BytesBody, services: ServicesDep, acting: ActingDep
) -> VersionOut:
    """Make the next version of a dataset, with these labels; items are named by their SHA-256."""
    changes = changes_of(parsed(data, NewLabels))
    with acting.act("dataset.label", dataset, counted(len(changes), "item")):
        made = services.datasets.relabel(dataset, changes, by=acting.operator.name)
    return version_out(made)


@routes.post(
    "/{dataset}/split",
    summary="Split it anew",
    responses=errors(404, 409, 422),
    openapi_extra=_SPLIT_BODY,
)
def split_dataset(
    dataset: NamePath, data: BytesBody, services: ServicesDep, acting: ActingDep
) -> VersionOut:
    """Make the next version of a dataset, its items in other parts; leaks are refused."""
    rule = parsed(data, SplitRule)
    with acting.act("dataset.split", dataset, f"by {rule.by}"):
        made = services.datasets.resplit(dataset, rule, by=acting.operator.name)
    return version_out(made)


@routes.post(
    "/{dataset}/versions/{version}/evaluation-set",
    summary="Measure Candidates on its test part",
    responses=errors(404, 409, 422),
)
def set_evaluation(
    dataset: NamePath,
    version: VersionPath,
    body: EvaluationOrderBody,
    services: ServicesDep,
    acting: ActingDep,
) -> EvaluationSetOut:
    """Make the model's evaluation set of the version's labelled test items; slices are devices."""
    with acting.act("evaluation.set", body.model, f"{dataset} version {version}"):
        found = services.datasets.version(dataset, version)
        maker = DatasetEvaluation(services.datasets, services.releases.evaluation_sets)
        made = maker.set(found, _spec_of(services, body), items_max=body.items_max)
    return evaluation_set_out(made)


@routes.delete(
    "/{dataset}/versions/{version}", summary="Remove a version", responses=errors(404, 409)
)
def remove_version(
    dataset: NamePath, version: VersionPath, services: ServicesDep, acting: ActingDep
) -> VersionsOut:
    """Forget a version, and the bytes that no other version has. Return those that are left.

    Refused (409) while a Job trains on it, or will.
    """
    with acting.act("dataset.remove", dataset, f"version {version}"):
        services.cloud_jobs.require_dataset_free(dataset, version)
        services.datasets.remove(dataset, version)
    return list_versions(dataset, services)


@routes.delete("/{dataset}", summary="Remove a dataset", responses=errors(404, 409))
def remove_dataset(dataset: NamePath, services: ServicesDep, acting: ActingDep) -> DatasetsOut:
    """Forget a dataset with all its versions. Return those that are left.

    Refused (409) while a Job trains on one of them, or will.
    """
    with acting.act("dataset.remove", dataset, "all versions"):
        services.cloud_jobs.require_dataset_free(dataset, None)
        services.datasets.remove(dataset, None)
    return list_datasets(services)


def _spec_of(services: Services, body: EvaluationOrderBody) -> ModelSpec:
    """Return a model's spec: of the checkpoint named, else of the newest one or the release."""
    releases = services.releases
    if body.checkpoint_id is not None:
        return _own(releases.checkpoints.get(body.checkpoint_id).spec, body.model)
    newest = releases.checkpoints.newest(body.model)
    if newest is not None:
        return newest.spec
    published = releases.releases(body.model)
    if not published:
        raise RefusedError(
            "model.unknown",
            f"Model {body.model!r} has neither a checkpoint nor a release: its input is not known.",
            remedy="Add a checkpoint first.",
        )
    version = max(release.version for release in published)
    return releases.manifest(body.model, version).spec


def _own(spec: ModelSpec, model: str) -> ModelSpec:
    if spec.model != model:
        raise RefusedError(
            "checkpoint.other_model", f"That checkpoint is of {spec.model!r}, not of {model!r}."
        )
    return spec
