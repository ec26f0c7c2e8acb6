"""The folder of a serving process: what it is started with."""

import msgspec

from cloud_hub.serving.settings import ServingSettings
from shared.model.spec import ModelSpec

MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"  # Of a text model that has one
TASK = "task.json"
MODULE = "cloud_hub.serving.onnx_worker"
SOCKET_NAME = "ISTHMUS_SERVING_SOCKET"  # Environment: the number of the socket's descriptor
PIXELS_MAX = 64_000_000  # Of a picture; opencv refuses larger ones before it decodes them


class ServingTask(msgspec.Struct, frozen=True):
    """`task.json`."""

    spec: ModelSpec
    settings: ServingSettings
