"""A device's own labelled samples: folders and .npz, split for good, scaled as inference does."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.training.opencv_samples import load_samples
from edge_agent.training.settings import SampleFormat, SampleSettings
from shared.errors import RefusedError
from shared.model.opencv_resize import FrameResizer
from shared.model.preprocess import to_tensor
from shared.model.spec import ImageInput, parse_spec

IMAGES = parse_spec(
    b"""
model = "digits"
task = "classification"
input = {kind = "image", width = 12, height = 10, colour = "gray", mean = [3.0], scale = [255.0]}
output = {decoder = "logits", classes = ["cat", "dog"]}
"""
)
HEALTH = parse_spec(
    b"""
model = "bearing"
task = "anomaly"
input = {kind = "window", samples = 16, channels = 2}
output = {decoder = "reconstruction", threshold = 1.0}
"""
)
RANDOM = np.random.default_rng(4)


def settings(path: Path, form: SampleFormat, *, model: str = "digits") -> SampleSettings:
    return SampleSettings(model=model, path=str(path), format=form, held_out_share=0.3)


def pictures(count: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (count, 20, 24, 3), np.uint8)


def write_folder(folder: Path, frames: np.ndarray, name: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for frame in frames:
        number = len(list((folder / name).iterdir()))
        cv2.imwrite(str(folder / name / f"{number:04d}.png"), frame)


def test_class_folders_give_every_picture_once_with_its_class(tmp_path: Path) -> None:
    write_folder(tmp_path, pictures(30), "cat")
    write_folder(tmp_path, pictures(20), "dog")
    write_folder(tmp_path, pictures(5), "horse")  # No class of the model
    found = load_samples(settings(tmp_path, SampleFormat.FOLDER), IMAGES)
    labels = np.concatenate([found.training.labels, found.held_out.labels])
    assert np.bincount(labels).tolist() == [30, 20]
    assert found.training.items.shape[1:] == (1, 10, 12)
    assert 3 <= len(found.held_out.items) <= 30


def test_a_sample_never_changes_sides(tmp_path: Path) -> None:
    frames = pictures(60)
    np.savez(tmp_path / "few.npz", items=frames[:30], labels=np.zeros(30, np.int64))
    np.savez(tmp_path / "all.npz", items=frames[::-1], labels=np.zeros(60, np.int64))
    few = load_samples(settings(tmp_path / "few.npz", SampleFormat.NPZ), IMAGES)
    everything = load_samples(settings(tmp_path / "all.npz", SampleFormat.NPZ), IMAGES)
    sides = [{item.tobytes() for item in part.items} for part in (few.training, few.held_out)]
    later = [
        {item.tobytes() for item in part.items}
        for part in (everything.training, everything.held_out)
    ]
    assert all(sides)
    assert sides[0] <= later[0]
    assert sides[1] <= later[1]
    assert not later[0] & later[1]


def test_pictures_are_scaled_exactly_as_inference_does(tmp_path: Path) -> None:
    frames = pictures(10)
    np.savez(tmp_path / "some.npz", items=frames, labels=np.arange(10) % 2)
    found = load_samples(settings(tmp_path / "some.npz", SampleFormat.NPZ), IMAGES)
    assert isinstance(IMAGES.input, ImageInput)
    resizer = FrameResizer(IMAGES.input)
    expected = {to_tensor(resizer.resize(frame)[0], IMAGES)[0].tobytes() for frame in frames}
    got = {item.tobytes() for part in (found.training, found.held_out) for item in part.items}
    assert got == expected


def test_windows_need_no_labels_where_the_model_reconstructs_them(tmp_path: Path) -> None:
    windows = RANDOM.normal(size=(25, 16, 2)).astype(np.float32)
    np.savez(tmp_path / "windows.npz", items=windows)
    form = SampleFormat.NPZ
    found = load_samples(settings(tmp_path / "windows.npz", form, model="bearing"), HEALTH)
    assert found.training.labels is None
    assert found.training.items.shape[1:] == (2, 16)
    assert len(found.training.items) + len(found.held_out.items) == 25


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"items": pictures(4)}, "labels"),
        ({"items": pictures(4), "labels": np.zeros(3, np.int64)}, "labels"),
        ({"items": pictures(4), "labels": np.array([0, 1, 2, 0])}, "below 2"),
        ({"items": pictures(4), "labels": np.zeros(4)}, "whole numbers"),
        ({"items": pictures(4) / 255.0, "labels": np.zeros(4, np.int64)}, "not uint8"),
        ({"items": pictures(1)[0, 0], "labels": np.zeros(24, np.int64)}, "(24, 3)"),
        ({"labels": np.zeros(4, np.int64)}, "items"),
    ],
)
def test_wrong_samples_are_refused_with_the_path_and_a_remedy(
    tmp_path: Path, arrays: dict[str, np.ndarray], part: str
) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(RefusedError) as caught:
        load_samples(settings(path, SampleFormat.NPZ), IMAGES)
    assert caught.value.code == "samples.invalid"
    assert str(path) in caught.value.message
    assert part in caught.value.message
    assert "learning.samples" in caught.value.remedy


@pytest.mark.parametrize("form", SampleFormat)
def test_samples_that_are_not_there_are_named(tmp_path: Path, form: SampleFormat) -> None:
    with pytest.raises(RefusedError) as caught:
        load_samples(settings(tmp_path / "gone", form), IMAGES)
    assert caught.value.code == "samples.missing"
    assert str(tmp_path / "gone") in caught.value.message
    assert "learning.samples" in caught.value.remedy
