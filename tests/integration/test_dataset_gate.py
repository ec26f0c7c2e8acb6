"""The gate measures detectors and texts on a dataset's test part: from its files to a Verdict."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import nn

from cloud_hub.candidates.candidate import Answer, GateRefusedError, PassedCandidate
from cloud_hub.candidates.checkpoint import Checkpoint, CheckpointId
from cloud_hub.candidates.dataset_evaluation import DatasetEvaluation
from cloud_hub.candidates.evaluation_data import EvaluationData, decode_evaluation
from cloud_hub.candidates.evaluation_sets import EvaluationSets
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.gate_quality import QualitySettings
from cloud_hub.candidates.service import CandidateService, Rivals
from cloud_hub.datasets.dataset import DatasetVersion
from cloud_hub.datasets.service import DatasetService
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database, sqlite_url
from cloud_hub.training.trainer.spec import SupervisedMethod
from cloud_hub.training.trainer.torch_objective import Targets
from shared.clock import SystemClock
from shared.errors import ContractError
from shared.ids import LineageId, ModelName
from shared.model.preprocess import to_tensor
from shared.model.spec import ImageInput, ModelSpec, Resize, parse_spec
from shared.model.weights import digest_weights, encode_weights
from tests.support.coloured_squares import NETWORK, SPEC, Squares, draw_squares, write_yolo
from tests.support.dataset_sources import put
from tests.support.noisy_onnx import add_noise
from tests.support.small_training import spec_for, train

pytestmark = pytest.mark.slow  # Imports, exports and examines in processes of their own.

LINE = LineageId("line-squares")
TRAINED, HELD = 200, 120
UNLABELLED = 3
TEXTS = parse_spec(
    b"""
model = "reports"
task = "classification"
input = {kind = "text", length = 12}
output = {decoder = "logits", classes = ["good", "bad"]}
"""
)


@dataclass
class Shelf:
    """Datasets, evaluation sets and the gate of one hub."""

    datasets: DatasetService
    sets: EvaluationSets
    candidates: CandidateService

    def set_of(self, version: DatasetVersion, spec: ModelSpec, **order: int) -> EvaluationData:
        """Return the evaluation set that is made of a version."""
        made = DatasetEvaluation(self.datasets, self.sets).set(version, spec, **order)
        return decode_evaluation(self.sets.read(made))

    def judge(self, net: nn.Module, version: DatasetVersion) -> PassedCandidate:
        """Return a first network that the gate let through, measured on a version's test part."""
        weights = {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}
        checkpoint = Checkpoint(
            checkpoint_id=CheckpointId("ckpt-squares"),
            model=ModelName(SPEC.model),
            spec=SPEC,
            network=NETWORK,
            weights_digest=digest_weights(weights),
            parameters_count=sum(array.size for array in weights.values()),
            lineage_id=LINE,
            origin="uploaded",
            created_ms=1,
        )
        data, rivals = encode_weights(weights), self.rivals(version, None)
        return self.candidates.judge_trained(checkpoint, data, lineage_id=LINE, rivals=rivals)

    def judge_next(
        self, model: bytes, version: DatasetVersion, first: PassedCandidate
    ) -> PassedCandidate:
        """Return a model that the gate let through beside the first."""
        return self.candidates.judge(
            model_bytes=model,
            spec=first.spec,
            golden_bytes=None,
            lineage_id=LINE,
            rivals=self.rivals(version, first),
        )

    def rivals(self, version: DatasetVersion, first: PassedCandidate | None) -> Rivals:
        made = self.sets.newest(SPEC.model)
        if made is None:
            made = DatasetEvaluation(self.datasets, self.sets).set(version, SPEC)
        return Rivals(
            evaluation_digest=made.digest,
            evaluation_bytes=self.sets.read(made),
            release="squares:1" if first else "",
            old_spec=first.spec if first else None,
            old_bytes=first.model_bytes if first else b"",
        )


@pytest.fixture
def shelf(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[Shelf]:
    """On SQLite alone: what is slow here does not touch the database."""
    shutil.copyfile(migrated_sqlite_file, tmp_path / "hub.db")
    database = Database(sqlite_url(tmp_path))
    objects, clock = ObjectStore(str(tmp_path / "objects")), SystemClock()
    datasets = DatasetService(database, objects, clock, folder=tmp_path / "datasets")
    datasets.open()
    quality = QualitySettings(margin=0.1, latency_ratio_max=1000.0)  # The machine may be busy
    settings = GateSettings(quality=quality, timing_rounds=5)
    yield Shelf(
        datasets,
        EvaluationSets(database, objects, clock),
        CandidateService(database, clock, settings),
    )
    database.close()


@pytest.fixture(scope="module")
def known() -> Squares:
    return draw_squares(TRAINED, seed=0)


@pytest.fixture(scope="module")
def unseen() -> Squares:
    return draw_squares(HELD, seed=1)


@pytest.fixture(scope="module")
def trained(known: Squares) -> nn.Module:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    inputs = torch.from_numpy(np.concatenate([to_tensor(one, SPEC) for one in known.pictures]))
    labels, is_boxed = torch.full((TRAINED,), -1), torch.ones(TRAINED, dtype=torch.bool)
    targets = Targets(labels, torch.from_numpy(known.boxes), is_boxed)
    spec = spec_for(SPEC, NETWORK, SupervisedMethod())
    net = train(spec, inputs, targets, epochs=12, batch=16, learning_rate=0.01)
    torch.set_num_threads(threads)
    return net.eval()


def imported(shelf: Shelf, folder: Path, known: Squares, unseen: Squares) -> DatasetVersion:
    parts = {"train": Squares(known.pictures[:9], known.boxes[:9]), "test": unseen}
    source = write_yolo(folder / "squares", parts, unlabelled=UNLABELLED)
    return shelf.datasets.import_file("squares", source, by="anna").version


def test_a_set_is_made_of_the_pictures_that_somebody_has_boxed(
    shelf: Shelf, tmp_path: Path, known: Squares, unseen: Squares
) -> None:
    version = imported(shelf, tmp_path, known, unseen)
    data = shelf.set_of(version, SPEC)
    assert data.items.shape == (HELD - UNLABELLED, *unseen.pictures.shape[1:])
    assert data.boxes is not None
    where = {pixels.tobytes(): index for index, pixels in enumerate(unseen.pictures)}
    empty = 0
    for index, item in enumerate(data.items):
        wanted = unseen.of(where[item.tobytes()])  # PNG keeps every pixel
        found = data.boxes.of(index)
        order = np.lexsort(found.corners.T[:1])
        np.testing.assert_allclose(found.corners[order], wanted[:, 1:], atol=2e-6)
        assert found.classes[order].tolist() == wanted[:, 0].astype(int).tolist()
        empty += not len(found)
    assert empty > 10  # Of pictures with nothing on them it is known, too
    assert shelf.set_of(version, SPEC, items_max=20).items.shape[0] == 20


def test_boxes_are_where_the_picture_is_within_a_models_input(
    shelf: Shelf, tmp_path: Path, known: Squares, unseen: Squares
) -> None:
    """A letterboxed model that is twice as wide as high has its pictures in the middle half."""
    version = imported(shelf, tmp_path, known, unseen)
    wide = replace(SPEC, input=ImageInput(width=96, height=48, resize=Resize.LETTERBOX))
    data, plain = shelf.set_of(version, wide), shelf.set_of(version, SPEC)
    assert data.boxes is not None
    assert plain.boxes is not None
    rows, squares = data.boxes.rows, plain.boxes.rows
    np.testing.assert_allclose(rows[:, [1, 3]], squares[:, [1, 3]] / 2 + 0.25, atol=1e-5)
    np.testing.assert_allclose(rows[:, [2, 4]], squares[:, [2, 4]], atol=1e-5)


def test_a_detector_of_the_zoo_is_exported_measured_and_compared(
    shelf: Shelf, tmp_path: Path, known: Squares, unseen: Squares, trained: nn.Module
) -> None:
    version = imported(shelf, tmp_path, known, unseen)
    first = shelf.judge(trained, version)
    verdict = first.candidate.verdict
    print(verdict.variants, verdict.slices, verdict.remarks, sep="\n")
    everything = verdict.slices[0]
    assert everything.answer is Answer.FIRST
    assert everything.boxes_new is not None
    assert everything.boxes_new.mean_average_precision > 0.7
    assert everything.boxes_new.picture_f1 > 0.7
    rows = {row.name: row for row in verdict.variants}
    assert rows["int8"].agreement is not None
    assert rows["int8"].boxes is not None
    # The same again is not worse; one whose weights were damaged is.
    again = shelf.judge_next(first.model_bytes, version, first).candidate.verdict
    assert again.slices[0].answer is Answer.NOT_WORSE
    assert again.is_passed
    with pytest.raises(GateRefusedError) as raised:
        shelf.judge_next(add_noise(first.model_bytes, share=1.0), version, first)
    refused = raised.value.candidate.verdict
    assert refused.slices[0].answer is Answer.WORSE
    assert "gate.worse" in [reason.code for reason in refused.reasons]


def test_texts_become_a_set_of_their_bytes(shelf: Shelf, tmp_path: Path) -> None:
    texts = {"good": ["läuft", "runs well, at every speed"], "bad": ["noisy", "h"]}
    for label, lines in texts.items():
        for index, text in enumerate(lines):
            put(tmp_path / "reports" / "test" / label / f"{index}.txt", text)
            put(tmp_path / "reports" / "train" / label / f"{index}.txt", f"{text} too")
    version = shelf.datasets.import_file("reports", tmp_path / "reports", by="anna").version
    data = shelf.set_of(version, TEXTS)
    found = {
        (item.tobytes().rstrip(b"\0"), int(label))
        for item, label in zip(data.items, data.labels, strict=True)
    }
    wanted = {
        (text.encode()[:12], index) for index, label in enumerate(texts) for text in texts[label]
    }
    assert found == wanted
    with pytest.raises(ContractError) as raised:
        shelf.set_of(version, SPEC)
    assert raised.value.code == "dataset.kind"


def test_a_test_part_without_boxes_judges_no_detector(shelf: Shelf, tmp_path: Path) -> None:
    drawn = draw_squares(4, seed=5)
    source = write_yolo(tmp_path / "bare", {"test": drawn, "train": drawn}, unlabelled=4)
    put(source / "labels" / "train" / "train-0000.txt", "")
    version = shelf.datasets.import_file("bare", source, by="anna").version
    with pytest.raises(ContractError, match="no picture with boxes") as raised:
        shelf.set_of(version, SPEC)
    assert raised.value.code == "evaluation.empty"
