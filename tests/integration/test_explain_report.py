"""Reports as the trainer makes them: real networks, real pictures, read back from the folder."""

from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from cloud_hub.datasets.manifest import Manifest
from cloud_hub.explain.answers import decode_answers
from cloud_hub.explain.explain_files import ANSWERS
from cloud_hub.explain.matplotlib_classes import draw_confusion
from cloud_hub.explain.matplotlib_figure import plain
from cloud_hub.explain.matplotlib_scores import draw_learning_curve
from cloud_hub.explain.report import PLOTS_MAX, Report, decode_report
from cloud_hub.explain.torch_explain import explain
from shared.errors import RefusedError
from shared.model.spec import Decoder
from tests.support.explained_items import (
    BrightSquares,
    Dataset,
    Doubtful,
    OneNumber,
    box_items,
    image_items,
    text_items,
    window_items,
)

pytestmark = pytest.mark.slow
WEIGHTS = "5" * 64


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def explained(network: nn.Module, data: Dataset, folder: Path, **more: object) -> Report:
    report = explain(
        network,
        data.spec,
        data.arrays,
        data.chosen,
        data.manifest,
        folder,
        part="test",
        weights_digest=WEIGHTS,
        device=torch.device("cpu"),
        **more,  # type: ignore[arg-type]
    )
    assert decode_report((folder / "report.json").read_bytes()) == report
    check_pictures(report, folder)
    return report


def check_pictures(report: Report, folder: Path) -> None:
    assert len(report.plots) <= PLOTS_MAX
    overlays = [name for item in report.worst for name in item.saliency]
    for name in [plot.file for plot in report.plots] + overlays:
        picture = cv2.imread(str(folder / name))
        assert picture is not None, name
        height, width = picture.shape[:2]
        assert 200 < width < 2000, name
        assert 30 < height < 4000, name
        assert picture.std() > 5.0, f"{name} is empty"
    assert all(plot.alt and plot.title for plot in report.plots)


def unlabelled(data: Dataset, labels: np.ndarray) -> Dataset:
    return replace(data, arrays=replace(data.arrays, labels=labels))


def test_a_classifier_is_explained(tmp_path: Path) -> None:
    data = image_items()
    network = OneNumber((0, 4, 7), 2).train()
    report = explained(network, data, tmp_path, validation=data.chosen[:20])
    assert network.training  # Left as it came
    assert report.accuracy is not None
    assert report.accuracy.count == report.items_count == 60
    assert sum(map(sum, report.confusion)) == 60
    right = sum(report.confusion[index][index] for index in range(2))
    assert report.accuracy.value == pytest.approx(right / 60) == report.metrics["accuracy"]
    assert report.metrics["temperature"] > 0.0
    assert {plot.file for plot in report.plots} == {
        "confusion.png",
        "slices.png",
        "reliability.png",
        "roc.png",
        "precision-recall.png",
        "worst.png",
        "right.png",
        "saliency.png",
    }
    assert {one.by for one in report.slices} == {"class", "device", "site", "hour"}
    losses = [item.loss for item in report.worst]
    assert losses == sorted(losses, reverse=True)
    assert len(report.worst) == 60 - right
    assert report.worst[0].saliency == ("worst-00-gradient.png", "worst-00-occlusion.png")
    answers = decode_answers((tmp_path / ANSWERS).read_bytes())
    assert int(answers.is_right.sum()) == right
    assert answers.digests[3].tobytes().hex() == data.manifest.items[3].digest


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        explained(OneNumber((1, 20), 2), window_items(decoder=Decoder.LOGITS), folder)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    different = [n for n in names if (first / n).read_bytes() != (second / n).read_bytes()]
    assert different == []


def test_anomaly_scores_are_explained(tmp_path: Path) -> None:
    report = explained(OneNumber((1, 20), 1), window_items(), tmp_path)
    assert report.classes == ("normal", "anomalous")
    assert report.accuracy is not None
    assert report.metrics["roc_area"] > 0.9
    assert report.metrics["threshold"] == 1.5
    assert "scores.png" in {plot.file for plot in report.plots}


def test_numbers_are_explained(tmp_path: Path) -> None:
    network = OneNumber((1, 20), 1)
    network.gain.data.fill_(1.0)
    data = window_items(classes=("0", "1", "2", "3"))
    report = explained(network, data, tmp_path)
    assert report.accuracy is None
    assert report.confusion == ()
    assert 0.1 < report.metrics["rmse"] < 0.5  # The noise is 0.3
    assert "numbers.png" in {plot.file for plot in report.plots}


def test_texts_are_explained_by_hiding_letters(tmp_path: Path) -> None:
    report = explained(OneNumber((10,), 2), text_items(), tmp_path)
    assert report.worst[0].saliency == ("worst-00-occlusion.png",)


def test_boxes_are_explained(tmp_path: Path) -> None:
    report = explained(BrightSquares(), box_items(), tmp_path)
    near, far = report.per_class
    assert near.recall is not None
    assert near.recall.value == 1.0
    assert far.recall is not None
    assert far.recall.value == 0.0
    assert report.metrics["false_boxes_small"] == 7.0  # 5 are far, 2 pictures show none: 20 x 20
    assert {plot.file for plot in report.plots} >= {"f1-by-confidence.png", "worst.png"}


def test_items_without_labels_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    data = image_items()
    labels = np.where(np.arange(60) < 15, -1, data.arrays.labels)
    report = explained(OneNumber((0, 4, 7), 2), unlabelled(data, labels), tmp_path)
    assert report.items_count == 45
    assert report.left_out == 0.25


@pytest.mark.parametrize("case", ["no items", "no labels"])
@pytest.mark.parametrize("kind", ["images", "anomaly", "numbers", "boxes"])
def test_of_nothing_nothing_is_said(tmp_path: Path, case: str, kind: str) -> None:
    data = {
        "images": image_items,
        "anomaly": window_items,
        "numbers": lambda: window_items(classes=("0", "1", "2")),
        "boxes": box_items,
    }[kind]()
    if case == "no items":
        data = replace(data, chosen=data.chosen[:0])
    else:
        none = None if data.arrays.boxes is None else (None,) * len(data.arrays.labels)
        arrays = replace(data.arrays, labels=np.full_like(data.arrays.labels, -1), boxes=none)
        data = replace(data, arrays=arrays)
    report = explained(BrightSquares(), data, tmp_path, validation=data.chosen[:0])
    assert report.items_count == 0
    assert report.accuracy is None
    assert report.metrics == {}
    assert report.plots == ()
    assert "nothing can be said" in report.notes[0]


def test_items_of_one_class_are_enough(tmp_path: Path) -> None:
    data = image_items()
    data = replace(data, chosen=data.chosen[::2][:2])  # All of one class
    report = explained(OneNumber((0, 4, 7), 2), data, tmp_path)
    assert report.items_count == 2
    assert "roc_area" not in report.metrics
    assert report.accuracy is not None
    assert report.accuracy.low < 0.4


@pytest.mark.parametrize("kind", ["anomaly", "numbers", "boxes", "texts"])
def test_a_single_item_of_any_kind_is_enough(tmp_path: Path, kind: str) -> None:
    network: nn.Module
    match kind:
        case "anomaly":
            network, data = OneNumber((1, 20), 1), window_items()
        case "numbers":
            network, data = OneNumber((1, 20), 1), window_items(classes=("0", "1", "2"))
        case "texts":
            network, data = OneNumber((10,), 2), text_items()
        case _:
            network, data = BrightSquares(), box_items()
    report = explained(network, replace(data, chosen=data.chosen[4:5]), tmp_path)
    assert report.items_count == 1


def test_outputs_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as raised:
        explained(Doubtful(), image_items(), tmp_path)
    assert raised.value.code == "explain.not_finite"
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as raised:
        explained(OneNumber((0, 4, 7), 5), image_items(), tmp_path)
    assert raised.value.code == "explain.labels"


def test_names_that_look_like_formulas_or_have_no_letters_are_drawn(tmp_path: Path) -> None:
    data = image_items(classes=("$x^$ {", "猫\n" + "long " * 20))
    made = msgspec.structs.replace(data.manifest, classes=data.spec.output.classes)
    assert isinstance(made, Manifest)
    explained(OneNumber((0, 4, 7), 2), replace(data, manifest=made), tmp_path)
    assert plain("猫$") == r"?\$"


def test_many_classes_are_shown_by_what_is_confused_most(tmp_path: Path) -> None:
    table = np.eye(40, dtype=np.int64) * 9
    table[3, 5], table[7, 2] = 4, 6
    drawn = draw_confusion(table, [f"class {index}" for index in range(40)])
    assert "class 7 called class 2 6 times; class 3 called class 5 4 times" in drawn.plot.alt
    assert drawn.png.startswith(b"\x89PNG")
    draw_confusion(np.eye(40, dtype=np.int64), ["same"] * 40)  # Nothing confused: no bars


def test_a_learning_curve_names_its_best_epoch() -> None:
    drawn = draw_learning_curve([(0.1, 2.0), (1.0, 1.0)], [(1.0, 0.7), (2.0, 0.6)], measure="map")
    assert "0.7000 at epoch 1." in drawn.plot.alt
    draw_learning_curve([], [], measure="map")
