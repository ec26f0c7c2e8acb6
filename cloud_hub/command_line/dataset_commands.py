"""Commands about datasets: in, looked at, labelled, split, and out to the gate."""

import argparse
import csv
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cloud_hub.command_line.commands import Context, open_context
from cloud_hub.command_line.dataset_answers import (
    Dataset,
    Datasets,
    Imported,
    ItemRow,
    ItemRows,
    Report,
    Version,
    Versions,
)
from cloud_hub.command_line.dataset_arguments import (
    PARTS,
    dataset_argument,
    evaluation_arguments,
    import_arguments,
    items_arguments,
    label_arguments,
    remove_arguments,
    split_arguments,
    version_arguments,
)
from cloud_hub.command_line.evaluation_commands import EvaluationSet
from cloud_hub.command_line.output import Output, clock_text
from shared.command_line import Command
from shared.errors import ContractError
from shared.exit_codes import DONE

HEADING = "Datasets"
BASE = "/api/v1/datasets"
FINDINGS_SHOWN_MAX = 30
LABEL_ROWS_MAX = 100_000
_ODD = re.compile(r"[^A-Za-z0-9_.-]+")


def list_datasets(args: argparse.Namespace) -> int:
    """List datasets."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get(BASE, Datasets)
    rows = [
        (
            each.name,
            each.kind,
            str(each.newest.version) if each.newest else "",
            f"{each.newest.items_count:,}" if each.newest else "",
            f"{each.newest.labelled_count:,}" if each.newest else "",
            str(len(each.classes)),
            clock_text(each.newest.created_ms) if each.newest else "",
        )
        for each in answer.value.datasets
    ]
    empty = "There is no dataset yet. Next: cloud-hub datasets import cats cats.zip"
    columns = ("dataset", "kind", "version#", "items#", "labelled#", "classes#", "newest")
    context.output.table(columns, rows, empty=empty)
    context.output.result(answer.json)
    return DONE


def show_dataset(args: argparse.Namespace) -> int:
    """Show a dataset and its versions."""
    context = open_context(args)
    with context.hub as hub:
        found = hub.get(f"{BASE}/{args.dataset}", Dataset)
        answer = hub.get(f"{BASE}/{args.dataset}/versions", Versions)
    if found.value.newest is not None:
        _show(context.output, found.value.newest)
        context.output.say("")
    rows = [
        (
            str(each.version),
            clock_text(each.created_ms),
            f"{each.items_count:,}",
            f"{each.labelled_count:,}",
            _parts(each),
            each.note,
        )
        for each in answer.value.versions
    ]
    columns = ("version#", "made", "items#", "labelled#", "train/validation/test", "how")
    context.output.table(columns, rows, empty="It has no version any more.")
    context.output.result(found.json)
    return DONE


def import_dataset(args: argparse.Namespace) -> int:
    """Import a file, an archive or a folder."""
    context = open_context(args)
    rule = _rule(args)
    with context.hub as hub:
        if args.on_hub:
            body = {"path": str(args.source), "rule": rule, "is_added": args.add}
            path = f"{BASE}/{args.dataset}/import-folder"
            answer = hub.send_long("POST", path, Imported, msgspec.json.encode(body))
        else:
            with _as_file(args.source) as file:
                query = {
                    "file_name": _ODD.sub("-", file.name).lstrip("-.")[-100:] or "source",
                    "rule": msgspec.json.encode(rule).decode(),
                    "is_added": "true" if args.add else "false",
                }
                path = f"{BASE}/{args.dataset}/import"
                answer = hub.stream_file("PUT", path, Imported, file, query=query)
    imported, output = answer.value, context.output
    version = imported.version
    output.say(
        f"Version {version.version} of {version.dataset}: {imported.added_count:,} items added, "
        f"read as {imported.layout}."
    )
    left_out = f"{imported.broken_count:,} broken, {imported.duplicates_count:,} duplicates"
    output.facts([("left out", left_out)])
    _show(output, version)
    output.say("")
    output.say(f"What is wrong with it: cloud-hub datasets report {version.dataset}")
    output.result(answer.json)
    return DONE


def show_report(args: argparse.Namespace) -> int:
    """Say what cleaning found."""
    context = open_context(args)
    with context.hub as hub:
        path = f"{_version_path(context, args)}/report"
        answer = hub.get(path, Report)
    report = answer.value.report
    findings = report.findings if report is not None else ()
    rows = [(each.code, f"{each.count:,}", each.sentence) for each in findings]
    empty = "Nothing is wrong with it." if report is not None else "Nothing is known of it."
    columns = ("finding", "count#", "what to do")
    context.output.table(columns, rows[:FINDINGS_SHOWN_MAX], empty=empty)
    context.output.result(answer.json)
    return DONE


def list_items(args: argparse.Namespace) -> int:
    """List items of a version."""
    context = open_context(args)
    query = {
        "part": args.part,
        "class_name": args.class_name,
        "is_labelled": "false" if args.unlabelled else None,
        "device": args.device,
        "after": args.after,
        "limit": args.limit,
    }
    with context.hub as hub:
        path = f"{_version_path(context, args)}/items"
        answer = hub.get(path, ItemRows, query=query)
    rows = [
        (str(each.index), each.name, each.part, _label(each), each.device, each.digest[:12])
        for each in answer.value.items
    ]
    columns = ("item#", "name", "part", "label", "device", "digest")
    context.output.table(columns, rows, empty="No item is like that.")
    if answer.value.next_after is not None:
        matching = answer.value.matching_count
        context.output.say(f"{matching:,} in all; more with --after {answer.value.next_after}.")
    context.output.result(answer.json)
    return DONE


def split_dataset(args: argparse.Namespace) -> int:
    """Put a dataset's items into parts anew."""
    context = open_context(args)
    rule = {
        "by": args.by,
        "train": args.train,
        "validation": args.validation,
        "test": args.test,
        "seed": args.seed,
    }
    body = msgspec.json.encode(rule)
    with context.hub as hub:
        answer = hub.send_long("POST", f"{BASE}/{args.dataset}/split", Version, body)
    _tell_version(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def label_items(args: argparse.Namespace) -> int:
    """Label items by their digests."""
    context = open_context(args)
    body = msgspec.json.encode({"labels": list(_labels(args.labels))})
    with context.hub as hub:
        answer = hub.send_long("POST", f"{BASE}/{args.dataset}/labels", Version, body)
    _tell_version(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def remove_dataset(args: argparse.Namespace) -> int:
    """Remove a version, or a dataset with all of them."""
    context = open_context(args)
    path = f"{BASE}/{args.dataset}"
    with context.hub as hub:
        if args.version is None:
            answer: Any = hub.send("DELETE", path, Datasets)
        else:
            answer = hub.send("DELETE", f"{path}/versions/{args.version}", Versions)
    what = "" if args.version is None else f" version {args.version}"
    context.output.say(f"Removed {args.dataset}{what}.")
    context.output.result(answer.json)
    return DONE


def set_evaluation(args: argparse.Namespace) -> int:
    """Measure a model's candidates on a version's test part."""
    context = open_context(args)
    body = {"model": args.model, "checkpoint_id": args.checkpoint, "items_max": args.items}
    with context.hub as hub:
        path = f"{_version_path(context, args)}/evaluation-set"
        answer = hub.send_long("POST", path, EvaluationSet, msgspec.json.encode(body))
    added = answer.value
    context.output.say(
        f"Candidates of {added.model} are measured on {added.items_count:,} items of "
        f"{args.dataset} from now on."
    )
    slices = ", ".join(f"{name} {count}" for name, count in added.slices.items())
    context.output.facts([("slices", slices), ("digest", added.digest)])
    context.output.result(answer.json)
    return DONE


def _rule(args: argparse.Namespace) -> dict[str, object]:
    """Return the rule of an import. Raises ContractError `dataset.options`."""
    rule: dict[str, object] = {
        "train": args.train,
        "validation": args.validation,
        "test": args.test,
        "seed": args.seed,
        "keeps_duplicates": args.keep_duplicates,
    }
    if args.by is not None:
        rule["split_by"] = args.by
    if args.layout is not None:
        rule["layout"] = args.layout
    if args.options is not None:
        try:
            rule["options"] = msgspec.toml.decode(args.options.read_bytes())
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ContractError(
                "dataset.options",
                f"Cannot read options from {args.options}: {error}.",
                remedy="Write TOML: label_column = 'kind', window = 128, …",
            ) from error
    return rule


@contextmanager
def _as_file(source: Path) -> Iterator[Path]:
    """Give what can be sent: the file itself, or a folder packed into one."""
    if not source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="isthmus-") as folder:
        packed = Path(folder) / f"{source.resolve().name or 'source'}.tar"
        with tarfile.open(packed, "w") as archive:
            for file in sorted(source.rglob("*")):
                if file.is_file() and not file.is_symlink():
                    archive.add(file, arcname=str(file.relative_to(source)), recursive=False)
        yield packed


def _labels(file: Path) -> Iterator[dict[str, object]]:
    """Yield labels from a CSV file. Raises ContractError `file.unreadable`, `dataset.label`."""
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.reader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ContractError(
            "file.unreadable", f"Cannot read {file}: {error}.", remedy="Check the path."
        ) from error
    if len(rows) > LABEL_ROWS_MAX:
        raise ContractError("dataset.label", f"{file} has over {LABEL_ROWS_MAX} rows.")
    for number, row in enumerate(rows, start=1):
        if number == 1 and row[:1] == ["digest"]:
            continue
        if len(row) != 2:
            raise ContractError(
                "dataset.label",
                f"{file}, row {number}: {len(row)} columns.",
                remedy="Write digest,label in each row; an empty label takes one away.",
            )
        yield {"digest": row[0].strip(), "label": row[1].strip() or None}


def _version_path(context: Context, args: argparse.Namespace) -> str:
    number = args.version
    if number is None:
        newest = context.hub.get(f"{BASE}/{args.dataset}", Dataset).value.newest
        number = newest.version if newest is not None else 1
    return f"{BASE}/{args.dataset}/versions/{number}"


def _tell_version(output: Output, version: Version) -> None:
    output.say(f"Version {version.version} of {version.dataset}: {version.note}.")
    _show(output, version)


def _show(output: Output, version: Version) -> None:
    classes = sorted(version.counts_by_class.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{name} {count:,}" for name, count in classes[:10])
    more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
    output.facts(
        [
            ("version", str(version.version)),
            ("items", f"{version.items_count:,}, {version.labelled_count:,} labelled"),
            ("train/validation/test", _parts(version)),
            ("classes", shown + more),
            ("size", f"{version.bytes_count:,} bytes"),
            ("lineage", version.lineage_id),
        ]
    )


def _parts(version: Version) -> str:
    return "/".join(f"{version.counts_by_part.get(part, 0):,}" for part in PARTS)


def _label(item: ItemRow) -> str:
    if item.boxes is not None:
        return f"{len(item.boxes)} boxes"
    return item.label if item.label is not None else "-"


COMMANDS = (
    Command(
        ("datasets", "list"),
        HEADING,
        "list datasets",
        list_datasets,
        examples=("cloud-hub datasets list",),
    ),
    Command(
        ("datasets", "show"),
        HEADING,
        "show a dataset and its versions",
        show_dataset,
        dataset_argument,
        examples=("cloud-hub datasets show cats",),
    ),
    Command(
        ("datasets", "import"),
        HEADING,
        "import an archive, a file or a folder as a dataset's next version",
        import_dataset,
        import_arguments,
        examples=(
            "cloud-hub datasets import cats cats.zip",
            "cloud-hub datasets import shaft vibration.csv --by device",
        ),
        description="Every item is checked; broken ones and duplicates are left out and told.\n"
        "Parts that the source names (train/, val/, test/) are taken; others are split off.",
    ),
    Command(
        ("datasets", "report"),
        HEADING,
        "say what cleaning found, and what to do about it",
        show_report,
        version_arguments,
        examples=("cloud-hub datasets report cats",),
    ),
    Command(
        ("datasets", "items"),
        HEADING,
        "list a version's items",
        list_items,
        items_arguments,
        examples=("cloud-hub datasets items cats --part test --class tabby",),
    ),
    Command(
        ("datasets", "split"),
        HEADING,
        "put a dataset's items into parts anew",
        split_dataset,
        split_arguments,
        examples=("cloud-hub datasets split cats --by device --test 0.2 --train 0.65",),
    ),
    Command(
        ("datasets", "label"),
        HEADING,
        "label items from a file of digests and classes",
        label_items,
        label_arguments,
        examples=("cloud-hub datasets label cats labels.csv",),
    ),
    Command(
        ("datasets", "evaluation"),
        HEADING,
        "measure a model's candidates on a version's test part",
        set_evaluation,
        evaluation_arguments,
        examples=("cloud-hub datasets evaluation cats --model cat-finder",),
    ),
    Command(
        ("datasets", "remove"),
        HEADING,
        "remove a version, or a dataset with all of them",
        remove_dataset,
        remove_arguments,
        examples=("cloud-hub datasets remove cats --version 3",),
    ),
)
