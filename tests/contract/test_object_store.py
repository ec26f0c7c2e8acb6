"""What an object store promises, whichever it is."""

from pathlib import Path

import pytest

from cloud_hub.object_store import ObjectStore
from shared.errors import TransientError, UnavailableError
from tests.support.s3_server import S3Server


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        return ObjectStore(server.new_place())
    return ObjectStore(str(tmp_path / "objects") if request.param == "folder" else "memory:///")


def test_what_was_put_is_got(store: ObjectStore) -> None:
    assert store.get("a/b/c.bin") is None
    store.put("a/b/c.bin", b"one")
    assert store.get("a/b/c.bin") == b"one"
    store.put("a/b/c.bin", b"two")
    assert store.get("a/b/c.bin") == b"two"


def test_ranges_tell_the_whole_size(store: ObjectStore) -> None:
    store.put("x", bytes(range(100)))
    found = store.get_range("x", start=90, end=200)
    assert found is not None
    assert (found.object_bytes, found.data) == (100, bytes(range(90, 100)))
    assert store.get_range("x", start=100, end=200) is None
    assert store.get_range("x", start=10**12, end=10**12 + 1) is None
    assert store.get_range("y", start=0, end=10) is None


def test_an_empty_object_is_there_and_has_no_ranges(store: ObjectStore) -> None:
    store.put("x", b"")
    assert store.get("x") == b""
    assert store.get_range("x", start=0, end=10) is None


def test_what_is_deleted_is_gone_and_may_be_deleted_again(store: ObjectStore) -> None:
    store.put("a/b", b"one")
    store.delete("a/b")
    store.delete("a/b")
    assert store.get("a/b") is None


def test_paths_are_listed_by_folder(store: ObjectStore) -> None:
    for path in ("m/2", "m/1", "t/1", "m/deep/3"):
        store.put(path, b"x")
    assert store.paths("m") == ("m/1", "m/2", "m/deep/3")
    assert store.paths("none") == ()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UnavailableError) as raised:
        ObjectStore(str(tmp_path / "file" / "objects"))
    assert raised.value.code == "object_store.place"


def test_a_url_of_an_unknown_kind() -> None:
    with pytest.raises(UnavailableError):
        ObjectStore("gopher://somewhere")


def test_a_write_that_fails_may_be_tried_again(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    store.put("file", b"in the way")
    with pytest.raises(TransientError) as raised:
        store.put("file/below", b"x")
    assert raised.value.code == "object_store.failed"
