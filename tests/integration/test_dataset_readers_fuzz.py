"""Every parser on bytes that are no such file: an error that says so or Broken, nothing else."""

import gzip
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_hub.datasets.label_tools.yaml_subset import parse_yaml, quoted
from cloud_hub.datasets.opencv_facts import facts_of
from cloud_hub.datasets.raw_item import RawItem
from cloud_hub.datasets.readers.file_detect import open_source
from cloud_hub.datasets.readers.image_header import read_header
from cloud_hub.datasets.readers.options import ReaderOptions, SourceLayout
from shared.errors import ContractError
from tests.support.dataset_sources import coco, idx, png, put, yolo

OPTIONS = ReaderOptions(window=2)
ITEMS_MAX = 10_000


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(
        file,
        items=np.zeros((2, 4, 4), np.uint8),
        labels=np.array([0, 1]),
        slices=np.array(["a", "b"]),
    )
    return file.getvalue()


def coco_bytes(folder: Path) -> bytes:
    return (coco(folder) / "annotations" / "instances_val2017.json").read_bytes()


def idx_bytes(folder: Path, name: str) -> bytes:
    root, _ = idx(folder, packed=False)
    return (root / name).read_bytes()


# A file of each layout: where it lies, and what a good one holds.
FILES: dict[str, tuple[SourceLayout, str, Callable[[Path], bytes]]] = {
    "coco": (SourceLayout.COCO, "a.json", coco_bytes),
    "label-studio": (
        SourceLayout.LABEL_STUDIO,
        "a.json",
        lambda _: (
            b'[{"data": {"text": "hi"}, "annotations": [{"result": [{"type": "choices", '
            b'"value": {"choices": ["a"]}}]}]}]'
        ),
    ),
    "cvat": (
        SourceLayout.CVAT,
        "a.xml",
        lambda _: (
            b"<annotations><meta><task><labels><label><name>a</name></label></labels></task>"
            b'</meta><image name="a.png" width="3" height="3"><box label="a" xtl="0" ytl="0" '
            b'xbr="1" ybr="1"/><tag label="a"/></image></annotations>'
        ),
    ),
    "yaml": (SourceLayout.YOLO, "data.yaml", lambda _: b"names: ['a', \"b\", c]\nnc: 3\n"),
    "boxes": (SourceLayout.YOLO, "labels/train/0.txt", lambda _: b"0 0.5 0.5 0.1 0.1\n"),
    "npz": (SourceLayout.NPZ, "a.npz", lambda _: npz_bytes()),
    "images": (
        SourceLayout.IDX,
        "train-images-idx3-ubyte",
        lambda folder: idx_bytes(folder, "train-images-idx3-ubyte"),
    ),
    "labels": (
        SourceLayout.IDX,
        "train-labels-idx1-ubyte",
        lambda folder: idx_bytes(folder, "train-labels-idx1-ubyte"),
    ),
    "rows": (SourceLayout.CSV, "a.csv", lambda _: b"time,v,label\n1,2,a\n2,3,b\n3,4,a\n"),
    "packed": (SourceLayout.CSV, "a.csv.gz", lambda _: gzip.compress(b"time,v\n1,2\n2,3\n")),
    "messages": (SourceLayout.CSV, "a.csv", lambda _: b'text,label\n"a\nb",x\nc,y\n'),
    "metadata": (SourceLayout.FOLDER, "metadata.csv", lambda _: b"file,part\na/0.png,test\n"),
    "picture": (SourceLayout.FOLDER, "a/0.png", lambda _: png(0, width=3, height=3)),
    "nab": (
        SourceLayout.NAB,
        "labels/combined_windows.json",
        lambda _: b'{"a/b.csv": [["2014-04-10 07:15:00", "2014-04-11 16:45:00"]]}',
    ),
}


def surround(root: Path, name: str) -> None:
    """Write what lies beside the file, so that its reader gets that far."""
    if name in {"yaml", "boxes"}:
        yolo(root)
    elif name in {"images", "labels"}:
        idx(root, packed=False)
    elif name == "metadata":
        put(root / "a" / "0.png", png(0))
    elif name == "nab":
        put(root / "data" / "a" / "b.csv", "timestamp,value\n2014-04-10 07:15:00,1\n")


def check_error(error: ContractError) -> None:
    assert error.code.startswith("dataset.")
    assert error.remedy


def read_all(root: Path, layout: SourceLayout) -> None:
    """Read a source to its end, and look at every item as an import does."""
    try:
        reader = open_source(root, layout=layout, options=OPTIONS)
        for count, item in enumerate(reader.items()):
            assert count < ITEMS_MAX
            assert len(item.name) <= 120
            item.name.encode()
            if isinstance(item, RawItem):
                facts_of(reader.kind, item.data, reader.window_shape)
                assert item.label is None or item.label.isprintable()
    except ContractError as error:
        check_error(error)


Mutation = st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=8))


def mutated(data: bytes, mutations: list[tuple[float, int, bytes]]) -> bytes:
    """Return bytes with pieces replaced, put in, taken out, or cut off."""
    for share, kind, piece in mutations:
        at = int(share * len(data))
        match kind:
            case 0:
                data = data[:at] + piece + data[at + len(piece) :]
            case 1:
                data = data[:at] + piece + data[at:]
            case 2:
                data = data[:at] + data[at + len(piece) :]
            case _:
                data = data[: max(at, 1)]
    return data


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@given(mutations=st.lists(Mutation, min_size=1, max_size=4))
@settings(max_examples=40, deadline=5_000, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_files(name: str, mutations: list[tuple[float, int, bytes]]) -> None:
    layout, file, make = FILES[name]
    with tempfile.TemporaryDirectory() as folder:
        data = make(Path(folder) / "good")
        root = Path(folder) / "source"
        root.mkdir()
        surround(root, name)
        read_all(put(root / file, mutated(data, mutations)).parents[file.count("/")], layout)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@given(data=st.binary(max_size=200))
@settings(max_examples=15, deadline=5_000, suppress_health_check=[HealthCheck.too_slow])
def test_arbitrary_bytes(name: str, data: bytes) -> None:
    layout, file, _ = FILES[name]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        surround(root, name)
        put(root / file, data)
        read_all(root, layout)


@given(
    st.binary(max_size=64),
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFFabcdWEBP"]),
)
def test_headers_of_pictures(data: bytes, magic: bytes) -> None:
    header = read_header(magic + data)
    assert header is None or (header.width > 0 and header.height > 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)))
def test_names_survive_the_yaml_we_write(names: list[str]) -> None:
    lines = "".join(f"  {index}: {quoted(name)}\n" for index, name in enumerate(names))
    told = parse_yaml("nc: 1\nnames:\n" + lines)["names"]
    assert told == ({str(index): name for index, name in enumerate(names)} or "")


def test_brackets_may_span_lines() -> None:
    text = "nc: 3\nnames: ['a',  # the first\n        \"b\",\n   c d]\nval: x\n"
    assert parse_yaml(text) == {"nc": "3", "names": ["a", "b", "c d"], "val": "x"}


@pytest.mark.parametrize(
    "text",
    ["names: [a, [b]]\n", "names: [a\n", "names: &x [a]\n", "names: !!python/object:x\n", "a\n",
     "names: {0: a, 1}\n", "- a\n", "names: a\n  b:\n    c: d\n", "a: 1\na: 2\n"],
)  # fmt: skip
def test_more_yaml_than_is_needed_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d"):
        parse_yaml(text)


@pytest.mark.slow
def test_long_lines_are_read_in_bounded_time(tmp_path: Path) -> None:
    for text in ("names: [" + " " * 2_000_000, "a" + " " * 2_000_000, "names: [" + "a," * 500_000):
        with pytest.raises(ValueError, match=r"line 1"):
            parse_yaml(text)
    bomb = gzip.compress(b"time,v\n" + b"1" * (8 << 20))
    read_all(put(tmp_path / "bomb.csv.gz", bomb).parent, SourceLayout.CSV)
