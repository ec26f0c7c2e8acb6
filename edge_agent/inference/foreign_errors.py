"""What a runtime's own errors say, in our words. Pure."""

from shared.errors import RefusedError

TEXT_CHARS_MAX = 300
MEMORY_WORDS = ("failed to allocate memory", "bad_alloc", "bad allocation", "out of memory")


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
