"""Pure rules of releases and channels."""

import pytest

from cloud_hub.candidates.service import content_digest
from cloud_hub.releases.channel import ChannelName, parse_channel
from cloud_hub.releases.release import check_description, is_manifest, next_version
from cloud_hub.releases.tuf_metadata import object_path
from shared.errors import ContractError
from shared.model.spec import parse_spec
from shared.wire.blocks import request_blocks
from shared.wire.codec import encode
from tests.support.repository_peer import SESSION
from tests.support.tiny_models import SPEC


@pytest.mark.parametrize(
    ("paths", "version"),
    [
        ([], 1),
        (["releases/digits/1/manifest.json", "releases/digits/1/fp32.onnx"], 2),
        (["releases/digits/9/manifest.json", "releases/digits/10/manifest.json"], 11),
        (["releases/digits-two/5/manifest.json"], 1),
        (["releases/digit/5/manifest.json"], 1),
    ],
)
def test_versions_go_on_after_the_last(paths: list[str], version: int) -> None:
    assert next_version(paths, "digits") == version


def test_manifests_are_told_from_other_files() -> None:
    assert is_manifest("releases/digits/1/manifest.json")
    assert not is_manifest("releases/digits/1/fp32.onnx")
    assert not is_manifest("settings/digits/1/manifest.json")


def test_an_upload_is_known_by_all_of_its_parts() -> None:
    spec = parse_spec(SPEC.encode())
    other = parse_spec(SPEC.replace("255.0", "128.0").encode())
    digests = {
        content_digest(b"a", spec, None),
        content_digest(b"b", spec, None),
        content_digest(b"a", other, None),
        content_digest(b"a", spec, b""),
        content_digest(b"a", spec, b"golden"),
    }
    assert len(digests) == 5
    assert content_digest(b"a", parse_spec((SPEC + "\n# a remark").encode()), None) in digests


def test_integers_are_numbers_too() -> None:
    assert check_description({"epochs": 3}, "") == {"epochs": 3.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, "high"])
def test_metrics_are_finite_numbers(value: float) -> None:
    with pytest.raises(ContractError):
        check_description({"accuracy": value}, "")


def test_channels_are_two() -> None:
    assert parse_channel("beta") is ChannelName.BETA
    with pytest.raises(ContractError) as raised:
        parse_channel("nightly")
    assert "stable" in raised.value.remedy


def test_the_longest_paths_may_travel() -> None:
    """Model names of 63 characters, versions of 7 digits: the wire's limit must hold them."""
    model = "m" * 63
    path = object_path(f"releases/{model}/1000000/int8-dynamic.onnx", "0" * 64)
    encode(request_blocks(path, [0]), session_id=SESSION, sent_ms=0)
