"""The bytes of one item, checked as far as that needs no decoding. Pure."""

from cloud_hub.datasets.manifest import ITEM_BYTES_MAX
from cloud_hub.datasets.raw_item import Broken
from cloud_hub.datasets.readers.image_header import is_whole, read_header
from cloud_hub.datasets.readers.raw_texts import short_name

TEXT_BYTES_MAX = 64 << 10  # Of one message
PIXELS_MAX = 100_000_000  # Of one picture: a small file may say that it is huge


def checked_picture(data: bytes, name: str) -> bytes | Broken:
    """Return a picture's bytes, or Broken if it is no PNG, JPEG or WebP of a sane size."""
    if not data:
        return Broken(short_name(name), "is empty")
    if len(data) > ITEM_BYTES_MAX:
        return Broken(short_name(name), f"is over {ITEM_BYTES_MAX} bytes")
    header = read_header(data)
    if header is None:
        return Broken(short_name(name), "is no PNG, JPEG or WebP")
    if header.width * header.height > PIXELS_MAX:
        return Broken(short_name(name), f"has over {PIXELS_MAX} pixels")
    return data if is_whole(data, header) else Broken(short_name(name), "is cut off")


def checked_text(data: bytes, name: str) -> bytes | Broken:
    """Return a message's bytes, or Broken if it is empty, too long or not UTF-8."""
    if len(data) > TEXT_BYTES_MAX:
        return Broken(short_name(name), f"is over {TEXT_BYTES_MAX} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return Broken(short_name(name), "is not UTF-8")
    return data if text.strip() else Broken(short_name(name), "is empty")
