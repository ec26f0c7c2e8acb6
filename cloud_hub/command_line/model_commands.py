"""Commands about models and their releases."""

import argparse
from pathlib import Path

import msgspec

from cloud_hub.command_line.answers import Channel, Model, Models, Release, Releases
from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.output import Output, clock_text
from shared.command_line import Command
from shared.exit_codes import DONE

HEADING = "Models and releases"


def parse_metric(text: str) -> tuple[str, float]:
    """Return "accuracy=0.97" as a name and a number."""
    name, equals, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not equals or not name or value != value:
        raise argparse.ArgumentTypeError(f"{text!r} is no metric: write name=number")
    return name, value


def add_model(args: argparse.Namespace) -> int:
    """Check, sign and publish a model as a new release."""
    context = open_context(args)
    files = [("model", args.model), ("spec", args.spec)]
    if args.golden is not None:
        files.append(("golden", args.golden))
    if args.tokenizer is not None:
        files.append(("tokenizer", args.tokenizer))
    fields = {"metrics": msgspec.json.encode(dict(args.metric)).decode(), "notes": args.notes}
    if args.no_fold:
        fields["fold"] = "false"
    with context.hub as hub:
        known = hub.get("/api/v1/models", Models).value.models
        answer = hub.upload("/api/v1/releases", Release, files=files, fields=fields)
    release, output = answer.value, context.output
    is_known = any(
        one.model == release.model and one.newest_version >= release.version for one in known
    )
    published = f"{release.model} version {release.version}"
    output.say(
        f"The same was published before: {published}." if is_known else f"Published {published}."
    )
    _show(output, release)
    output.say("")
    output.say(
        f"Next: cloud-hub rollouts start --model {release.model} "
        f"--version {release.version} --watch"
    )
    output.result(answer.json)
    return DONE


def list_models(args: argparse.Namespace) -> int:
    """List models, or the releases of one."""
    context = open_context(args)
    empty = "There is no model yet. Next: cloud-hub models add model.onnx --spec spec.toml"
    if args.model is None:
        with context.hub as hub:
            models = hub.get("/api/v1/models", Models)
        rows = [
            (model.model, str(model.newest_version), str(model.releases_count), _channels(model))
            for model in models.value.models
        ]
        context.output.table(("model", "newest#", "releases#", "channels"), rows, empty=empty)
        context.output.result(models.json)
        return DONE
    with context.hub as hub:
        releases = hub.get("/api/v1/releases", Releases, query={"model": args.model})
    releases_rows = [
        (
            str(release.version),
            clock_text(release.created_ms),
            " ".join(release.precisions),
            _metrics(release),
            " ".join(release.channels),
            release.manifest_digest[:12],
        )
        for release in releases.value.releases
    ]
    columns = ("version#", "created", "precision", "metrics", "channels", "digest")
    context.output.table(columns, releases_rows, empty=empty)
    context.output.result(releases.json)
    return DONE


def show_release(args: argparse.Namespace) -> int:
    """Show one release with the gate's verdict."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get(f"/api/v1/releases/{args.model}/{args.version}", Release)
    _show(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def set_channel(args: argparse.Namespace) -> int:
    """Point a channel at a release."""
    context = open_context(args)
    path = f"/api/v1/channels/{args.model}/{args.channel}"
    with context.hub as hub:
        answer = hub.send("PUT", path, Channel, {"version": args.version})
    found = answer.value
    context.output.say(f"{found.model}: {found.channel} is version {found.version}.")
    context.output.result(answer.json)
    return DONE


def _show(output: Output, release: Release) -> None:
    verdict = release.verdict
    output.facts(
        [
            ("release", f"{release.model} version {release.version}"),
            ("created", clock_text(release.created_ms)),
            ("manifest", release.manifest_digest),
            ("lineage", release.lineage_id),
            ("precisions", " ".join(release.precisions)),
            ("metrics", _metrics(release)),
            ("channels", " ".join(release.channels)),
            ("notes", release.notes),
            ("verdict", "" if verdict is None else ("passed" if verdict.is_passed else "refused")),
        ]
    )
    for remark in (*verdict.reasons, *verdict.remarks) if verdict else ():
        output.say(f"  - {remark.text} [{remark.code}]")


def _metrics(release: Release) -> str:
    return " ".join(f"{name}={value:g}" for name, value in release.metrics.items())


def _channels(model: Model) -> str:
    return " ".join(f"{name}={version}" for name, version in model.channels.items())


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="the model's file")
    parser.add_argument(
        "--spec", type=Path, required=True, metavar="SPEC.toml", help="its input, task and output"
    )
    parser.add_argument(
        "--golden",
        type=Path,
        metavar="GOLDEN.npz",
        help="inputs with the outputs every device must reproduce; drawn by the hub if not given",
    )
    parser.add_argument(
        "--tokenizer", type=Path, metavar="TOKENIZER.json", help="of a model of texts that has one"
    )
    parser.add_argument(
        "--no-fold",
        action="store_true",
        help="publish a picture model as it is, its preprocessing outside",
    )
    parser.add_argument(
        "--metric",
        type=parse_metric,
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="what was measured, such as accuracy=0.97; repeat",
    )
    parser.add_argument("--notes", default="", help="a sentence for whoever reads this later")


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="MODEL", help="the releases of this model, instead of all models"
    )


def _release_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="the model's name")
    parser.add_argument("version", metavar="VERSION", type=int, help="which release of it")


def _channel_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="the model's name")
    parser.add_argument("channel", metavar="CHANNEL", help="such as stable or beta")
    parser.add_argument("version", metavar="VERSION", type=int, help="which release of it")


COMMANDS = (
    Command(
        ("models", "add"),
        HEADING,
        "check, sign and publish a model as a new release",
        add_model,
        _add_arguments,
        examples=(
            "cloud-hub models add digits.onnx --spec digits.toml --metric accuracy=0.97",
            "cloud-hub models add digits.onnx --spec digits.toml --golden golden.npz",
        ),
        description="The gate examines it first; what it refuses is told with every reason.",
    ),
    Command(
        ("models", "list"),
        HEADING,
        "list models, or the releases of one",
        list_models,
        _list_arguments,
        examples=("cloud-hub models list", "cloud-hub models list --model digits"),
    ),
    Command(
        ("models", "show"),
        HEADING,
        "show one release with the gate's verdict",
        show_release,
        _release_arguments,
        examples=("cloud-hub models show digits 2",),
    ),
    Command(
        ("models", "channel"),
        HEADING,
        "point a channel at a release",
        set_channel,
        _channel_arguments,
        examples=("cloud-hub models channel digits stable 2",),
        description="A channel is a name for a release. It moves no device: a rollout does.",
    ),
)
