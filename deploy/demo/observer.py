"""What the fleet did, read from the hub alone: decisions, accuracy, swaps, losses."""

import itertools
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from deploy.demo.lens import Labels
from deploy.demo.processes import HubApi

POLL_S = 0.5
NEWEST_COUNT = 200


@dataclass(frozen=True, slots=True)
class Seen:
    """One decision of a camera."""

    item: int
    version: int
    label: str


@dataclass(slots=True)
class Observer:
    """Collects every decision of the cameras while the demo runs."""

    api: HubApi
    devices: dict[str, str]  # Device id by name
    pipeline: str
    labels: Labels | None = None  # Of frame i of every camera
    seen: dict[str, dict[int, Seen]] = field(default_factory=dict)  # By device, by record id
    swap_pause_ms_max: float = 0.0
    items_decided: int = 0
    items_dropped: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _windows: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    def start(self) -> None:
        """Begin to look twice a second."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look once more, and end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._look()

    def accuracy(self, version: int) -> float:
        """Return the share of decisions by a release that name the digit rightly, all cameras."""
        assert self.labels is not None
        right = [
            seen.label == str(self.labels[seen.item % len(self.labels)])
            for found in self.seen.values()
            for seen in list(found.values())
            if seen.version == version
        ]
        return sum(right) / len(right) if right else 0.0

    def decided_by(self, version: int) -> int:
        """Return how many decisions of a release have come in from the device with fewest."""
        counts = [
            sum(seen.version == version for seen in list(self.seen.get(device, {}).values()))
            for device in self.devices.values()
        ]
        return min(counts, default=0)

    def newest_versions(self) -> list[int]:
        """Return by which release each camera's newest decision is; 0 where there is none."""
        found = (self.seen.get(device) for device in self.devices.values())
        return [seen[max(seen)].version if seen else 0 for seen in found]

    def items_lost_in_swaps(self) -> int:
        """Return how many items are missing between the last of one release and the next's first.

        A decision names its item's number at the source, so a gap at a swap is an item lost.
        """
        lost = 0
        for found in self.seen.values():
            in_order = [found[key] for key in sorted(found)]
            for before, after in itertools.pairwise(in_order):
                if before.version != after.version:
                    lost += max(0, after.item - before.item - 1)
        return lost

    def swaps_count(self) -> int:
        """Return how many swaps the cameras made between two decisions."""
        count = 0
        for found in self.seen.values():
            versions = [found[key].version for key in sorted(found)]
            count += sum(a != b for a, b in itertools.pairwise(versions))
        return count

    def _run(self) -> None:
        with suppress(httpx.TransportError):  # The hub is gone: whoever waits for it says so
            while not self._stop.wait(POLL_S):
                self._look()

    def _look(self) -> None:
        for device in self.devices.values():
            self._read_decisions(device)
            self._read_windows(device)
        windows = list(self._windows.values())
        self.items_decided = sum(window["items_decided"] for window in windows)
        self.items_dropped = sum(window["items_dropped"] for window in windows)
        pauses = [window["swap_pause_ms_max"] for window in windows]
        self.swap_pause_ms_max = max(pauses, default=0.0)

    def _read_decisions(self, device: str) -> None:
        answer = self.api.get(
            f"/devices/{device}/decisions", pipeline=self.pipeline, limit=NEWEST_COUNT
        )
        found = self.seen.setdefault(device, {})
        for decision in answer["decisions"]:
            found[decision["id"]] = Seen(
                item=decision["item"],
                version=decision["version"],
                label=decision["outcome"].get("label", ""),
            )

    def _read_windows(self, device: str) -> None:
        answer = self.api.get(f"/devices/{device}/telemetry", limit=NEWEST_COUNT)
        for window in answer["windows"]:
            self._windows[(device, window["id"])] = window
