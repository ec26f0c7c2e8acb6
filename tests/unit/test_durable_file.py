"""write_durably and create_durably: all or nothing, with the permissions asked for."""

import os
from pathlib import Path

import pytest

from shared.durable_file import (
    create_durably,
    make_folder,
    make_private_folder,
    write_durably,
)
from shared.errors import TransientError


def test_the_content_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_durably(path, b"old")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_durably(tmp_path / "public", b"", mode=0o644)
        write_durably(tmp_path / "secret", b"", mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "taken"  # A folder cannot be replaced by a file.
    folder.mkdir()
    with pytest.raises(TransientError) as raised:
        write_durably(folder, b"new")
    assert raised.value.code == "disk.write_failed"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="absent"):
        write_durably(tmp_path / "absent" / "state.json", b"")


def test_creating_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert create_durably(path, b"first", mode=0o600)
    assert not create_durably(path, b"second", mode=0o600)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b", mode=0o700)
    make_folder(tmp_path / "a" / "b", mode=0o700)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [None, 0o755, 0o777, 0o700])
def test_a_private_folder_is_its_users_alone_whoever_made_it(
    tmp_path: Path, mode: int | None
) -> None:
    path = tmp_path / "state"
    before = os.umask(0)
    try:
        if mode is not None:
            path.mkdir(mode=mode)
        make_private_folder(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o700
