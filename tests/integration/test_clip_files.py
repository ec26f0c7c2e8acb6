"""ClipWriter: what players and browsers take its files for, and that they come silently."""

import base64
from pathlib import Path

import numpy as np
import pytest

from edge_agent.sinks.opencv_clip_writer import ClipWriter, find_encoding
from shared.errors import TransientError
from tests.support.browser import open_page
from tests.support.drawn_videos import probe

FRAMES = 15
PAGE = '<video src="data:video/webm;base64,{}" muted></video>'
# Everything is read and decoded; then how long it is, how large, and how bright at its end.
PLAYED = """
(() => { const v = document.querySelector("video");
  if (v.error) return v.error.message;
  if (v.readyState < 2) return null;
  if (!window.asked) { window.asked = true; v.currentTime = 2.9; return null; }
  if (v.seeking) return null;
  const c = document.createElement("canvas"); c.width = c.height = 8;
  const g = c.getContext("2d"); g.drawImage(v, 0, 0, 8, 8);
  return [v.duration, v.videoWidth, v.videoHeight, g.getImageData(4, 4, 1, 1).data[0]]; })()
"""


def write_clip(path: Path, *, code: str = "VP80") -> None:
    writer = ClipWriter(path, code=code, fps=5.0, size=(64, 48), began_s=0.0)
    for i in range(FRAMES):
        writer.add(np.full((48, 64, 3), 10 * i, np.uint8), i / 5)
    writer.close(FRAMES / 5)


@pytest.mark.parametrize(
    ("code", "suffix", "codec"), [("VP80", ".webm", "vp8"), ("mp4v", ".mp4", "mpeg4")]
)
def test_a_clip_is_written_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], code: str, suffix: str, codec: str
) -> None:
    write_clip(tmp_path / f"clip{suffix}", code=code)
    assert find_encoding(tmp_path) == ("VP80", ".webm")
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == [f"clip{suffix}"]
    assert probe(tmp_path / f"clip{suffix}") == (codec, FRAMES, 5.0)


@pytest.mark.slow
def test_a_browser_plays_a_clip(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.webm")
    data = (tmp_path / "clip.webm").read_bytes()
    assert b"webm" in data[:64]
    page_path = tmp_path / "page.html"
    page_path.write_text(PAGE.format(base64.b64encode(data).decode()))
    with open_page(tmp_path / "profile") as page:
        page.open(page_path.as_uri())
        seconds, width, height, gray = page.wait(PLAYED)
    assert seconds == pytest.approx(FRAMES / 5, abs=0.05)
    assert (width, height) == (64, 48)
    assert abs(gray - 140) < 8


def test_a_folder_that_went_away_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    writer = ClipWriter(folder / "clip.webm", code="VP80", fps=5.0, size=(64, 48), began_s=0.0)
    writer.add(np.zeros((48, 64, 3), np.uint8), 0.0)
    (folder / "clip.mkv").unlink()
    with pytest.raises(TransientError, match=r"clip\.webm"):
        writer.close(1.0)
