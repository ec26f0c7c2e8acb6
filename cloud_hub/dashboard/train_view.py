"""What the form that orders a Job in the cloud is made of, gathered from the services."""

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_hub.api.services import Services
from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.dashboard.form_fields import NOTHING, FormState
from cloud_hub.dashboard.train_choices import NEW, TASKS
from cloud_hub.dashboard.train_form import (
    FormFacts,
    TrainForm,
    checkpoint_options,
    fits,
    make_form,
    tasks_of,
)
from cloud_hub.dashboard.train_order import OrderMaterial
from cloud_hub.datasets.dataset import Dataset, DatasetVersion
from cloud_hub.datasets.manifest import ItemKind, Part
from cloud_hub.datasets.readers.image_header import read_header
from shared.errors import ContractError, IsthmusError
from shared.model.spec import Task

CHECKPOINTS_SHOWN = 100
SIDE_DEFAULT = 32
PNG_COLOUR_AT = 25  # W3C PNG 11.2.1: the byte that says the colour type
PNG_GRAY = (0, 4)
SIDE_MOST = 96  # Larger pictures are made so small, unless a person says otherwise


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was chosen above the form; empty: the newest, or the first that fits."""

    dataset: str = ""
    version: str = ""
    start: str = ""
    task: str = ""


@dataclass(frozen=True, slots=True)
class TrainPage:
    """The form with what stands above it."""

    datasets: tuple[Dataset, ...]
    versions: tuple[DatasetVersion, ...]
    starts: tuple[tuple[str, str], ...]
    tasks: tuple[tuple[str, str], ...]
    task: str
    facts: DatasetVersion | None
    form: TrainForm | None  # None: there is no dataset yet
    unlabelled: int
    has_test: bool


def view_train(services: Services, wanted: Wanted, state: FormState = NOTHING) -> TrainPage:
    """Return the form. Raises RefusedError `dataset.unknown`, `checkpoint.unknown`."""
    datasets = tuple(one for one in services.datasets.list() if one.newest is not None)
    if not datasets:
        return TrainPage((), (), (), (), "", None, None, 0, False)
    checkpoints = services.releases.checkpoints.list(limit=CHECKPOINTS_SHOWN)
    dataset, version, base, task = _chosen(services, wanted, datasets)
    sides, is_gray = (0, 0), False
    if dataset.kind is ItemKind.IMAGE:
        sides, is_gray = _look(services, version)
    fitting = [one for one in checkpoints if fits(one, dataset.kind)]
    facts = FormFacts(
        dataset=dataset,
        version=version.version,
        items_count=version.counts_by_part.get(Part.TRAIN, 0),
        base=base,
        sides=sides,
        is_gray=is_gray,
        checkpoints=fitting,
    )
    return TrainPage(
        datasets=datasets,
        versions=services.datasets.versions(dataset.name),
        starts=((NEW, "a new model"), *checkpoint_options(fitting)),
        tasks=tuple((one.value, TASKS[one]) for one in tasks_of(dataset.kind)),
        task=task.value,
        facts=version,
        form=make_form(facts, task, state),
        unlabelled=version.items_count - version.labelled_count,
        has_test=bool(version.counts_by_part.get(Part.TEST)),
    )


def material_of(services: Services, values: Mapping[str, str]) -> OrderMaterial:
    """Return what a form's fields stand for. Raises RefusedError `….unknown`, ContractError."""
    datasets = tuple(one for one in services.datasets.list() if one.newest is not None)
    if not datasets:
        raise ContractError("dataset.unknown", "There is no dataset.", remedy="Import one first.")
    dataset, version, base, task = _chosen(services, wanted_of(values), datasets)
    is_window = dataset.kind is ItemKind.WINDOW
    manifest = services.datasets.manifest(version) if is_window and base is None else None
    return OrderMaterial(dataset, version.version, manifest, base, task)


def wanted_of(values: Mapping[str, str]) -> Wanted:
    """Return what the form's hidden fields say."""
    return Wanted(
        *(values.get(name, "").strip() for name in ("dataset", "version", "start", "task"))
    )


def _chosen(
    services: Services, wanted: Wanted, datasets: tuple[Dataset, ...]
) -> tuple[Dataset, DatasetVersion, Checkpoint | None, Task]:
    base = None
    if wanted.start not in ("", NEW):
        base = services.releases.checkpoints.get(wanted.start)
    if wanted.dataset:
        dataset = services.datasets.get(wanted.dataset)
    else:
        fitting = [one for one in datasets if base is None or fits(base, one.kind)]
        dataset = max(fitting or datasets, key=lambda one: one.created_ms)
    number = int(wanted.version) if wanted.version.isdecimal() and len(wanted.version) < 8 else None
    version = services.datasets.version(dataset.name, number)
    if base is not None and not fits(base, dataset.kind):
        base = None  # Another dataset was chosen after that
    offered = tasks_of(dataset.kind)
    task = Task(wanted.task) if wanted.task in {one.value for one in offered} else offered[0]
    return dataset, version, base, task


def _look(services: Services, version: DatasetVersion) -> tuple[tuple[int, int], bool]:
    """Return a size for pictures, and whether they are gray, as the first one of a dataset is.

    Large ones are made smaller, unless a person says otherwise.
    """
    try:
        manifest = services.datasets.manifest(version)
        data = services.datasets.item_bytes(manifest, 0) if manifest.items else b""
    except IsthmusError:  # The order itself will say what is wrong with the dataset
        data = b""
    header = read_header(data)
    if header is None:
        return (SIDE_DEFAULT, SIDE_DEFAULT), False
    shrink = min(1.0, SIDE_MOST / max(header.width, header.height))
    sides = max(8, round(header.width * shrink)), max(8, round(header.height * shrink))
    is_gray = header.suffix == ".png" and data[PNG_COLOUR_AT] in PNG_GRAY
    return sides, is_gray
