"""The explaining process: a checkpoint and a dataset version in, a report out, within limits."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cloud_hub.datasets.manifest import (
    Item,
    ItemKind,
    Manifest,
    Part,
    encode_manifest,
    manifest_path,
    pack_path,
)
from cloud_hub.explain.answers import decode_answers
from cloud_hub.explain.explain_files import ANSWERS, ExplainSettings, ExplainTask
from cloud_hub.explain.process_explainer import explain_checkpoint
from cloud_hub.object_store import ObjectStore
from shared.errors import ContractError, RefusedError
from shared.model.network import ConvolutionNetwork, NetworkSpec
from shared.model.torch_networks import build_network
from shared.model.weights import encode_weights
from shared.release.digest import digest_of
from tests.support.explained_items import image_items

pytestmark = pytest.mark.slow
NETWORK = NetworkSpec(architecture=ConvolutionNetwork(channels=(4,), hidden=8))
PARTS = (Part.TRAIN, Part.VALIDATION, Part.TEST)


@pytest.fixture
def stored(tmp_path: Path) -> ExplainTask:
    """A dataset version of 30 pictures in a store, 10 of each part, and the task to explain it."""
    data, objects = image_items(30), ObjectStore(str(tmp_path / "objects"))
    files = [cv2.imencode(".png", pixels)[1].tobytes() for pixels in data.arrays.items]
    pack = b"".join(files)
    starts = np.cumsum([0, *map(len, files)])
    items = tuple(
        Item(
            digest=hashlib.sha256(file).hexdigest(),
            pack=digest_of(pack),
            start=int(starts[index]),
            bytes_count=len(file),
            part=PARTS[index % 3],
            name=f"{index}.png",
            label=int(data.arrays.labels[index]),
        )
        for index, file in enumerate(files)
    )
    manifest = Manifest(
        dataset="shelf", kind=ItemKind.IMAGE, classes=("dark", "bright"), items=items
    )
    encoded = encode_manifest(manifest)
    objects.put(pack_path(digest_of(pack)), pack)
    objects.put(manifest_path(digest_of(encoded)), encoded)
    return ExplainTask(
        spec=data.spec,
        network=NETWORK,
        objects=str(tmp_path / "objects"),
        manifest=digest_of(encoded),
    )


def weights(task: ExplainTask, network: NetworkSpec = NETWORK) -> bytes:
    torch.set_num_threads(1)
    state = build_network(network, task.spec, seed=1).state_dict()
    return encode_weights({name: tensor.numpy() for name, tensor in state.items()})


def test_any_checkpoint_is_explained_on_any_version(stored: ExplainTask, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    report = explain_checkpoint(folder, stored, weights(stored))
    assert report.part == "test"
    assert report.items_count == 10
    assert report.manifest == stored.manifest
    assert "temperature" in report.metrics  # From the validation part
    assert all((folder / plot.file).stat().st_size > 1000 for plot in report.plots)
    assert decode_answers((folder / ANSWERS).read_bytes()).is_right.size == 10
    assert not (folder / "weights.npz").exists()


def test_what_cannot_be_explained_says_why(stored: ExplainTask, tmp_path: Path) -> None:
    other = NetworkSpec(architecture=ConvolutionNetwork(channels=(8,), hidden=8))
    with pytest.raises(ContractError) as raised:
        explain_checkpoint(tmp_path, stored, weights(stored, other))
    assert raised.value.code == "weights.misfit"
    assert not (tmp_path / "report.json").exists()


def test_a_process_that_takes_too_much_is_ended(stored: ExplainTask, tmp_path: Path) -> None:
    few = ExplainTask(
        spec=stored.spec,
        network=stored.network,
        objects=stored.objects,
        manifest=stored.manifest,
        settings=ExplainSettings(explain_s_max=1),  # Importing torch took more than that
    )
    with pytest.raises(RefusedError) as raised:
        explain_checkpoint(tmp_path, few, weights(stored))
    assert raised.value.code == "explain.failed"
    assert "processor time" in raised.value.message
