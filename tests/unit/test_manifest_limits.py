"""What a manifest may claim of its files: a device reads golden sets into memory whole."""

import pytest
from msgspec.structs import replace

from shared.errors import ContractError
from shared.model.spec import ModelSpec, parse_spec
from shared.release.manifest import (
    ARTIFACT_BYTES_MAX,
    GOLDEN_BYTES_MAX,
    TOKENIZER_BYTES_MAX,
    FileEntry,
    Manifest,
    Variant,
    decode_manifest,
    encode_manifest,
)
from tests.support.real_fleet import SPEC_TOML


def spec() -> ModelSpec:
    return parse_spec(SPEC_TOML.encode())


def manifest(*, golden_bytes: int, path: str = "releases/tones/1/golden.npz") -> Manifest:
    def entry(path: str, file_bytes: int) -> FileEntry:
        return FileEntry(path=path, digest="0" * 64, file_bytes=file_bytes)

    variant = Variant(
        precision="fp32",
        artifact=entry("releases/tones/1/model.onnx", ARTIFACT_BYTES_MAX),
        golden=entry(path, golden_bytes),
    )
    return Manifest(
        model="tones",
        version=1,
        lineage_id="line-1",
        created_ms=0,
        spec=spec(),
        variants=(variant,),
    )


def test_a_golden_set_that_would_fill_a_devices_memory_is_refused() -> None:
    good = manifest(golden_bytes=GOLDEN_BYTES_MAX)
    assert decode_manifest(encode_manifest(good)) == good
    with pytest.raises(ContractError) as raised:
        decode_manifest(encode_manifest(manifest(golden_bytes=GOLDEN_BYTES_MAX + 1)))
    assert raised.value.code == "manifest.invalid"


def test_what_is_optional_and_not_there_is_not_in_the_bytes() -> None:
    data = encode_manifest(manifest(golden_bytes=1))
    for name in (b"tokenizer", b"folded", b"agreement", b"calibration", b"architectures"):
        assert name not in data


def test_a_tokenizer_has_a_limit_and_a_precision_is_there_once() -> None:
    good = manifest(golden_bytes=1)
    entry = FileEntry(
        path="releases/tones/1/tokenizer.json", digest="0" * 64, file_bytes=TOKENIZER_BYTES_MAX
    )
    kept = replace(good, tokenizer=entry)
    assert decode_manifest(encode_manifest(kept)) == kept
    large = replace(good, tokenizer=replace(entry, file_bytes=TOKENIZER_BYTES_MAX + 1))
    twice = replace(good, variants=good.variants * 2)
    for bad in (large, twice):
        with pytest.raises(ContractError) as raised:
            decode_manifest(encode_manifest(bad))
        assert raised.value.code == "manifest.invalid"


@pytest.mark.parametrize(
    "path",
    [
        "releases/../../etc/passwd",
        "/etc/passwd",
        "releases/tones/1/..",
        "releases/tones/1/.hidden",
        "releases//golden.npz",
        "releases/tones/1/golden.npz\n",
        "releases\\tones\\golden.npz",
        "../golden.npz",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ContractError):
        decode_manifest(encode_manifest(manifest(golden_bytes=1, path=path)))
