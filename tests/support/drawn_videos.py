"""What ffprobe says of a video, and its frames."""

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.support.requirements import require_program


def probe(path: Path) -> tuple[str, int, float]:
    """Return codec, number of frames and frames a second."""
    done = subprocess.run(
        [
            require_program("ffprobe"),
            *("-v", "error", "-count_frames", "-select_streams", "v:0", "-of", "json"),
            *("-show_entries", "stream=codec_name,nb_read_frames,r_frame_rate", str(path)),
        ],
        capture_output=True,
        check=True,
    )
    stream = json.loads(done.stdout)["streams"][0]
    over, _, under = stream["r_frame_rate"].partition("/")
    return stream["codec_name"], int(stream["nb_read_frames"]), int(over) / int(under)


def frames(path: Path) -> list[NDArray[np.uint8]]:
    video = cv2.VideoCapture(str(path))
    found = []
    while True:
        is_read, pixels = video.read()
        if not is_read:
            video.release()
            return found
        found.append(np.asarray(pixels, np.uint8))
