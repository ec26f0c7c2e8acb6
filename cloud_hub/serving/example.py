"""What a model's API looks like: its own OpenAPI document, with an example that works. Pure."""

import base64
import struct
import zlib
from typing import Any

from cloud_hub.serving.items import ITEMS_MAX, wanted_field
from shared.model.spec import ImageInput, ModelSpec, Task, TextInput, WindowInput

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
EXAMPLE_TEXT = "pump 3 is louder than yesterday"
_GRAY = 96
_DEPTH, _GRAYSCALE = 8, 0


def example_item(spec: ModelSpec) -> dict[str, Any]:
    """Return an item that the model takes: a gray picture, a window of its means, a short text."""
    match spec.input:
        case ImageInput(width=width, height=height):
            return {"image": base64.b64encode(gray_png(width, height)).decode()}
        case WindowInput(samples=samples, channels=channels, mean=mean):
            means = mean * channels if len(mean) == 1 else mean
            return {"window": [[float(value) for value in means]] * samples}
        case TextInput():
            return {"text": EXAMPLE_TEXT}


def gray_png(width: int, height: int) -> bytes:
    """Return a picture of one gray (PNG, W3C Recommendation 2003, section 11)."""
    row = b"\x00" + bytes([_GRAY]) * width
    header = struct.pack(">IIBBBBB", width, height, _DEPTH, _GRAYSCALE, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * height)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def model_openapi(spec: ModelSpec, *, version: int, path: str, server: str) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document for asking this one model."""
    example = {"items": [example_item(spec)]}
    body: dict[str, Any] = {
        "application/json": {"schema": _request_schema(spec), "example": example}
    }
    if isinstance(spec.input, ImageInput):
        for kind in ("image/png", "image/jpeg", "image/webp"):
            body[kind] = {"schema": {"type": "string", "format": "binary"}}
    answers = {"type": "array", "items": _answer_schema(spec)}
    content = {"application/json": {"schema": _object({"answers": answers})}}
    answered = {"description": "An answer for each item", "content": content}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{spec.model}, as the hub serves it",
            "version": str(version),
            "description": spec.description or f"{spec.task}, release {version}",
        },
        "servers": [{"url": server}],
        "security": [{"operator": []}],
        "components": {"securitySchemes": {"operator": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            path: {
                "post": {
                    "summary": f"Ask {spec.model}",
                    "operationId": "infer",
                    "requestBody": {"required": True, "content": body},
                    "responses": {"200": answered},
                }
            }
        },
    }


def _request_schema(spec: ModelSpec) -> dict[str, Any]:
    item = _object({wanted_field(spec): _field_schema(spec)})
    items = {"type": "array", "minItems": 1, "maxItems": ITEMS_MAX, "items": item}
    return _object({"items": items})


def _field_schema(spec: ModelSpec) -> dict[str, Any]:
    match spec.input:
        case ImageInput():
            return {
                "type": "string",
                "contentEncoding": "base64",
                "description": "A PNG, JPEG or WebP file of any size",
            }
        case WindowInput(samples=samples, channels=channels):
            row = {
                "type": "array",
                "minItems": channels,
                "maxItems": channels,
                "items": {"type": "number"},
            }
            return {"type": "array", "minItems": samples, "maxItems": samples, "items": row}
        case TextInput(length=length):
            return {"type": "string", "description": f"Of its UTF-8 the first {length} bytes count"}


def _answer_schema(spec: ModelSpec) -> dict[str, Any]:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    label = {"type": "string", "enum": list(spec.output.classes)}
    match spec.task:
        case Task.CLASSIFICATION:
            fields: dict[str, Any] = {
                "label": label,
                "probability": share,
                "probabilities": {"type": "object", "additionalProperties": share},
            }
        case Task.DETECTION:
            corners = dict.fromkeys(("left", "top", "right", "bottom"), share)
            box = _object({"label": label, "score": share, **corners})
            fields = {"boxes": {"type": "array", "items": box}}
        case Task.ANOMALY:
            fields = {"score": {"type": "number"}, "is_anomalous": {"type": "boolean"}}
        case Task.REGRESSION | Task.FORECAST:
            names = {"type": "array", "items": {"type": "string"}}
            values = {"type": "array", "items": {"type": "number"}}
            fields = {"values": values, "names": names, "unit": {"type": "string"}}
            return _object({"task": {"const": "values"}, **fields})
        case Task.SEGMENTATION:
            fields = {"shares": {"type": "object", "additionalProperties": share}}
    return _object({"task": {"const": str(spec.task)}, **fields})


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}
