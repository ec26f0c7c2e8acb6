"""ServingService: asks of a released model, each by the release that is served just now.

1. Served is the release that the followed channel points at; where nobody has set it, the newest.
   Looked up again after LOOK_S: a rollout that moves the channel moves this too.
2. A model's process starts with its first item and ends after `idle_s` without one. The next
   release's process is ready before the old one gets no more items, which answers what it has.
3. A model that cannot be started is not tried again for RETRY_S: asking does not become a loop.
4. The files served are read from the signed repository, checked against its metadata.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from msgspec import UNSET

from cloud_hub.releases.service import ReleaseService
from cloud_hub.serving.messages import Told
from cloud_hub.serving.process_worker import ServingProcess
from cloud_hub.serving.settings import ServingSettings
from shared.clock import Clock
from shared.errors import IsthmusError, RefusedError
from shared.release.manifest import Manifest

log = logging.getLogger(__name__)

LOOK_S = 1.0
RETRY_S = 10.0
CHECK_S = 1.0


@dataclass(frozen=True, slots=True)
class Served:
    """Items on their way, and by which release."""

    manifest: Manifest
    precision: str
    futures: tuple[Future[Told], ...]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """How one model is served just now."""

    model: str
    version: int
    precision: str
    is_batched: bool
    waiting_count: int
    pid: int


@dataclass(slots=True)
class _Place:
    """One model's process, and what is known of it."""

    lock: threading.Lock
    manifest: Manifest | None = None
    process: ServingProcess | None = None
    looked_s: float = 0.0
    error: IsthmusError | None = None  # Why it could not be started
    failed_s: float = 0.0


class ServingService:
    """See the rules above. Safe to share between threads."""

    def __init__(self, releases: ReleaseService, clock: Clock, settings: ServingSettings) -> None:
        """Start without touching anything."""
        self._releases = releases
        self._clock = clock
        self._settings = settings
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self.items_by_model: Counter[str] = Counter()  # Asked since start

    def submit(self, model: str, items: Sequence[bytes]) -> Served:
        """Send items to a model; its process is started if need be, which takes a second or so.

        Args:
            model: a model that has a release.
            items: encoded pictures, float32 windows or UTF-8 texts, as messages.Ask has them.

        Raises RefusedError `model.unknown`, `serving.model`; TransientError `serving.busy`,
        `serving.ended`, `serving.start`; IntegrityError.
        """
        place = self._place(model)
        with place.lock:
            manifest, process = self._ready(model, place)
            futures = process.ask(list(items))
            self.items_by_model[model] += len(items)
        return Served(manifest, manifest.variants[0].precision, tuple(futures))

    def manifest(self, model: str) -> Manifest:
        """Return what is served of a model, without starting it. Raises `model.unknown`."""
        releases = self._releases.releases(model)
        if not releases:
            raise RefusedError(
                "model.unknown",
                f"The model {model[:63]!r} has no release.",
                remedy="Release one first; `cloud-hub releases list` shows them.",
            )
        version = next(
            (
                channel.version
                for channel in self._releases.channels(model)
                if channel.name is self._settings.follows
            ),
            max(release.version for release in releases),
        )
        return self._releases.manifest(model, version)

    def standing(self) -> tuple[ServedModel, ...]:
        """Return what is served just now."""
        return tuple(
            ServedModel(
                model=model,
                version=place.manifest.version,
                precision=place.manifest.variants[0].precision,
                is_batched=place.process.is_batched,
                waiting_count=place.process.waiting_count,
                pid=place.process.pid,
            )
            for model, place in sorted(self._places.items())
            if place.process is not None and place.process.is_alive and place.manifest is not None
        )

    def run(self, stop: threading.Event) -> None:
        """End what hangs or is idle, until `stop` is set; then end all. A Worker's body."""
        while not stop.is_set():
            self.check()
            self._clock.wait(stop, CHECK_S)
        self.stop()

    def stop(self) -> None:
        """End every process, whatever waits."""
        for place in list(self._places.values()):
            if place.process is not None:
                place.process.stop()

    def check(self) -> None:
        """End processes that hang, and those that nobody asks."""
        now_s = time.monotonic()
        for place in list(self._places.values()):
            process = place.process
            if process is None or not process.is_alive:
                continue
            process.check()
            if now_s - process.used_s > self._settings.idle_s and not process.waiting_count:
                process.retire()

    def _place(self, model: str) -> _Place:
        with self._lock:
            place = self._places.get(model)
        if place is not None:
            return place
        self.manifest(model)  # Nobody fills the table with names of models that do not exist
        with self._lock:
            return self._places.setdefault(model, _Place(threading.Lock()))

    def _ready(self, model: str, place: _Place) -> tuple[Manifest, ServingProcess]:
        """Return a live process of the release that is to be served. The place is locked."""
        now_s = time.monotonic()
        is_alive = place.process is not None and place.process.is_alive
        wanted = place.manifest
        if not is_alive or wanted is None or now_s - place.looked_s > LOOK_S:
            wanted = self.manifest(model)
            place.looked_s = now_s
        if is_alive and place.manifest is not None and place.manifest.version == wanted.version:
            assert place.process is not None
            return wanted, place.process
        if place.error is not None and now_s - place.failed_s < RETRY_S:
            raise place.error
        old = place.process
        place.process = self._start(place, wanted)
        place.manifest = wanted
        if old is not None:
            old.retire()
        return wanted, place.process

    def _start(self, place: _Place, manifest: Manifest) -> ServingProcess:
        self._make_room()
        try:
            read = self._releases.repository.read
            data = read(manifest.variants[0].artifact.path)
            own = manifest.tokenizer
            process = ServingProcess(
                data,
                manifest.spec,
                self._settings,
                tokenizer_bytes=None if own is UNSET else read(own.path),
            )
        except IsthmusError as error:
            place.error, place.failed_s = error, time.monotonic()
            raise
        place.error = None
        log.info(
            "serving.started",
            extra={"model": manifest.model, "version": manifest.version, "pid": process.pid},
        )
        return process

    def _make_room(self) -> None:
        alive = [
            place.process
            for place in list(self._places.values())
            if place.process is not None and place.process.is_alive
        ]
        while len(alive) >= self._settings.models_max:
            idlest = min(alive, key=lambda process: process.used_s)
            idlest.retire()
            alive.remove(idlest)
