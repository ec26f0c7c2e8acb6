"""ClipWriter: one short video, at a steady rate whatever the times of its frames.

1. VP8 in WebM where OpenCV was built with it, as its wheels are: every browser plays it. Else
   MPEG-4 Part 2 in MP4: players show it, browsers do not. (H.264 is in no wheel.) Measured at
   640 x 360 on one x86 core: 15 ms and 0.8 ms a frame.
2. WebM is Matroska with few features and another name in its header (webmproject.org, "WebM
   Container Guidelines"). OpenCV looks up a codec's tag in the table of a format, does not find one
   for WebM, which has no table, and says so on stderr for each file, whatever it is told to log. So
   the file is written as Matroska, and named WebM in its header when it is whole.
3. A frame is shown until the next one came; a clip's size is that of its first frame, made even,
   as encoders want it.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import TransientError

ENCODINGS = (("VP80", ".webm"), ("mp4v", ".mp4"))
MATROSKA, WEBM = ".mkv", ".webm"
SUFFIXES = (*(suffix for _, suffix in ENCODINGS), MATROSKA)  # The last of what is half written
HEADER_BYTES_MAX = 256
# The element DocType (0x4282) of 8 bytes; a shorter text ends with zeros (RFC 8794, 7.4).
_DOC_MATROSKA, _DOC_WEBM = b"\x42\x82\x88matroska", b"\x42\x82\x88webm\0\0\0\0"


class ClipWriter:
    """See the rules above. Belongs to one thread."""

    def __init__(
        self, path: Path, *, code: str, fps: float, size: tuple[int, int], began_s: float
    ) -> None:
        """Begin a file. Raises TransientError `clips.unwritable`.

        Args: code: of ENCODINGS; size: width and height; began_s: the time of the first frame.
        """
        self._path, self.began_s = path, began_s
        self.written_path = path.with_suffix(MATROSKA) if path.suffix == WEBM else path
        self._fps = fps
        self._size = max(2, size[0] & ~1), max(2, size[1] & ~1)
        self._last: NDArray[np.uint8] | None = None
        self.frames_count = 0
        self._writer = cv2.VideoWriter(
            str(self.written_path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), fps, self._size
        )
        if not self._writer.isOpened():
            raise TransientError("clips.unwritable", f"OpenCV cannot write {code} to {path}.")

    def add(self, picture: NDArray[np.uint8], at_s: float) -> None:
        """Add (H, W, 3) BGR pixels; the frame before is shown until `at_s`."""
        self._fill(at_s)
        width, height = self._size
        if picture.shape[1] - width in (0, 1) and picture.shape[0] - height in (0, 1):
            self._last = np.ascontiguousarray(picture[:height, :width])
        else:
            self._last = np.asarray(cv2.resize(picture, self._size), np.uint8)
        if self._due(at_s) >= self.frames_count:
            self._write(self._last)

    def close(self, at_s: float) -> None:
        """End the file, which is at `path` then; the last frame is shown until `at_s`.

        Raises TransientError `clips.unwritable`.
        """
        self._fill(at_s)
        self._writer.release()
        if self.written_path == self._path:
            return
        try:
            _name_webm(self.written_path)
            self.written_path.replace(self._path)
        except OSError as error:
            raise TransientError("clips.unwritable", f"{self._path}: {error}.") from error
        finally:
            self.written_path.unlink(missing_ok=True)

    def _due(self, at_s: float) -> int:
        """Return the number of the frame that is shown at `at_s`."""
        return round((at_s - self.began_s) * self._fps)

    def _fill(self, at_s: float) -> None:
        while self._last is not None and self.frames_count < self._due(at_s):
            self._write(self._last)

    def _write(self, picture: NDArray[np.uint8]) -> None:
        self._writer.write(picture)
        self.frames_count += 1


def _name_webm(path: Path) -> None:
    """Say in a Matroska file's header that it is WebM. Raises OSError."""
    with path.open("r+b") as file:
        at = file.read(HEADER_BYTES_MAX).find(_DOC_MATROSKA)
        if at < 0:
            raise OSError("no Matroska was written")
        file.seek(at)
        file.write(_DOC_WEBM)


def find_encoding(folder: Path) -> tuple[str, str]:
    """Return the first of ENCODINGS, and its suffix, that this OpenCV writes; tried in `folder`.

    Raises TransientError `clips.unwritable`: none.
    """
    for code, suffix in ENCODINGS:
        probe = folder / f".probe{suffix}"
        try:
            writer = ClipWriter(probe, code=code, fps=5.0, size=(16, 16), began_s=0.0)
            writer.add(np.zeros((16, 16, 3), np.uint8), 0.0)
            writer.close(0.0)
            if probe.is_file() and probe.stat().st_size > 0:
                return code, suffix
        except TransientError:
            continue
        finally:
            probe.unlink(missing_ok=True)
    raise TransientError("clips.unwritable", f"OpenCV can write no video into {folder}.")
