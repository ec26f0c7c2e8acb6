"""SensorFeed: messages of many sensors in, batches of their windows out. Pure: no broker, no clock.

1. A sensor is known from its first message on, up to `sensors_max` of them; messages of more are
   counted as lost. One that was silent for `forget_s` gives its place to another when it is needed.
2. A message that cannot be read is counted, and cuts its own sensor's window only. So does a pause
   of more than the window's `gap_s_max` between two messages of one sensor.
3. A window that is complete waits for those of other sensors: for `windows_max` of them, or
   `wait_s_max` after the first. Windows keep the order in which they were complete.
4. A batch is an array of its own: what comes later never changes it.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.readings import Readings, read_payload
from edge_agent.sources.resampling import Resampler
from edge_agent.sources.sensor_rings import SensorRings
from shared.errors import ContractError
from shared.pipeline.sources import MqttSettings

log = logging.getLogger(__name__)

FULL_TOLD_S = 60.0  # There is no room: at most so often in the log
NAME_CHARS_MAX = 120  # The wire's, of a record's sensor


@dataclass(frozen=True, slots=True)
class SensorWindows:
    """Windows that go through the model together."""

    samples: NDArray[np.float32]  # (N, T, C)
    sensors: tuple[str, ...]  # (N,)
    at_s: float  # When the last was complete


@dataclass(slots=True)
class _Sensor:
    """What is kept of one."""

    place: int
    seen_s: float
    resampler: Resampler | None


class SensorFeed:
    """See the rules above. Not shared between threads."""

    def __init__(self, settings: MqttSettings) -> None:
        """Know no sensor yet."""
        self._settings = settings
        self._rings = SensorRings(
            settings.window, channels_count=settings.channels, sensors_max=settings.sensors_max
        )
        self._sensors: dict[str, _Sensor] = {}
        self._full_s = -float("inf")  # When no place could be found last
        self._full_told_s = -float("inf")
        self._new_batch()
        self.lost_messages_count = 0
        self.bad_messages_count = 0

    @property
    def sensors_count(self) -> int:
        """Return how many sensors are known."""
        return len(self._sensors)

    def feed(
        self, name: str, payload: bytes, at_s: float, *, wall_s: float
    ) -> Iterator[SensorWindows]:
        """Add a message of sensor `name`; give each batch that is full with it.

        Args: `at_s` is when it came, monotonic; `wall_s` the same in seconds since 1970.
        """
        sensor = self._sensors.get(name) or self._add(name, at_s)
        if sensor is None:
            self.lost_messages_count += 1
            return
        gap_s_max = self._settings.window.gap_s_max
        if gap_s_max and at_s - sensor.seen_s > gap_s_max:
            self._cut(sensor)
        sensor.seen_s = at_s
        try:
            readings = read_payload(
                payload, self._settings.payload, channels_count=self._settings.channels
            )
        except ContractError as error:
            self._note_bad(name, error)
            self._cut(sensor)
            return
        for window in self._windows(sensor, readings, wall_s):
            full = self._add_to_batch(name, window, at_s)
            if full is not None:
                yield full

    def due_s(self) -> float | None:
        """Return when the batch that waits must go; None if there is none."""
        if not self._names:
            return None
        return self._first_s + self._settings.batch.wait_s_max

    def take(self, now_s: float) -> SensorWindows | None:
        """Return the batch that waited long enough; None if there is none."""
        due_s = self.due_s()
        return self._take() if due_s is not None and now_s >= due_s else None

    def cut_all(self) -> None:
        """Empty every window: the connection was lost, or messages were."""
        for sensor in self._sensors.values():
            self._cut(sensor)

    def _windows(
        self, sensor: _Sensor, readings: Readings, wall_s: float
    ) -> Iterator[NDArray[np.float32]]:
        if sensor.resampler is None:
            yield from self._rings.push(sensor.place, readings.rows)
            return
        times = readings.times_s
        for index, row in enumerate(readings.rows):
            time_s = wall_s if times is None else float(times[index])
            resampled = sensor.resampler.push(time_s, row)
            if resampled.is_cut:
                self._rings.cut(sensor.place)
            if resampled.rows.size:
                yield from self._rings.push(sensor.place, resampled.rows)

    def _add(self, name: str, at_s: float) -> _Sensor | None:
        """Return a new sensor; None if its name is too long or there is no place."""
        if not name or len(name) > NAME_CHARS_MAX:
            return None
        place = self._rings.add()
        if place is None and self._forget_silent(at_s):
            place = self._rings.add()
        if place is None:
            return None
        settings = self._settings
        resampler = None
        if settings.resample is not None:
            resampler = Resampler(settings.resample, channels_count=settings.channels)
        sensor = self._sensors[name] = _Sensor(place, at_s, resampler)
        return sensor

    def _forget_silent(self, now_s: float) -> bool:
        """See rule 1; looked for once a second at most, as all sensors are gone through."""
        if not self._settings.forget_s or now_s - self._full_s < 1.0:
            return False
        self._full_s = now_s
        silent = [
            name
            for name, sensor in self._sensors.items()
            if now_s - sensor.seen_s > self._settings.forget_s
        ]
        if not silent and now_s - self._full_told_s >= FULL_TOLD_S:
            self._full_told_s = now_s
            log.warning("source.sensors_full", extra={"sensors_max": self._settings.sensors_max})
        for name in silent:
            self._rings.free(self._sensors.pop(name).place)
        return bool(silent)

    def _cut(self, sensor: _Sensor) -> None:
        self._rings.cut(sensor.place)
        if sensor.resampler is not None:
            sensor.resampler.cut()

    def _note_bad(self, name: str, error: ContractError) -> None:
        if not self.bad_messages_count:
            fields = {"sensor": name, "detail": str(error), "code": error.code}
            log.warning("source.payload", extra=fields)
        self.bad_messages_count += 1

    def _add_to_batch(
        self, name: str, window: NDArray[np.float32], at_s: float
    ) -> SensorWindows | None:
        if not self._names:
            self._first_s = at_s
        self._batch[len(self._names)] = window
        self._names.append(name)
        self._at_s = at_s
        return self._take() if len(self._names) == self._batch.shape[0] else None

    def _take(self) -> SensorWindows:
        count = len(self._names)
        batch = SensorWindows(self._batch[:count], tuple(self._names), self._at_s)
        self._new_batch()
        return batch

    def _new_batch(self) -> None:
        window, settings = self._settings.window, self._settings
        shape = (settings.batch.windows_max, window.samples, settings.channels)
        self._batch = np.empty(shape, dtype=np.float32)
        self._names: list[str] = []
        self._first_s = self._at_s = 0.0
