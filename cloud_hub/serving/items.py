"""What people send over the API, as the bytes that a serving process takes. Pure, without numpy."""

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Sequence

from shared.errors import ContractError
from shared.model.spec import ImageInput, ModelSpec, TextInput, WindowInput

ITEMS_MAX = 256  # Of one request
PICTURE_BYTES_MAX = 24 << 20
FLOAT32_MAX = 3.4028234663852886e38


def picture_bytes(text: str, field: str) -> bytes:
    """Return base64 as an encoded picture. Raises ContractError `request.invalid`."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad(field, "it is not base64") from error
    return checked_picture(data, field)


def checked_picture(data: bytes, field: str) -> bytes:
    """Return a picture of a bearable size. Raises ContractError `request.invalid`."""
    if not 0 < len(data) <= PICTURE_BYTES_MAX:
        raise bad(field, f"a picture has 1 to {PICTURE_BYTES_MAX} bytes, not {len(data)}")
    return data


def window_bytes(rows: Sequence[Sequence[float]], window: WindowInput, field: str) -> bytes:
    """Return samples (T, C) as float32 bytes. Raises ContractError `request.invalid`."""
    if len(rows) != window.samples or any(len(row) != window.channels for row in rows):
        widths = sorted({len(row) for row in rows})[:3]
        raise bad(
            field,
            f"the model takes {window.samples} samples of {window.channels} channels, "
            f"not {len(rows)} of {' or '.join(map(str, widths)) or 'none'}",
        )
    numbers = [number for row in rows for number in row]
    if not all(math.isfinite(number) and abs(number) <= FLOAT32_MAX for number in numbers):
        raise bad(field, "a sample is not a finite number of 32 bits")
    packed = array("f", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def text_bytes(text: str) -> bytes:
    """Return a message as UTF-8."""
    return text.encode("utf-8", errors="replace")


def wanted_field(spec: ModelSpec) -> str:
    """Return which field of an item a model takes."""
    match spec.input:
        case ImageInput():
            return "image"
        case WindowInput():
            return "window"
        case TextInput():
            return "text"


def bad(field: str, reason: str) -> ContractError:
    """Return what is wrong with a field of a request."""
    return ContractError(
        "request.invalid",
        f"{field}: {reason}.",
        remedy="GET the same address for what the model takes, with an example.",
    )
