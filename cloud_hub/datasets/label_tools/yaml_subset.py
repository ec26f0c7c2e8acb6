"""The little of YAML that a YOLO data.yaml uses; more than that is refused. Pure.

1. `key: value`; a list or a mapping in brackets, or indented below on lines of its own (`- name`,
   `0: name`); quotes of both kinds; comments. Everything is a text.
2. Tags, anchors, block texts, deeper nesting: ValueError with the line.
"""

import re
from collections.abc import Iterator, Sequence

BYTES_MAX = 4 << 20
LINES_MAX = 200_000
BRACKETS = {"[": "]", "{": "}"}
FORBIDDEN = ("!", "&", "*", "|", ">", "@", "`", "%", "---", "? ")
_QUOTED = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^']|'')*)')\s*""")
_BARE = re.compile(r"[^,\[\]{}#\"]+")
_BARE_KEY = re.compile(r"[^,\[\]{}#\":]+")

Value = str | list[str] | dict[str, str]


def parse_yaml(text: str) -> dict[str, Value]:
    """Return the top-level keys. Raises ValueError with the line and what is wrong."""
    found: dict[str, Value] = {}
    key = ""
    lines = text.split("\n")
    if len(lines) > LINES_MAX:
        raise ValueError(f"it has over {LINES_MAX} lines")
    for number, line in _joined(lines):
        if not line.strip() or line.strip() == "---":
            continue
        try:
            if line[0] in " \t-":
                _add_below(found, key, line.strip())
            else:
                key, value = _key_and_rest(line)
                _add(found, key, value)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return found


def quoted(text: str) -> str:
    """Return a text as YAML, in quotes."""
    return "'" + text.replace("'", "''") + "'"


def _joined(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield lines without comments, each with its number; brackets left open take in the next."""
    held: list[str] = []
    start = 0
    end = ""
    for number, raw in enumerate(lines, start=1):
        line = _without_comment(raw.rstrip("\r"))
        if held:
            held.append(line.strip())
        else:
            _, _, value = line.partition(": ")
            start, end = number, BRACKETS.get(value.strip()[:1], "")
            held = [line]
        if not end or line.endswith(end):
            yield start, " ".join(held)
            held = []
    if held:
        yield start, " ".join(held)


def _add(found: dict[str, Value], key: str, text: str) -> None:
    if key in found:
        raise ValueError(f"{key!r} is there twice")
    found[key] = _value(text)


def _add_below(found: dict[str, Value], key: str, line: str) -> None:
    """Add an indented line to the key above it."""
    if key not in found:
        raise ValueError("an indented line has no key above it")
    if line.startswith("- "):
        held = found[key]
        if held == "":
            held = found[key] = []
        if not isinstance(held, list):
            raise ValueError("a list item is not in a list")
        held.append(_scalar(line[2:].strip()))
        return
    inner, rest = _key_and_rest(line)
    held = found[key]
    if held == "":
        held = found[key] = {}
    if not isinstance(held, dict) or not rest:
        raise ValueError("more nesting than a data.yaml has")
    held[inner] = _scalar(rest)


def _key_and_rest(line: str) -> tuple[str, str]:
    quoted_key = _QUOTED.match(line)
    if quoted_key is not None:
        key, rest = _unquoted(quoted_key), line[quoted_key.end() :]
        has_colon = rest.startswith(":")
        rest = rest[1:]
    else:
        key, colon, rest = line.partition(":")
        has_colon = bool(colon) and (not rest or rest[0] in " \t")
    if not has_colon or not key.strip():
        raise ValueError("it is not `key: value`")
    return key.strip(), rest.strip()


def _value(text: str) -> Value:
    if text.startswith("["):
        return [item for item, _ in _tokens(text, "]")]
    if text.startswith("{"):
        return {item: rest or "" for item, rest in _tokens(text, "}")}
    return _scalar(text) if text else ""


def _tokens(text: str, end: str) -> list[tuple[str, str | None]]:
    """Return what stands between brackets: items, or keys with their values."""
    found: list[tuple[str, str | None]] = []
    position = _after_blanks(text, 1)
    while text[position : position + 1] != end:
        rest: str | None = None
        item, position = _token(text, position, _BARE_KEY if end == "}" else _BARE)
        if end == "}":
            if text[position : position + 1] != ":":
                raise ValueError("a mapping in braces lacks a colon")
            rest, position = _token(text, position + 1, _BARE)
        found.append((item, rest))
        if text[position : position + 1] == ",":
            position = _after_blanks(text, position + 1)
        elif text[position : position + 1] != end:
            raise ValueError("brackets are not closed")
    if text[position + 1 :].strip():
        raise ValueError("something follows the brackets")
    return found


def _token(text: str, position: int, bare: re.Pattern[str]) -> tuple[str, int]:
    """Return a token, without its quotes, and where it ends."""
    quoted_text = _QUOTED.match(text, position)
    if quoted_text is not None:
        return _unquoted(quoted_text), quoted_text.end()
    found = bare.match(text, position)
    if found is None or not found[0].strip():
        raise ValueError("brackets are not closed, or hold more brackets")
    return _scalar(found[0].strip()), found.end()


def _after_blanks(text: str, position: int) -> int:
    while text[position : position + 1] in {" ", "\t"}:
        position += 1
    return position


def _unquoted(match: re.Match[str]) -> str:
    double, single = match.groups()
    return _unescaped(double) if double is not None else single.replace("''", "'")


def _scalar(text: str) -> str:
    if text.startswith(FORBIDDEN):
        raise ValueError(f"{text[:1]!r} begins something a data.yaml does not need")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return _unescaped(text[1:-1])
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    return text


def _unescaped(text: str) -> str:
    escapes = {"n": "\n", "t": "\t"}
    return re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), text)


def _without_comment(line: str) -> str:
    """Return a line without its comment; "#" within quotes or within a word is none."""
    quote = ""
    for index, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'" and (index == 0 or line[index - 1] in " \t[{,:-"):
            quote = character
        elif character == "#" and (index == 0 or line[index - 1] in " \t"):
            return line[:index].rstrip()
    return line.rstrip()
