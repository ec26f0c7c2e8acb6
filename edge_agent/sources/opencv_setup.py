"""OpenCV's own settings, for the whole process.

1. One thread: its pool wins nothing on small pictures, and takes CPU from inference.
2. Its warnings go to stderr beside our log; what they say, we say ourselves.
"""

import cv2


def set_up_opencv() -> None:
    """Set the above; harmless to repeat."""
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
