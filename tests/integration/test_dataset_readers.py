"""Every reader on a small source of its layout, and on the real data sets at hand."""

import gzip
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cloud_hub.datasets.cleaning import Cleaner
from cloud_hub.datasets.cleaning_facts import Facts
from cloud_hub.datasets.cleaning_report import FindingCode
from cloud_hub.datasets.manifest import ItemKind, Part
from cloud_hub.datasets.opencv_facts import facts_of
from cloud_hub.datasets.raw_item import RawBox, RawItem
from cloud_hub.datasets.readers.file_detect import detect, open_source
from cloud_hub.datasets.readers.options import (
    LabelRule,
    MissingRule,
    ReaderOptions,
    SourceLayout,
)
from shared.errors import ContractError
from shared.release.digest import digest_of
from tests.support.dataset_sources import (
    broken,
    class_folders,
    coco,
    good,
    idx,
    png,
    put,
    yolo,
)
from tests.support.requirements import require_data


def test_class_folders_tell_class_and_part(tmp_path: Path) -> None:
    reader = open_source(class_folders(tmp_path, count=2))
    items = good(reader)
    assert (reader.kind, reader.classes, len(items)) == (ItemKind.IMAGE, ("cat", "dog"), 8)
    assert [item.name for item in items] == sorted(item.name for item in items)
    assert {(i.part, i.label) for i in items if i.name.startswith("train/dog")} == {
        (Part.TRAIN, "dog")
    }
    assert items[0].data == (tmp_path / items[0].name).read_bytes()
    assert list(reader.items()) == items  # The same again


def test_metadata_wins_over_folders(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "a.png", png(1))
    put(tmp_path / "b.png", png(2))
    table = "file,label,device,captured_ms,group,part\nb.png,dog,cam-1,1700000000000,clip 1,val\n"
    put(tmp_path / "metadata.csv", table)
    first, second = good(open_source(tmp_path))
    assert (first.label, first.device, first.part) == ("dog", "cam-1", Part.VALIDATION)
    assert (first.captured_ms, first.group) == (1_700_000_000_000, "clip 1")
    assert (second.label, second.device) == ("cat", "")


def test_metadata_with_nonsense_names_its_line(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "a.png", png(1))
    put(tmp_path / "metadata.csv", "file,captured_ms\ncat/a.png,1\ncat/b.png,yesterday\n")
    with pytest.raises(ContractError, match=r"line 3.*captured_ms"):
        open_source(tmp_path)


def test_links_and_files_that_are_no_pictures_are_broken(tmp_path: Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    put(outside / "secret.png", png(9))
    put(root / "cat" / "a.png", png(1))
    put(root / "cat" / "cut.png", png(2)[:300])
    put(root / "cat" / "empty.png", b"")
    put(root / "cat" / "no.png", b"GIF89a" + bytes(100))
    put(root / "cat" / "tool.exe", b"MZ")
    (root / "cat" / "link.png").symlink_to(outside / "secret.png")
    (root / "dog").symlink_to(outside)
    reader = open_source(root)
    assert [item.name for item in good(reader)] == ["cat/a.png"]
    assert {item.name: item.reason for item in broken(reader)} == {
        "cat/cut.png": "is cut off",
        "cat/empty.png": "is empty",
        "cat/no.png": "is no PNG, JPEG or WebP",
        "cat/tool.exe": "is no PNG, JPEG or WebP",
        "cat/link.png": "is a symbolic link, or lies behind one",
        "dog": "is a symbolic link, or lies behind one",
    }


def test_a_pipe_does_not_hold_the_import(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "a.png", png(1))
    os.mkfifo(tmp_path / "cat" / "b.png")
    assert [item.reason for item in broken(open_source(tmp_path))] == ["is not a regular file"]


def test_folders_of_messages(tmp_path: Path) -> None:
    put(tmp_path / "spam" / "1.txt", "Win now")
    put(tmp_path / "ham" / "2.txt", b"\xff\xfe")
    reader = open_source(tmp_path)
    assert reader.kind is ItemKind.TEXT
    assert [(item.data, item.label) for item in good(reader)] == [(b"Win now", "spam")]
    assert [item.reason for item in broken(reader)] == ["is not UTF-8"]


def test_csv_rows_of_files_stay_within_the_source(tmp_path: Path) -> None:
    root = tmp_path / "data"
    put(tmp_path / "outside.png", png(9))
    put(root / "pictures" / "a.png", png(1))
    rows = "pictures/a.png,cat\n../outside.png,cat\n/etc/hostname,dog\nmissing.png,dog\nx\n"
    put(root / "labels.csv", "file,label\n" + rows)
    for path in (root, root / "labels.csv"):
        reader = open_source(path)
        assert [(item.name, item.label) for item in good(reader)] == [("pictures/a.png", "cat")]
        reasons = [item.reason for item in broken(reader)]
        assert reasons[:2] == ["lies outside the source"] * 2
        assert reasons[3] == "has another number of cells than the header"


def test_csv_rows_of_messages(tmp_path: Path) -> None:
    text = 'text;label\n"two\nlines";a\nplain;b\n;a\n'
    reader = open_source(put(tmp_path / "messages.csv", text))
    assert [(item.data, item.label) for item in good(reader)] == [
        (b"two\nlines", "a"),
        (b"plain", "b"),
    ]
    assert [item.reason for item in broken(reader)] == ["is empty"]


def sensor_rows(count: int, *, start: int = 0) -> str:
    return "".join(
        f"{start + i},{i},{2 * i},{'bad' if i % 4 == 3 else 'ok'}\n" for i in range(count)
    )


def test_sensor_rows_become_windows(tmp_path: Path) -> None:
    path = put(tmp_path / "s.csv", "time,a,b,label\n" + sensor_rows(10))
    reader = open_source(path, options=ReaderOptions(window=4, stride=2))
    items = good(reader)
    assert (reader.kind, reader.window_shape, len(items)) == (ItemKind.WINDOW, (4, 2), 4)
    second = np.frombuffer(items[1].data, "<f4").reshape(4, 2)
    assert second.tolist() == [[2, 4], [3, 6], [4, 8], [5, 10]]
    assert (items[1].captured_ms, items[1].label) == (5_000, "ok")
    assert len({item.group for item in items}) == 1  # They share rows


def test_the_label_rules_differ(tmp_path: Path) -> None:
    path = put(tmp_path / "s.csv", "time,a,b,label\n" + sensor_rows(8))
    labels = {}
    for rule in LabelRule:
        options = ReaderOptions(window=4, label_rule=rule, normal_label="ok")
        labels[rule] = [item.label for item in good(open_source(path, options=options))]
    assert labels == {"majority": ["ok", "ok"], "any": ["bad", "bad"], "last": ["bad", "bad"]}


@pytest.mark.parametrize(
    ("rows", "options", "firsts"),
    [
        ("0,1\n1,2\n9,3\n10,4\n11,5\n", ReaderOptions(window=2, gap_s_max=2), [1, 3]),
        ("0,1\n1,2\n2,3\n1,4\n2,5\n", ReaderOptions(window=2), [1, 4]),  # The clock went back
        ("0,1\n1,NA\n2,3\n3,4\n4,5\n", ReaderOptions(window=2), [3]),
        ("0,1\n1,\n2,3\n3,4\n", ReaderOptions(window=2, missing=MissingRule.HOLD), [1, 3]),
        ("0,1\n1,2\n2,3\n3,4\n4,5\n5,6\n", ReaderOptions(window=2, block_rows=3), [1, 4]),
        ("0,1\n1,2\n2,3\n3,4\n4,5\n5,6\n", ReaderOptions(window=2, stride=4), [1, 5]),
        ("0,1\n1,x\n2,3\n3,4\n", ReaderOptions(window=2, value_columns=("v",)), [3]),
        ("0,1\n1,2,3\n2,3\n3,4\n", ReaderOptions(window=2), [3]),
        ("0,1\n1,inf\n2,3\n3,4\n", ReaderOptions(window=2), [3]),
    ],
)
def test_windows_never_cross_what_parts_them(
    tmp_path: Path, rows: str, options: ReaderOptions, firsts: list[float]
) -> None:
    path = put(tmp_path / "s.csv", "time,v\n" + rows)
    windows = [np.frombuffer(i.data, "<f4") for i in good(open_source(path, options=options))]
    assert [window[0] for window in windows] == firsts


def test_devices_that_alternate_are_series_of_their_own(tmp_path: Path) -> None:
    rows = "".join(f"{i},{'ab'[i % 2]},{i}\n" for i in range(8))
    path = put(tmp_path / "s.csv", "time,device,v\n" + rows)
    items = good(open_source(path, options=ReaderOptions(window=4)))
    assert [(i.device, np.frombuffer(i.data, "<f4").tolist()) for i in items] == [
        ("a", [0, 2, 4, 6]),
        ("b", [1, 3, 5, 7]),
    ]


def test_sensor_files_below_class_folders(tmp_path: Path) -> None:
    for name in ("normal", "faulty"):
        put(tmp_path / "train" / name / "1.csv", "t,x\n" + "".join(f"{i},{i}\n" for i in range(4)))
    put(tmp_path / "train" / "faulty" / "2.csv", "t,other\n0,1\n")
    reader = open_source(tmp_path, options=ReaderOptions(window=4))
    assert [(i.label, i.part) for i in good(reader)] == [
        ("faulty", Part.TRAIN),
        ("normal", Part.TRAIN),
    ]
    assert "no column 'x'" in broken(reader)[0].reason


@pytest.mark.parametrize("packed", [True, False])
def test_idx_pictures_are_kept_without_loss(tmp_path: Path, packed: bool) -> None:
    root, pixels = idx(tmp_path, packed=packed)
    items = good(open_source(root))
    for item, expected in zip(items, pixels, strict=True):
        decoded = cv2.imdecode(np.frombuffer(item.data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(decoded, expected)
    assert [item.label for item in items] == ["0", "1", "2", "0", "1"]
    assert {item.part for item in items} == {Part.TRAIN}
    named = good(open_source(root, options=ReaderOptions(classes=("a", "b", "c"))))
    assert named[1].label == "b"


def test_idx_that_is_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    root, _ = idx(tmp_path, packed=False)
    path = root / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-30])
    reader = open_source(root)
    assert len(good(reader)) == 3
    assert broken(reader)[0].reason == "is cut off, as are all after it"


def test_idx_with_fewer_labels_is_refused(tmp_path: Path) -> None:
    root, _ = idx(tmp_path, packed=False)
    path = root / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ContractError, match="4 labels, and there are 5 pictures"):
        open_source(root)


def test_coco_boxes_are_shares_of_the_picture(tmp_path: Path) -> None:
    reader = open_source(coco(tmp_path))
    first, second = good(reader)
    assert reader.classes == ("person", "car")  # By id
    assert first.boxes == (
        RawBox("car", 0.1, 0.1, 0.3, 0.6),
        RawBox("person", 0.5, 0.0, 1.0, 1.0),
    )
    assert (second.boxes, second.part) == ((), Part.VALIDATION)
    assert "no such file" in broken(reader)[0].reason


def test_coco_with_nonsense_names_the_field(tmp_path: Path) -> None:
    labels = {
        "images": [{"id": 1, "file_name": "a.png", "width": 0, "height": 3}],
        "categories": [],
    }
    path = put(tmp_path / "labels.json", json.dumps(labels))
    with pytest.raises(ContractError, match=r"\$\.images\[0\]\.width"):
        open_source(path)


def test_yolo_tells_empty_from_unlabelled(tmp_path: Path) -> None:
    reader = open_source(yolo(tmp_path))
    assert reader.classes == ("car", "a b")
    assert [item.boxes for item in good(reader)] == [
        (RawBox("a b", 0.375, 0.25, 0.625, 0.75),),
        (),
        None,
    ]
    assert "line 2" in broken(reader)[0].reason


def test_npz_as_evaluation_sets_are(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3), dtype=np.uint8)
    path = tmp_path / "set.npz"
    np.savez_compressed(
        path, items=pictures, labels=np.array([0, 1, 1, 0]), slices=np.array(["x", "y", "y", "z"])
    )
    reader = open_source(path)
    items = good(reader)
    decoded = cv2.imdecode(np.frombuffer(items[2].data, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded, pictures[2])
    assert [(item.label, item.group) for item in items] == [
        ("0", "x"),
        ("1", "y"),
        ("1", "y"),
        ("0", "z"),
    ]
    windows = np.arange(24, dtype=np.float64).reshape(2, 4, 3)
    np.savez(tmp_path / "w.npz", items=windows)
    reader = open_source(tmp_path / "w.npz")
    assert (reader.kind, reader.window_shape) == (ItemKind.WINDOW, (4, 3))
    assert good(reader)[1].data == windows[1].astype("<f4").tobytes()


def test_npz_with_pickles_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", items=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ContractError, match="objects"):
        open_source(tmp_path / "a.npz")


def test_cvat_and_label_studio_are_read_with_their_pictures(tmp_path: Path) -> None:
    put(tmp_path / "cvat" / "images" / "a.png", png(1, width=10, height=10))
    put(
        tmp_path / "cvat" / "annotations.xml",
        "<annotations><meta><job><labels><label><name>car</name></label></labels></job></meta>"
        '<image id="0" name="a.png" width="10" height="10"><box label="car" xtl="1" ytl="2" '
        'xbr="3" ybr="4"/></image><image id="1" name="b.png" width="10" height="10">'
        '<polygon label="car" points="1,2;3,4"/></image></annotations>',
    )
    reader = open_source(tmp_path / "cvat")
    assert good(reader)[0].boxes == (RawBox("car", 0.1, 0.2, 0.3, 0.4),)
    assert broken(reader)[0].reason == "has a polygon, which is no box"
    put(tmp_path / "ls" / "upload" / "12ab-a.png", png(1))
    task = {
        "id": 5,
        "data": {"image": "/data/upload/1/12ab-a.png"},
        "annotations": [
            {"result": [{"type": "choices", "value": {"choices": ["cat"]}, "id": "x"}]},
            {"result": [], "was_cancelled": True},
        ],
    }
    put(tmp_path / "ls" / "export.json", json.dumps([task]))
    assert [item.label for item in good(open_source(tmp_path / "ls"))] == ["cat"]


@pytest.mark.parametrize(
    "xml",
    [
        '<!DOCTYPE a [<!ENTITY x "y">]><annotations>&x;</annotations>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>',
        "<annotations>" + "<a>" * 100 + "</a>" * 100 + "</annotations>",
        "<other/>",
        "<annotations><image name='a' width='0' height='3'/></annotations>",
    ],
)
def test_xml_that_reaches_out_is_refused(tmp_path: Path, xml: str) -> None:
    with pytest.raises(ContractError, match="cvat"):
        open_source(put(tmp_path / "a.xml", xml))


def test_notes_beside_pictures_are_no_labels(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "a.png", png(1))
    put(tmp_path / "notes.json", '{"camera": "north"}')
    put(tmp_path / "setup.xml", "<View/>")
    put(tmp_path / "README.md", "# Cats")
    reader = open_source(tmp_path)
    assert [item.label for item in good(reader)] == ["cat"]
    assert broken(reader) == []


def test_what_a_source_is_not(tmp_path: Path) -> None:
    with pytest.raises(ContractError) as caught:
        open_source(tmp_path / "nothing")
    assert caught.value.code == "dataset.missing"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ContractError) as caught:
        open_source(tmp_path / "empty")
    assert caught.value.code == "dataset.layout"
    for layout in SourceLayout:
        with pytest.raises(ContractError) as caught:
            open_source(tmp_path / "empty", layout=layout)
        assert caught.value.remedy
    with pytest.raises(ContractError, match="no layout 'zip'"):
        open_source(tmp_path / "empty", layout="zip")


def test_a_long_name_and_odd_bytes_still_fit_the_manifest(tmp_path: Path) -> None:
    put(tmp_path / "cat" / ("x" * 180 + ".png"), png(1))
    odd = os.fsdecode(b"b\xff\n.png")
    put(tmp_path / "cat" / odd, png(2))
    names = [item.name for item in good(open_source(tmp_path))]
    assert all(len(name) <= 120 and name.isprintable() for name in names)


def test_fashion_mnist(tmp_path: Path) -> None:
    folder = require_data("data/fashion-mnist")
    reader = open_source(folder)
    assert (detect(folder), reader.classes) == (SourceLayout.IDX, tuple(map(str, range(10))))
    items = []
    for item in reader.items():
        items.append(item)
        if len(items) == 300:
            break
    assert {item.part for item in items if not hasattr(item, "reason")} == {Part.TEST}
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        expected = np.frombuffer(file.read(16 + 300 * 784)[16:], np.uint8).reshape(300, 28, 28)
    decoded = [cv2.imdecode(np.frombuffer(i.data, np.uint8), 0) for i in items]
    assert np.array_equal(np.stack(decoded), expected)


@pytest.mark.slow
def test_nab(tmp_path: Path) -> None:
    whole, folder = require_data("data/nab"), tmp_path / "nab"
    shutil.copytree(whole / "labels", folder / "labels")
    for name in ("realTraffic", "artificialNoAnomaly"):
        shutil.copytree(whole / "data" / name, folder / "data" / name)
    assert detect(folder) is SourceLayout.NAB
    items = good(open_source(folder, options=ReaderOptions(window=128)))
    labels = {label: sum(i.label == label for i in items) for label in ("normal", "anomaly")}
    assert len({item.group for item in items}) == 12
    assert {item.site for item in items} == {"realTraffic", "artificialNoAnomaly"}
    assert not any(i.label == "anomaly" for i in items if i.site == "artificialNoAnomaly")
    assert labels["anomaly"] > 10
    assert labels["normal"] > 200


@pytest.mark.slow
def test_beijing_air() -> None:
    folder = require_data("data/beijing-air-12-stations")
    options = ReaderOptions(
        window=24,
        device_column="station",
        time_columns=("year", "month", "day", "hour"),
        value_columns=("PM2.5", "TEMP", "PRES"),
        gap_s_max=3600,
        missing=MissingRule.HOLD,
    )
    path = folder / "PRSA_Data_Gucheng_20130301-20170228.csv.gz"
    reader = open_source(path, options=options)
    items = good(reader)
    assert reader.window_shape == (24, 3)
    assert len(items) > 1_300  # 1461 days, some of them with holes
    first = np.frombuffer(items[0].data, "<f4").reshape(24, 3)
    assert first[0].tolist() == pytest.approx([6, 0.1, 1021.1])
    assert (items[0].device, items[0].captured_ms) == ("Gucheng", 1_362_178_800_000)
    assert {item.reason for item in broken(reader)} >= {"has no value for PM2.5"}


@pytest.mark.slow
def test_frames_of_one_clip_look_alike_and_of_two_do_not() -> None:
    cleaner = Cleaner(ItemKind.IMAGE)
    for clip in ("car-detection", "bottle-detection"):
        capture = cv2.VideoCapture(str(require_data(f"data/video/{clip}.mp4")))
        for index in range(2):
            is_read, frame = capture.read()
            assert is_read
            # Twice the same scene: as it is, and smaller and lossy.
            for end, pixels in ((".png", frame), (".jpg", cv2.resize(frame, None, fx=0.5, fy=0.5))):
                data = cv2.imencode(end, pixels)[1].tobytes()
                facts = facts_of(ItemKind.IMAGE, data)
                assert isinstance(facts, Facts)
                cleaner.see(RawItem(data, f"{clip}/{index}{end}"), digest_of(data), facts)
        capture.release()
    (found,) = [f for f in cleaner.report().findings if f.code is FindingCode.NEAR_DUPLICATE]
    assert set(found.examples) >= {"car-detection/0.jpg", "bottle-detection/0.jpg"}
    assert not {"car-detection/0.png", "bottle-detection/0.png"} & set(found.examples)


@pytest.mark.slow
def test_frames_of_a_real_video(tmp_path: Path) -> None:
    capture = cv2.VideoCapture(str(require_data("data/video/car-detection.mp4")))
    for index, suffix in enumerate((".jpg", ".webp", ".png")):
        is_read, frame = capture.read()
        assert is_read
        is_done, data = cv2.imencode(suffix, frame)
        assert is_done
        put(tmp_path / "car" / f"{index}{suffix}", data.tobytes())
        put(tmp_path / "cut" / f"{index}{suffix}", data.tobytes()[: len(data) * 2 // 3])
    capture.release()
    reader = open_source(tmp_path)
    assert [item.label for item in good(reader)] == ["car"] * 3
    assert [item.reason for item in broken(reader)] == ["is cut off"] * 3
