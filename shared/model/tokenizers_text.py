"""Texts to a model's ids: bytes, or a tokenizer.json read by the `tokenizers` package.

1. A tokenizer.json comes from a stranger: it is at most TOKENIZER_BYTES_MAX, its vocabulary at most
   VOCABULARY_MAX; it is data, read by a parser in Rust, and no code of it runs. What would cost
   that parser unbounded time or memory is looked for first (tokenizer_rules.py).
2. The package raises the base class of all and nothing narrower (0.23.3, from Rust), and where it
   panics an exception that is not even an Exception. Just these two become errors of ours. A short
   text is tried when the file is opened, so that what panics at once is refused then.
3. Ids are cut to the model's length as the file's own rules say (its last token stays the last),
   then padded with the file's padding id, so that every text is int64 (length,).
4. Of a text the first CHARS_PER_TOKEN characters for each id count: the rest could not matter,
   and no text takes long.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.errors import ContractError, IsthmusError, RefusedError
from shared.model.preprocess import Tokenize, to_bytes
from shared.model.spec import ModelSpec, TextInput
from shared.model.spec import Tokenizer as TokenizerKind
from shared.model.tokenizer_rules import CHARS_PER_TOKEN, check_rules, invalid
from shared.release.manifest import TOKENIZER_BYTES_MAX

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY_MAX = 1_000_000
PADDING_NAMES = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")
PROBES = ("", "Pump 3, 71.5 degrees: \u6f22\u5b57 \u00e9\n")
_ANY: tuple[type[BaseException], ...] = (BaseException,)  # `_is_of_package` tells which
_PANICS = "pyo3_runtime"  # The module of PanicException, which cannot be imported

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
    length = spec.input.length
    tokenizer = _open(path, length)
    marks_count = tokenizer.num_special_tokens_to_add(is_pair=False)
    if marks_count >= length:
        raise invalid(
            f"it puts {marks_count} tokens around a text, and the model takes {length} in all"
        )
    return partial(_encode, tokenizer, length)


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
    check_rules(data, length=length)
    with _errors_as(invalid):
        tokenizer = Tokenizer.from_str(data)
        count = tokenizer.get_vocab_size(with_added_tokens=True)
        if not 0 < count <= VOCABULARY_MAX:
            raise invalid(f"it knows {count} tokens, 1 to {VOCABULARY_MAX} are possible")
        _pad_to(tokenizer, length)
        tokenizer.enable_truncation(max_length=length)
        _probe(tokenizer)
    return tokenizer


def _probe(tokenizer: "Tokenizer") -> None:
    """Let it panic now if it will; a text that it merely does not know is no fault of the file."""
    for text in PROBES:
        try:
            tokenizer.encode(text)
        except _ANY as error:
            if type(error) is not Exception:
                raise


@contextmanager
def _errors_as(ours: Callable[[str], IsthmusError]) -> Iterator[None]:
    """Turn what the package raises into one of our errors; rule 2."""
    try:
        yield
    except _ANY as error:
        if not _is_of_package(error):
            raise
        raise ours(str(error)[:200].rstrip(".")) from error


def _is_of_package(error: BaseException) -> bool:
    return type(error) is Exception or type(error).__module__ == _PANICS


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
    # UTF-8 has no lone surrogates, which Python's texts may have and Rust's may not.
    clean = text[: length * CHARS_PER_TOKEN].encode("utf-8", "replace").decode()
    with _errors_as(_unusable):
        ids = tokenizer.encode(clean).ids
    if len(ids) != length:
        raise RefusedError("inference.input", f"The text makes {len(ids)} ids, not {length}.")
    return np.array(ids, dtype=np.int64)


def _unusable(problem: str) -> RefusedError:
    return RefusedError("inference.input", f"The text cannot be made into tokens: {problem}.")


def _read(path: Path | None) -> str:
    if path is None:
        raise _missing("the model has none beside it")
    try:
        with path.open("rb") as file:
            data = file.read(TOKENIZER_BYTES_MAX + 1)
    except OSError as error:
        raise _missing(f"{path.name} cannot be read ({error.strerror})") from error
    if len(data) > TOKENIZER_BYTES_MAX:
        raise invalid(f"it is over {TOKENIZER_BYTES_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise invalid("it is not UTF-8") from error


def _missing(problem: str) -> ContractError:
    return ContractError(
        "tokenizer.missing",
        f"There is no tokenizer.json: {problem}.",
        remedy="Upload the model together with its tokenizer.json.",
    )
