"""Arguments of the commands about datasets."""

import argparse
from pathlib import Path

PARTS = ("train", "validation", "test")
SPLITS = ("device", "site", "hour", "day", "group", "item")


def dataset_argument(parser: argparse.ArgumentParser) -> None:
    """Take a dataset's name."""
    parser.add_argument("dataset", metavar="DATASET", help="the dataset's name")


def version_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a dataset's name, and perhaps a version."""
    dataset_argument(parser)
    parser.add_argument(
        "--version", type=int, metavar="N", help="one version (default: the newest)"
    )


def _share_arguments(parser: argparse.ArgumentParser) -> None:
    for part, share in zip(PARTS, (0.7, 0.15, 0.15), strict=True):
        parser.add_argument(
            f"--{part}",
            type=float,
            default=share,
            metavar="SHARE",
            help=f"share of the {part} part (default: {share})",
        )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another draw")


def import_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what an import needs."""
    dataset_argument(parser)
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="an archive, a .csv, .npz, .json, or a folder"
    )
    parser.add_argument("--layout", metavar="LAYOUT", help="folder, csv, idx, coco, yolo, npz, …")
    parser.add_argument("--options", type=Path, metavar="FILE.toml", help="columns, windows, …")
    parser.add_argument(
        "--by",
        choices=SPLITS,
        help="split by this, whatever parts the source names (default: its parts)",
    )
    _share_arguments(parser)
    parser.add_argument("--add", action="store_true", help="keep the newest version's items too")
    parser.add_argument(
        "--keep-duplicates", action="store_true", help="keep items with the same bytes"
    )
    parser.add_argument(
        "--on-hub",
        action="store_true",
        help="SOURCE is on the hub's machine, below one of its datasets.import_roots",
    )


def collect_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what is to be done about samples of devices; nothing: say how it stands."""
    dataset_argument(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--group", metavar="GROUP", help="open the dataset to these devices")
    what.add_argument("--stop", action="store_true", help="take nothing more; what is here stays")
    what.add_argument(
        "--make-version", action="store_true", help="import what waits as the next version"
    )
    parser.add_argument(
        "--items-max", type=int, metavar="N", help="with --group: so many in all (default: 100000)"
    )
    parser.add_argument(
        "--discard", action="store_true", help="with --stop: forget what waits, too"
    )
    parser.add_argument(
        "--by", choices=SPLITS, help="with --make-version: split by this (default: device)"
    )
    _share_arguments(parser)


def shares_of(args: argparse.Namespace) -> dict[str, object]:
    """Return the shares of the parts, and the draw, as a rule has them."""
    return {name: getattr(args, name) for name in (*PARTS, "seed")}


def items_arguments(parser: argparse.ArgumentParser) -> None:
    """Take which items are to be listed."""
    version_arguments(parser)
    parser.add_argument("--part", choices=PARTS, help="only this part")
    parser.add_argument("--class", dest="class_name", metavar="CLASS", help="only this class")
    parser.add_argument("--unlabelled", action="store_true", help="only what nobody has labelled")
    parser.add_argument("--device", metavar="DEVICE", help="only from this device")
    parser.add_argument("--after", type=int, default=-1, metavar="N", help="the next page")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="how many at most")


def split_arguments(parser: argparse.ArgumentParser) -> None:
    """Take how items are split."""
    dataset_argument(parser)
    parser.add_argument(
        "--by", choices=SPLITS, default="group", help="what is never in two parts (default: group)"
    )
    _share_arguments(parser)


def label_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a file of labels."""
    dataset_argument(parser)
    parser.add_argument("labels", type=Path, metavar="LABELS.csv", help="rows of digest,label")


def evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Take whose candidates are to be measured."""
    version_arguments(parser)
    parser.add_argument("--model", required=True, metavar="MODEL", help="whose candidates")
    parser.add_argument("--checkpoint", metavar="ID", help="whose spec says input and classes")
    parser.add_argument("--items", type=int, default=10_000, metavar="N", help="at most so many")


def remove_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what is to go: one version, or everything."""
    dataset_argument(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--version", type=int, metavar="N", help="this version")
    what.add_argument("--all", action="store_true", help="the dataset with all its versions")
