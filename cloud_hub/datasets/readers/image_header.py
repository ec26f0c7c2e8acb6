"""What the first bytes of a picture say: its format and size. Pure; nothing is decoded.

PNG: W3C PNG (third edition) 11.2.1. JPEG: ITU-T T.81 B.2.2. WebP: RFC 9649 2.4-2.7.
"""

from dataclasses import dataclass

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
SEGMENTS_MAX = 10_000  # Of a JPEG, before its frame
# Start of frame, all kinds; DHT (C4), JPG (C8) and DAC (CC) lie between and are none.
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
LONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """A picture's format and size in pixels, as stored."""

    suffix: str  # ".png", ".jpg", ".webp"
    width: int
    height: int


def read_header(data: bytes) -> ImageHeader | None:
    """Return what a picture says of itself, or None if it is no PNG, JPEG or WebP."""
    header = None
    if data.startswith(PNG_MAGIC):
        header = _of_png(data)
    elif data.startswith(JPEG_MAGIC):
        header = _of_jpeg(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        header = _of_webp(data)
    return header if header is not None and header.width and header.height else None


def is_whole(data: bytes, header: ImageHeader) -> bool:
    """Return whether a picture's end is there; what cameras write behind it does not matter."""
    match header.suffix:
        case ".png":
            return data.rfind(b"IEND") >= 0
        case ".jpg":  # A preview in the metadata has an end too, which lies in the first half
            return data.rfind(b"\xff\xd9", len(data) // 2) >= 0
        case _:
            return len(data) >= _little(data[4:8]) + 8


def _of_png(data: bytes) -> ImageHeader | None:
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return ImageHeader(".png", _big(data[16:20]), _big(data[20:24]))


def _of_jpeg(data: bytes) -> ImageHeader | None:
    position = 2
    for _ in range(SEGMENTS_MAX):
        while data[position : position + 2] == b"\xff\xff":  # Fill bytes
            position += 1
        if len(data) < position + 9 or data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker in FRAME_MARKERS:
            size = data[position + 5 : position + 9]
            return ImageHeader(".jpg", _big(size[2:]), _big(size[:2]))
        length = 0 if marker in LONE_MARKERS else _big(data[position + 2 : position + 4])
        position += 2 + length
    return None


def _of_webp(data: bytes) -> ImageHeader | None:
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return ImageHeader(".webp", _little(data[24:27]) + 1, _little(data[27:30]) + 1)
    if chunk == b"VP8L" and len(data) >= 25 and data[20] == 0x2F:
        bits = _little(data[21:25])
        return ImageHeader(".webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if chunk == b"VP8 " and len(data) >= 30 and data[23:26] == b"\x9d\x01\x2a":
        return ImageHeader(".webp", _little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF)
    return None


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
