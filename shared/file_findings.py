"""What both doctors look at: the state folder and its disk. Changes nothing."""

import os
from pathlib import Path

from shared.findings import Finding, Level


def look_at_folder(state: Path, *, made_by: str) -> Finding:
    """Return how a state folder stands; BAD means that this user may not look into it.

    Args: made_by: what makes it ("It is made when the device joins"), for one that is not there.
    """
    if not os.access(state, os.F_OK):
        return Finding(
            "state folder",
            Level.WARNING,
            f"{state} is not there, or not for this user to see.",
            f"{made_by}, or name another one with --state.",
        )
    if not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        return Finding(
            "state folder",
            Level.BAD,
            f"{state} cannot be used by this user.",
            f"Run as the user that owns it, or: chown -R $(id -un) {state}",
        )
    return Finding("state folder", Level.GOOD, str(state))


def look_at_disk(folder: Path, *, bytes_min: int) -> Finding:
    """Return how much room there is where `folder` is, or will be."""
    existing = next(place for place in (folder, *folder.parents) if os.access(place, os.F_OK))
    status = os.statvfs(existing)
    free = status.f_bavail * status.f_frsize
    if free < bytes_min:
        return Finding(
            "disk",
            Level.WARNING,
            f"{free >> 20} MiB free at {existing}.",
            f"Make room: less than {bytes_min >> 20} MiB is little for models and telemetry.",
        )
    return Finding("disk", Level.GOOD, f"{free >> 20} MiB free")
