"""What devices measured of a release, at a terminal."""

import argparse

import msgspec

from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.output import Output
from shared.command_line import Command
from shared.exit_codes import DONE
from shared.plural import counted

HEADING = "Models and releases"


class FitRow(msgspec.Struct, frozen=True):
    """One way to run it on one kind of hardware."""

    precision: str
    backend: str
    threads: int
    devices_count: int
    chosen_count: int
    refused_count: int
    run_ms_p50: float | None
    run_ms_p95: float | None
    items_per_s: float | None
    rss_bytes: int
    agreement: float | None
    text: str


class Fit(msgspec.Struct, frozen=True):
    """One kind of hardware."""

    hardware: str
    devices_count: int
    confirmed_count: int
    anew_count: int
    rows: tuple[FitRow, ...]
    reasons: tuple[str, ...]


class Fits(msgspec.Struct, frozen=True):
    """A release on every kind of hardware."""

    fits: tuple[Fit, ...]


def parse_release(text: str) -> tuple[str, int]:
    """Return "digits:2" as a name and a version."""
    model, colon, version = text.partition(":")
    if not model or not colon or not version.isdecimal() or int(version) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no release: write MODEL:VERSION")
    return model, int(version)


def show_fits(args: argparse.Namespace) -> int:
    """Show how fast a release's variants are on each kind of hardware."""
    context = open_context(args)
    model, version = args.release
    with context.hub as hub:
        answer = hub.get(f"/api/v1/releases/{model}/{version}/fits", Fits)
    output = context.output
    if not answer.value.fits:
        output.say(f"No device has measured {model}:{version} yet. Roll it out first.")
    for fit in answer.value.fits:
        _show(output, fit)
    output.result(answer.json)
    return DONE


def _show(output: Output, fit: Fit) -> None:
    count = counted(fit.devices_count, "device")
    output.say(
        f"{fit.hardware}: {count}; {fit.confirmed_count} confirmed what equal ones chose, "
        f"{fit.anew_count} could not and measured anew"
    )
    columns = (
        "variant", "backend", "threads#", "p50 ms#", "p95 ms#", "items/s#", "MiB#",
        "agreement#", "devices#", "chosen#", "",
    )  # fmt: skip
    rows = [
        (
            row.precision,
            row.backend,
            str(row.threads),
            _number(row.run_ms_p50, "{:.3g}"),
            _number(row.run_ms_p95, "{:.3g}"),
            _number(row.items_per_s, "{:,.1f}"),
            str(row.rss_bytes >> 20) if row.rss_bytes else "–",
            _number(row.agreement, "{:.1%}"),
            str(row.devices_count),
            str(row.chosen_count),
            row.text,
        )
        for row in fit.rows
    ]
    output.table(columns, rows, empty="Nothing was measured.")
    for reason in fit.reasons:
        output.say(f"  - {reason}")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "release", metavar="MODEL:VERSION", type=parse_release, help="such as digits:2"
    )


COMMANDS = (
    Command(
        ("releases", "fits"),
        HEADING,
        "say how fast a release's variants run on the devices, and what they chose",
        show_fits,
        _arguments,
        examples=("cloud-hub releases fits digits:2", "cloud-hub releases fits digits:2 --json"),
        description="Devices of the same hardware are pooled. The next one like them starts from\n"
        "what most of them chose, and only confirms it.",
    ),
)
