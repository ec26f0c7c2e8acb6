"""A count with its noun, as people say it: "1 device", "3 devices". Pure."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return `count` and the noun in its number. Args: plural: where an -s does not make it."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
