"""Items as they come over the API, brought to a model's input exactly as a device does it."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_hub.serving.prepared import Prepared
from shared.errors import ContractError
from shared.model.opencv_resize import FrameResizer
from shared.model.preprocess import FLOAT, Tokenize, compared_with, to_bytes, to_tensor
from shared.model.spec import ImageInput, ModelSpec, TextInput, WindowInput


class ItemReader:
    """Reads items of one model. Not shared between threads."""

    def __init__(
        self, spec: ModelSpec, dtype: np.dtype[np.generic], tokenize: Tokenize = to_bytes
    ) -> None:
        """Args: `dtype` is what the model's input takes; `tokenize` makes items of texts."""
        self._tokenize = tokenize
        self._spec = spec
        self._dtype = dtype
        self._resizer = FrameResizer(spec.input) if isinstance(spec.input, ImageInput) else None

    def read(self, data: bytes) -> Prepared:
        """Return an item's tensor.

        Raises ContractError `serving.item`, RefusedError `inference.input`.
        """
        match self._spec.input:
            case ImageInput():
                return self._picture(data)
            case WindowInput(samples=samples, channels=channels):
                if len(data) != samples * channels * FLOAT.itemsize:
                    got = len(data) // (channels * FLOAT.itemsize)
                    raise _bad(f"it has {got} samples of {channels} channels, not {samples}")
                window = np.frombuffer(data, "<f4").reshape(samples, channels)
                tensor = to_tensor(window, self._spec, dtype=self._dtype)
                return Prepared(tensor, None, compared_with(window, tensor, self._spec))
            case TextInput():
                text = self._tokenize(data.decode("utf-8", "replace"))
                return Prepared(to_tensor(text, self._spec, dtype=self._dtype), None)

    def _picture(self, data: bytes) -> Prepared:
        assert self._resizer is not None
        pixels: NDArray[np.uint8] | None
        try:
            encoded = np.frombuffer(data, np.uint8)
            pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if data else None  # type: ignore[assignment]  # The stub says any integer or float
        except cv2.error:
            pixels = None
        if pixels is None:
            raise _bad("it is not a picture that can be read, or has too many pixels")
        resized, placement = self._resizer.resize(pixels)
        return Prepared(to_tensor(resized, self._spec, dtype=self._dtype), placement)


def _bad(reason: str) -> ContractError:
    return ContractError(
        "serving.item",
        f"The item cannot be used: {reason}.",
        remedy="Send a PNG, JPEG or WebP picture, or JSON as the model's OpenAPI page shows.",
    )
