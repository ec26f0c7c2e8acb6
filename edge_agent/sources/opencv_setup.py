"""OpenCV's own settings, for the whole process.

1. One thread: its pool wins nothing on small pictures, and takes CPU from inference.
2. Its warnings, and those of the ffmpeg in it, go to stderr beside our log; what they say, we say
   ourselves. ffmpeg's can only be kept quiet by an environment variable; one that is set wins.
"""

import os

import cv2

_FFMPEG_QUIET = "-8"  # AV_LOG_QUIET


def set_up_opencv() -> None:
    """Set the above; harmless to repeat."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _FFMPEG_QUIET)  # Read when a video is opened
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
