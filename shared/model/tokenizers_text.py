"""Texts to a model's ids: bytes, or a tokenizer.json read by the `tokenizers` package.

1. A tokenizer.json comes from a stranger: it is at most TOKENIZER_BYTES_MAX, its vocabulary at most
   VOCABULARY_MAX; it is data, read by a parser in Rust, and no code of it runs.
2. A regular expression in it may be short and may not repeat a group, nor refer back: one that
   does can take for ever on a short text. What GPT-2, GPT-4, Llama 3 and Qwen 2 split texts by is
   allowed.
3. Ids are cut to the model's length as the file's own rules say (its last token stays the last),
   then padded with the file's padding id, so that every text is int64 (length,).
4. Of a text the first CHARS_PER_TOKEN characters for each id count: the rest could not matter,
   and no text takes long.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ContractError, RefusedError
from shared.model.preprocess import Tokenize, to_bytes
from shared.model.spec import ModelSpec, TextInput
from shared.model.spec import Tokenizer as TokenizerKind
from shared.release.manifest import TOKENIZER_BYTES_MAX

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY_MAX = 1_000_000
CHARS_PER_TOKEN = 32
PATTERN_CHARS_MAX = 512
PADDING_NAMES = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")
PARTS_MAX = 1000  # Of the file's rules, all together
# The package raises the base class of all and nothing narrower (0.23).
TOKENIZERS_ERRORS: tuple[type[Exception], ...] = (Exception,)
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
_REPEATED_GROUP = re.compile(r"\)(?:[*+]|\{)")
_REFERENCE = re.compile(r"\\(?:[1-9]|k[<{'])")

Tokens = NDArray[np.int64]


def load_tokenizer(path: Path | None, spec: ModelSpec) -> Tokenize:
    """Return what makes an item of a text, for a model that takes texts.

    Args:
        path: of tokenizer.json; asked for only where the spec says `tokenizer-json`.
        spec: the model's.

    Returns a function of a text: int64 ids (length,), or uint8 bytes (n,); it raises RefusedError
    `inference.input`.

    Raises:
        ContractError: `tokenizer.missing`, `tokenizer.invalid` or `tokenizer.padding`.
    """
    assert isinstance(spec.input, TextInput), "only texts have tokens"
    if spec.input.tokenizer is TokenizerKind.BYTES:
        return to_bytes
    return partial(_encode, _open(path, spec.input.length), spec.input.length)


def padding_id(path: Path | None) -> int:
    """Return the id that fills up short texts; a graph tells by it what is no text.

    Raises ContractError as load_tokenizer does.
    """
    padding = _open(path, 1).padding
    assert padding is not None, "set when it was opened"
    found: int = padding["pad_id"]
    return found


def _open(path: Path | None, length: int) -> "Tokenizer":
    # A third party's, and only devices with such a model should pay for it (7 MB of memory).
    from tokenizers import Tokenizer

    data = _read(path)
    _check(data)
    try:
        tokenizer = Tokenizer.from_str(data)
        count = tokenizer.get_vocab_size(with_added_tokens=True)
        if not 0 < count <= VOCABULARY_MAX:
            raise _invalid(f"it knows {count} tokens, 1 to {VOCABULARY_MAX} are possible")
        _pad_to(tokenizer, length)
        tokenizer.enable_truncation(max_length=length)
    except ContractError:
        raise
    except TOKENIZERS_ERRORS as error:
        raise _invalid(str(error)[:200]) from error
    return tokenizer


def _pad_to(tokenizer: "Tokenizer", length: int) -> None:
    """Make it fill texts up, by the file's own rule or with its padding token."""
    own = tokenizer.padding
    if own is not None:
        name, number, side = own["pad_token"], own["pad_id"], own["direction"]
    else:
        known = ((name, tokenizer.token_to_id(name)) for name in PADDING_NAMES)
        name, number = next((pair for pair in known if pair[1] is not None), ("", None))
        side = "right"
        if number is None:
            raise ContractError(
                "tokenizer.padding",
                "The tokenizer names no padding token.",
                remedy="Call its enable_padding(pad_id=..., pad_token=...) and save it again.",
            )
    tokenizer.enable_padding(direction=side, pad_id=number, pad_token=name, length=length)


def _encode(tokenizer: "Tokenizer", length: int, text: str) -> Tokens:
    try:
        # UTF-8 has no lone surrogates, which Python's texts may have and Rust's may not.
        clean = text[: length * CHARS_PER_TOKEN].encode("utf-8", "replace").decode()
        ids = tokenizer.encode(clean).ids
    except TOKENIZERS_ERRORS as error:
        raise RefusedError(
            "inference.input", f"The text cannot be made into tokens: {str(error)[:200]}."
        ) from error
    if len(ids) != length:
        raise RefusedError("inference.input", f"The text makes {len(ids)} ids, not {length}.")
    return np.array(ids, dtype=np.int64)


def _read(path: Path | None) -> str:
    if path is None:
        raise _missing("the model has none beside it")
    try:
        with path.open("rb") as file:
            data = file.read(TOKENIZER_BYTES_MAX + 1)
    except OSError as error:
        raise _missing(f"{path.name} cannot be read ({error.strerror})") from error
    if len(data) > TOKENIZER_BYTES_MAX:
        raise _invalid(f"it is over {TOKENIZER_BYTES_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _invalid("it is not UTF-8") from error


def _check(data: str) -> None:
    """Raise ContractError `tokenizer.invalid` for what rule 2 forbids."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"it is not JSON ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise _invalid("it has no model")
    for pattern in _patterns([found.get(name) for name in ("normalizer", "pre_tokenizer")]):
        bare = _CLASS.sub("x", _ESCAPE.sub("x", pattern))
        is_risky = _REPEATED_GROUP.search(bare) or _REFERENCE.search(pattern)
        if len(pattern) > PATTERN_CHARS_MAX or is_risky:
            raise _invalid(
                f"the regular expression {pattern[:60]!r} is over {PATTERN_CHARS_MAX} characters, "
                "repeats a group or refers back, and could take for ever"
            )


def _patterns(parts: list[Any]) -> Iterator[str]:
    """Yield the regular expressions within the file's rules."""
    seen = 0
    while parts:
        part = parts.pop()
        seen += 1
        if seen > PARTS_MAX:
            raise _invalid(f"its rules have over {PARTS_MAX} parts")
        match part:
            case {"Regex": str(pattern)}:
                yield pattern
            case dict():
                parts += part.values()
            case list():
                parts += part


def _missing(problem: str) -> ContractError:
    return ContractError(
        "tokenizer.missing",
        f"There is no tokenizer.json: {problem}.",
        remedy="Upload the model together with its tokenizer.json.",
    )


def _invalid(problem: str) -> ContractError:
    return ContractError(
        "tokenizer.invalid",
        f"Not a tokenizer.json: {problem}.",
        remedy="Save it with the `tokenizers` package: tokenizer.save('tokenizer.json').",
    )
