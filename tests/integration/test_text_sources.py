"""LinesSource on real files; texts as they are told apart."""

import threading
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.sources.file_lines import LinesSource
from edge_agent.sources.item import TextItem
from edge_agent.sources.texts import to_text
from shared.errors import ContractError
from shared.pipeline.sources import LinesSettings
from tests.support.manual_clock import ManualClock

NEVER = threading.Event()


def source_of(
    path: Path, data: bytes, clock: ManualClock | None = None, **options: object
) -> LinesSource:
    path = path / "a.txt"
    path.write_bytes(data)
    settings = LinesSettings(path=str(path), **options)  # type: ignore[arg-type]
    return LinesSource(settings, clock or ManualClock())


def items_of(source: LinesSource, count: int = 100) -> list[TextItem]:
    source.open()
    found = []
    while len(found) < count and (item := source.read(NEVER)) is not None:
        found.append(item)
    source.close()
    return found


def open_and_read(source: LinesSource) -> None:
    source.open()
    source.read(NEVER)


def test_each_line_is_a_text(tmp_path: Path) -> None:
    source = source_of(tmp_path, "Grüße\r\n\n  two words  \nlast".encode())
    found = items_of(source)
    assert [(item.sequence, item.text) for item in found] == [
        (0, "Grüße"), (1, "two words"), (2, "last"),
    ]  # fmt: skip
    assert source.bad_messages_count == 0


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_what_is_no_text_or_too_long_is_counted_and_left_out(tmp_path: Path, end: bytes) -> None:
    lines = [b"12345678", b"\xff\xfe", b"123456789", b"x" * 500_000, b"ok"]
    source = source_of(tmp_path, end.join(lines), text_bytes_max=8)
    assert [(item.sequence, item.text) for item in items_of(source)] == [(0, "12345678"), (4, "ok")]
    assert source.bad_messages_count == 3


def test_at_a_rate_and_over_again(tmp_path: Path) -> None:
    clock = ManualClock()
    source = source_of(tmp_path, b"a\nb\n", clock, rate_hz=4.0, loop=True)
    found = items_of(source, 5)
    assert [item.text for item in found] == ["a", "b", "a", "b", "a"]
    assert [item.sequence for item in found] == [0, 1, 2, 3, 4]
    assert [item.captured_s - 1000.0 for item in found] == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xff\n"])
def test_a_file_without_a_text_is_told_not_read_for_ever(tmp_path: Path, data: bytes) -> None:
    with (
        closing(source_of(tmp_path, data, loop=True)) as source,
        pytest.raises(ContractError) as caught,
    ):
        open_and_read(source)
    assert caught.value.code == "source.empty"


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    source = LinesSource(LinesSettings(path=str(tmp_path / "no.txt")), ManualClock())
    with pytest.raises(ContractError, match="Check the path") as caught:
        source.open()
    assert caught.value.code == "source.missing"


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"hello", "hello"), (b" \n", None), (b"", None), (b"\xc3", None), (b"123456789", None)],
)
def test_a_text_is_whole_utf_8_of_some_length(data: bytes, text: str | None) -> None:
    assert to_text(data, bytes_max=8) == text
