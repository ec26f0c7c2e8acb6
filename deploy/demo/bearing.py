"""A vibration sensor for the demo: a rolling bearing by its physics, healthy and with a defect.

Model: P. D. McFadden and J. D. Smith, "Model for the vibration produced by a single point defect
in a rolling element bearing", Journal of Sound and Vibration 96(1), 1984. A defect on the outer
race is struck by every ball that passes, at the ball pass frequency

    BPFO = n/2 * f_shaft * (1 - d/D * cos(phi)),

and every strike rings the housing's resonance f_r with damping zeta:

    x(t) = A * exp(-2 pi zeta f_r (t - t_k)) * sin(2 pi f_r (t - t_k)),  t > t_k.

The shaft adds its own harmonics (imbalance, misalignment) and the sensor white noise. The geometry
is that of an SKF 6205 (n = 9, d = 7.94 mm, D = 39.04 mm, phi = 0), as in the Case Western Reserve
University bearing data.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 2048
WINDOW = 128  # Samples: 62.5 ms
BALLS_COUNT, BALL_MM, PITCH_MM = 9, 7.94, 39.04
SHAFT_HZ = 29.95  # 1797 revolutions a minute
RESONANCE_HZ, DAMPING = 520.0, 0.06
NOISE_G = 0.05

Signal = NDArray[np.float32]  # (T,), in g


def ball_pass_hz() -> float:
    """Return how often a ball passes a point of the outer race, in Hz."""
    return BALLS_COUNT / 2 * SHAFT_HZ * (1 - BALL_MM / PITCH_MM)


def vibration(seconds: float, *, defect_g: float, seed: int) -> Signal:
    """Return the housing's acceleration in g, at RATE_HZ; `defect_g` 0 is a healthy bearing."""
    random = np.random.default_rng(seed)
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    phases = random.uniform(0, 2 * np.pi, 3)
    signal = sum(
        amplitude * np.sin(2 * np.pi * SHAFT_HZ * order * time_s + phase)
        for order, amplitude, phase in zip((1, 2, 3), (0.30, 0.15, 0.08), phases, strict=True)
    )
    signal = signal + random.normal(0, NOISE_G, time_s.shape)
    if defect_g:
        signal = signal + _strikes(time_s, defect_g, random)
    return np.asarray(signal, np.float32)


def _strikes(time_s: NDArray[np.float64], defect_g: float, random: np.random.Generator) -> Signal:
    period_s = 1 / ball_pass_hz()
    ring_s = np.arange(int(0.05 * RATE_HZ)) / RATE_HZ
    ring = np.exp(-2 * np.pi * DAMPING * RESONANCE_HZ * ring_s)
    ring *= np.sin(2 * np.pi * RESONANCE_HZ * ring_s)
    strikes = np.zeros_like(time_s)
    # Balls slip a little: each interval differs by about one per cent.
    at_s = np.cumsum(period_s * random.normal(1.0, 0.01, int(time_s[-1] / period_s)))
    for index in (at_s * RATE_HZ).astype(int):
        room = len(strikes) - index
        if room > 0:
            strikes[index : index + len(ring)] += defect_g * ring[:room]
    return np.asarray(strikes, np.float32)


def join(first: Signal, second: Signal) -> Signal:
    """Return one signal after the other."""
    return np.concatenate([first, second])


def windows(signal: Signal) -> NDArray[np.float32]:
    """Return a signal cut in windows: (N, WINDOW, 1)."""
    count = len(signal) // WINDOW
    return signal[: count * WINDOW].reshape(count, WINDOW, 1)


def write_csv(path: Path, signal: Signal) -> None:
    """Write a signal as CSV: time in seconds, acceleration in g."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(len(signal)) / RATE_HZ
    table = np.column_stack((time_s, signal))
    np.savetxt(path, table, delimiter=",", header="time_s,acceleration_g", comments="", fmt="%.6f")
