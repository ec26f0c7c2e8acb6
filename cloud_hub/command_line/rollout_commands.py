"""Commands about rollouts."""

import argparse
import threading
from collections.abc import Sequence

from cloud_hub.command_line.answers import (
    Entry,
    Rollout,
    RolloutDetail,
    RolloutDevice,
    Rollouts,
    Timeline,
)
from cloud_hub.command_line.commands import Context, open_context
from cloud_hub.command_line.finding import find_device, find_version
from cloud_hub.command_line.http_client import HubClient
from cloud_hub.command_line.output import Output, clock_text, span_text
from cloud_hub.command_line.spans import parse_span_s
from shared.clock import now_ms
from shared.command_line import Command, Run
from shared.exit_codes import DONE, NOT_REACHED
from shared.plural import counted

HEADING = "Rollouts"
WATCH_S = 1.0
QUIET_TOLD = 30  # Looks without news after which that is said, once
RESUME = "resume"
TIMELINE_LIMIT = 500
FINISHED = frozenset({"done", "undone", "cancelled"})
COLUMNS = ("rollout", "release", "to", "state", "wave", "devices", "started")


def start_rollout(args: argparse.Namespace) -> int:
    """Start moving devices to a release."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.send("POST", "/api/v1/rollouts", RolloutDetail, _order(args, hub))
        rollout = answer.value.rollout
        reached = rollout.wave_limits[-1] if rollout.wave_limits else 0
        context.output.say(
            f"Started {rollout.rollout_id}: {rollout.model} version {rollout.version} to "
            f"{counted(reached, 'device')} in {counted(len(rollout.wave_limits), 'wave')}."
        )
        if args.watch:
            return _watch(context, rollout.rollout_id)
    context.output.say(f"Watch it with: cloud-hub rollouts watch {rollout.rollout_id}")
    context.output.result(answer.json)
    return DONE


def _order(args: argparse.Namespace, hub: HubClient) -> dict[str, object]:
    version = args.version
    if args.channel is not None:
        version = find_version(hub, args.model, args.channel)
    body: dict[str, object] = {
        "model": args.model,
        "version": version,
        "group": args.group,
        "devices": [find_device(hub, device) for device in args.device],
        "waves": args.wave,
        "failure_share_max": args.failure_limit,
        "wave_deadline_s": args.deadline,
        "bake_s": args.bake,
        "notes": args.notes,
    }
    return {name: value for name, value in body.items() if value not in (None, [])}


def list_rollouts(args: argparse.Namespace) -> int:
    """List rollouts, newest first."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get("/api/v1/rollouts", Rollouts, query={"limit": args.limit})
    rows = [_row(rollout) for rollout in answer.value.rollouts]
    empty = "No rollout yet. Next: cloud-hub rollouts start --model MODEL --version N --watch"
    context.output.table(COLUMNS, rows, empty=empty)
    context.output.result(answer.json)
    return DONE


def show_rollout(args: argparse.Namespace) -> int:
    """Show one rollout, device by device, and what happened."""
    context = open_context(args)
    path = f"/api/v1/rollouts/{args.rollout}"
    with context.hub as hub:
        answer = hub.get(path, RolloutDetail)
        timeline = hub.get(f"{path}/timeline", Timeline, query={"limit": TIMELINE_LIMIT})
    output, at_ms = context.output, now_ms(context.clock)
    _show(output, answer.value.rollout)
    output.say("")
    rows = [_device_row(device, at_ms) for device in answer.value.devices]
    output.table(("device", "wave#", "state", "for", "why"), rows, empty="It has no devices.")
    output.say("")
    for entry in timeline.value.entries:
        output.say(_line(entry))
    output.result(b'{"rollout":%b,"timeline":%b}' % (answer.json, timeline.json))
    return DONE


def watch_rollout(args: argparse.Namespace) -> int:
    """Follow a rollout until it ends; exit with 7 unless every wave passed."""
    context = open_context(args)
    with context.hub:
        return _watch(context, args.rollout)


def _act(act: str) -> Run:
    def run(args: argparse.Namespace) -> int:
        context = open_context(args)
        body: dict[str, object] = {"why": args.because}
        if act == RESUME:
            body["excuse_silent"] = args.excuse_silent
        with context.hub as hub:
            path = f"/api/v1/rollouts/{args.rollout}/{act}"
            answer = hub.send("POST", path, RolloutDetail, body)
        rollout = answer.value.rollout
        context.output.say(f"{rollout.rollout_id} is {rollout.state}.")
        context.output.result(answer.json)
        return DONE

    return run


def _watch(context: Context, rollout_id: str) -> int:
    """Print the timeline as it grows; return the exit code when the rollout has ended."""
    path, output, never = f"/api/v1/rollouts/{rollout_id}", context.output, threading.Event()
    seen = quiet_count = 0
    while True:  # Ends with the rollout; how long that takes is the person's to bear, or Ctrl-C.
        answer = context.hub.get(path, RolloutDetail)
        timeline = context.hub.get(f"{path}/timeline", Timeline, query={"after": seen})
        for entry in timeline.value.entries:
            output.say(_line(entry))
        seen += len(timeline.value.entries)
        rollout = answer.value.rollout
        is_finished = rollout.state in FINISHED
        if is_finished and not timeline.value.entries:
            break
        quiet_count = 0 if timeline.value.entries else quiet_count + 1
        if quiet_count == QUIET_TOLD:
            output.say(
                f"Nothing new for {QUIET_TOLD * WATCH_S:.0f} s. What a device waits for: "
                "cloud-hub why DEVICE"
            )
        if quiet_count:
            context.clock.wait(never, WATCH_S)
    output.say(f"{rollout.rollout_id} is {rollout.state}: {_counts(rollout)}.")
    output.result(answer.json)
    return DONE if rollout.state == "done" else NOT_REACHED


def _show(output: Output, rollout: Rollout) -> None:
    output.facts(
        [
            ("rollout", rollout.rollout_id),
            ("release", f"{rollout.model} version {rollout.version}"),
            ("to", rollout.group or "every device"),
            ("state", f"{rollout.state} {rollout.hold_code}".strip()),
            ("waves", ", ".join(rollout.waves)),
            ("wave", f"{rollout.wave + 1} of {len(rollout.wave_limits)}"),
            ("devices", _counts(rollout)),
            ("started", f"{clock_text(rollout.created_ms)} by {rollout.created_by}"),
            ("notes", rollout.notes),
        ]
    )


def _row(rollout: Rollout) -> tuple[str, ...]:
    return (
        rollout.rollout_id,
        f"{rollout.model} {rollout.version}",
        rollout.group or "all",
        f"{rollout.state} {rollout.hold_code}".strip(),
        f"{rollout.wave + 1}/{len(rollout.wave_limits)}",
        _counts(rollout),
        clock_text(rollout.created_ms),
    )


def _device_row(device: RolloutDevice, at_ms: int) -> tuple[str, ...]:
    why = f"{device.failure.text} [{device.failure.code}]" if device.failure else ""
    since = span_text((at_ms - device.since_ms) / 1000) if device.since_ms else ""
    return (device.device_id, str(device.wave + 1), device.state, since, why)


def _counts(rollout: Rollout) -> str:
    counts = [f"{count} {state}" for state, count in rollout.counts.items() if count]
    return ", ".join(counts) or "no devices"


def _line(entry: Entry) -> str:
    whose = f"{entry.device_id}: " if entry.device_id else ""
    asked = "" if entry.by == "hub" else f" (by {entry.by})"
    return f"{clock_text(entry.at_ms)}  {whose}{entry.text}{asked}"


def _start_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="MODEL", help="the model's name")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--version", type=int, metavar="N", help="which release of it")
    which.add_argument(
        "--channel", metavar="CHANNEL", help="the release that this channel names now"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--group", metavar="GROUP", help="only devices of this group (default: every device)"
    )
    where.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="DEVICE",
        help="only this device, by its id or name; repeat",
    )
    parser.add_argument(
        "--wave",
        action="append",
        default=[],
        metavar="SIZE",
        help="how many have it when the wave ends: 1, 25%%, 100%%; repeat, rising "
        "(default: 1, 25%%, 100%%)",
    )
    parser.add_argument(
        "--failure-limit",
        type=_parse_share,
        metavar="SHARE",
        help="more failed devices of a wave than this undo the rollout: 0.1 or 10%% "
        "(default: 10%%)",
    )
    parser.add_argument(
        "--deadline",
        type=parse_span_s,
        metavar="SPAN",
        help="how long a wave may be silent before that counts as unknown: 10m, 1h (default: 1h)",
    )
    parser.add_argument(
        "--bake",
        type=parse_span_s,
        metavar="SPAN",
        help="how long a wave must stay good before the next begins: 30s, 10m (default: 60s)",
    )
    parser.add_argument("--notes", default="", help="a sentence for whoever reads this later")
    parser.add_argument("--watch", action="store_true", help="follow it to its end")


def _parse_share(text: str) -> float:
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: write 0.1 or 10%")
    return share


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="the newest N (default: 20)"
    )


def _rollout_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rollout", metavar="ROLLOUT", help="its id, as `rollouts list` says it")


def _act_arguments(parser: argparse.ArgumentParser) -> None:
    _rollout_argument(parser)
    parser.add_argument(
        "--because", default="", metavar="TEXT", help="why; it stands in the rollout's timeline"
    )


def _resume_arguments(parser: argparse.ArgumentParser) -> None:
    _act_arguments(parser)
    parser.add_argument(
        "--excuse-silent",
        action="store_true",
        help="go on without the devices that are silent past their deadline",
    )


def _act_command(act: str, summary: str, description: str = "") -> Command:
    return Command(
        ("rollouts", act),
        HEADING,
        summary,
        _act(act),
        _resume_arguments if act == RESUME else _act_arguments,
        examples=(f"cloud-hub rollouts {act} roll-7fk2mq9x",),
        description=description,
    )


COMMANDS: Sequence[Command] = (
    Command(
        ("rollouts", "start"),
        HEADING,
        "move devices to a release, wave by wave",
        start_rollout,
        _start_arguments,
        examples=(
            "cloud-hub rollouts start --model digits --version 2 --watch",
            "cloud-hub rollouts start --model digits --channel stable --device gate-camera",
            "cloud-hub rollouts start --model digits --version 2 --group canary \\",
            "      --wave 1 --wave 50% --wave 100% --failure-limit 10% --deadline 10m --bake 60s",
        ),
        description="A device counts as updated only when it proved it. A wave that fails undoes\n"
        "the rollout; a silent one holds it. With --watch the exit code is 7 unless\n"
        "it is done.",
    ),
    Command(
        ("rollouts", "list"),
        HEADING,
        "list rollouts, newest first",
        list_rollouts,
        _list_arguments,
        examples=("cloud-hub rollouts list",),
    ),
    Command(
        ("rollouts", "show"),
        HEADING,
        "show one rollout, device by device",
        show_rollout,
        _rollout_argument,
        examples=("cloud-hub rollouts show roll-7fk2mq9x",),
    ),
    Command(
        ("rollouts", "watch"),
        HEADING,
        "follow a rollout until it ends",
        watch_rollout,
        _rollout_argument,
        examples=("cloud-hub rollouts watch roll-7fk2mq9x",),
    ),
    _act_command("hold", "move no further devices until `resume`"),
    _act_command(
        RESUME,
        "go on with a held rollout",
        "Devices that were silent past the deadline get a new one.",
    ),
    _act_command("undo", "send every moved device back to what it ran before"),
    _act_command(
        "cancel",
        "stop where it stands",
        "Devices that proved the release keep it; those under way go back.",
    ),
)
