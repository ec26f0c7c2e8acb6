"""What a runtime's own errors say, in our words. Pure."""

import re

from shared.errors import RefusedError

TEXT_CHARS_MAX = 300
MEMORY_WORDS = ("failed to allocate memory", "bad_alloc", "bad allocation", "out of memory")


_NO_MODEL = ("INVALID_PROTOBUF", "No graph was found in the protobuf")
_OPSET = re.compile(r"Opset (\d+) is under development.* till opset (\d+)", re.DOTALL)
# What onnxruntime puts before what it has to say: its own name, a number, the path, a C++ place.
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:Load model from .*? failed:)?")


def why_unloadable(error: Exception) -> str:
    """Return why a runtime did not load a file, for people who have never seen the runtime."""
    text = str(error)
    if any(words in text for words in _NO_MODEL):
        return "it is not an ONNX file, or only a part of one"
    if opset := _OPSET.search(text):
        return f"it is of opset {opset[1]}, and this runtime knows them up to {opset[2]}"
    return _PREFIX.sub("", first_line(error))


def is_out_of_memory(error: Exception) -> bool:
    """Whether a runtime's error says that it got no memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in MEMORY_WORDS)


def out_of_memory(model: str, error: Exception) -> RefusedError:
    """Return what to raise then."""
    return RefusedError(
        "worker.memory",
        f"The model {model} wants more memory than it may take: {first_line(error)}.",
        remedy="Take a smaller model, or raise inference.worker_bytes_max.",
    )


def first_line(error: Exception) -> str:
    """Return a foreign error's first line, cut."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:TEXT_CHARS_MAX].rstrip(".")
