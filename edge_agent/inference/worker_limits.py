"""What one inference worker may take, and how its deaths are counted. Values only."""

from dataclasses import dataclass

LOAD_S_MAX = 120.0  # A large model from a slow card
STEADY_S = 30.0
WAIT_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What one worker may take."""

    bytes_max: int = 1 << 30
    run_s_max: float = 5.0
    load_s_max: float = LOAD_S_MAX
    deaths_max: int = 5
    steady_s: float = STEADY_S
    wait_s_max: float = WAIT_S_MAX
