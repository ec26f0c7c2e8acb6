"""The part of the story where the devices learn together, and one of them drops out."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploy.demo.processes import DemoError

if TYPE_CHECKING:
    from deploy.demo.story import Story

MODEL = "digits"
ROUNDS = 6
DROPS_OUT_IN = 2  # The Round in which one device is killed
DARK_S = 3.0
# Small and quick, as the pictures are: every device has some 360 of them.
ORDER = {
    "model": MODEL,
    "strategy": {"name": "fedavg"},
    "method": {"epochs": 4, "batch_size": 16, "learning_rate": 0.02, "momentum": 0.9},
    "rounds": ROUNDS,
    "encoding": "int8",
    "devices_min": 3,
    "deadline_s": 20.0,
    "gather_s": 90.0,
}


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of a Job."""

    rounds: int
    before: dict[str, float]  # Accuracy by device's name, on pictures it keeps for measuring
    after: dict[str, float]
    dropout_survived: bool
    bytes_per_round: int  # Up, of one device
    verdict: str
    version: int


def learn_together(story: "Story", *, group: str, dropout: str) -> Learned:
    """Run a Job to its end, `dropout` being killed on the way; return what came of it."""
    order = {**ORDER, "group": group}
    job = story.api.post("/jobs", order)["job_id"]
    story.teller.say(
        f"The devices learn together ({job}): {ROUNDS} rounds, each from its own pictures, which "
        "stay where they are. Weights travel in int8."
    )
    _follow(story, job, dropout=dropout)
    found = story.api.get(f"/jobs/{job}")
    if found["outcome"] != "completed" or found["release_version"] is None:
        raise DemoError(f"Job {job}: {found['text']}; cloud-hub why {job}")
    return _read(story, found, dropout)


def _follow(story: "Story", job: str, *, dropout: str) -> None:
    """Tell a Job's events as they come until it is released; kill one device on the way."""
    told = 0

    def is_over() -> bool:
        nonlocal told
        for event in story.api.get(f"/jobs/{job}/events", after=told)["events"]:
            told = event["number"]
            _tell(story, event)
            match event["code"], event["round"]:
                case "round.started", n if n == DROPS_OUT_IN:
                    story.kill_agent(dropout)
                    story.teller.detail(f"{dropout} loses its power in the middle of the round,")
                    time.sleep(DARK_S)
                    story.start_agent(dropout)
                    story.teller.detail(f"and has it back {DARK_S:.0f} seconds later.")
                case _:
                    pass
        found = story.api.get(f"/jobs/{job}")
        is_settled = found["release_version"] or found["candidate_id"] or not order_releases(found)
        return bool(found["state"] == "finished" and is_settled)

    story.wait(is_over, f"job {job} to finish")


def order_releases(job: dict[str, Any]) -> bool:
    """Whether what comes of a Job is to be released."""
    return bool(job["outcome"] == "completed" and job["order"].get("is_released", True))


def _tell(story: "Story", event: dict[str, Any]) -> None:
    names = {device: name for name, device in story.devices.items()}
    numbers = event["numbers"]
    match event["code"]:
        case "round.started":
            story.teller.detail(f"round {event['round']}: {numbers['devices_asked']:.0f} asked")
        case "update.accepted":
            name = names.get(event["device"], event["device"])
            accuracy = numbers.get("accuracy_before")
            seen = f", {accuracy:.1%} right before it learned" if accuracy is not None else ""
            story.teller.detail(f"  {name}: {numbers['payload_bytes'] / 1e3:.0f} kB{seen}")
        case "update.refused" | "device.failed" | "device.silent":
            name = names.get(event["device"], event["device"])
            story.teller.detail(f"  {name}: {event['code']} {event['text']}")
        case "round.closed":
            story.teller.detail(
                f"round {event['round']} closed: {numbers['devices_counted']:.0f} counted, "
                f"{numbers['seconds']:.1f} s"
            )
        case _:
            pass


def _read(story: "Story", job: dict[str, Any], dropout: str) -> Learned:
    names = {device: name for name, device in story.devices.items()}
    devices = story.api.get(f"/jobs/{job['job_id']}/devices")["devices"]
    rounds = story.api.get(f"/jobs/{job['job_id']}/rounds")["rounds"]
    told = {names[device["device_id"]]: device for device in devices}
    before = {n: d["accuracy_before"] for n, d in told.items() if d["accuracy_before"] is not None}
    after = {n: d["accuracy_after"] for n, d in told.items() if d["accuracy_after"] is not None}
    counted = sum(part["devices_counted"] for part in rounds)
    verdict = story.api.get(f"/candidates/{job['candidate_id']}")["verdict"]
    story.teller.say(
        f"Learned: {_spread(before)} -> {_spread(after)} right on each device's own pictures. "
        f"The aggregate passed the gate as {MODEL}:{job['release_version']}:"
    )
    for row in verdict["slices"]:
        story.teller.detail(f"{row['name'] or 'all'}: {row['sentence']}")
    return Learned(
        rounds=job["rounds_done"],
        before=before,
        after=after,
        dropout_survived=job["rounds_done"] == ROUNDS and dropout in after,
        bytes_per_round=round(sum(part["bytes_up"] for part in rounds) / max(1, counted)),
        verdict="passed" if verdict["is_passed"] else "refused",
        version=job["release_version"],
    )


def _spread(accuracies: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in sorted(accuracies.items()))
