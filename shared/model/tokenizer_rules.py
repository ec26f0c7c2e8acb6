"""What a stranger's tokenizer.json may ask of the parser that reads it. Pure.

1. It is JSON that names no key twice: of two, this and the parser could each see another one.
2. Its rules have at most PARTS_MAX parts.
3. A regular expression is short and does not repeat a group, refer back, call a group or be
   written in the extended way: it could take for ever on a short text. What GPT-2, GPT-4, Llama 3
   and Qwen 2 split texts by is allowed. What still gets by ends at the regex library's own limit.
4. Rules that make a text longer multiply: the longest text that counts (CHARS_PER_TOKEN characters
   for each id), and its added tokens all together, may grow to EXPANDED_CHARS_MAX at most. A
   parser in Rust that runs out of memory takes the whole process with it.
5. A compiled map of characters is as long as its own head says.
6. Tokens, their prefixes and the words looked up have limits: looking up costs their product.

What must not live here: the `tokenizers` package, files.
"""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from shared.errors import ContractError

CHARS_PER_TOKEN = 32
PATTERN_CHARS_MAX = 512
PARTS_MAX = 1000  # Of the file's rules, all together
EXPANDED_CHARS_MAX = 1 << 25  # About 20 bytes each within the parser
TOKEN_CHARS_MAX = 1000
AFFIX_CHARS_MAX = 64
WORD_CHARS_MAX = 1000  # `max_input_chars_per_word`; 100 is usual
_RULES = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")
_MAP_HEAD_BYTES = 4
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
_REPEATED_GROUP = re.compile(r"\)(?:[*+]|\{)")
_EXTENDED = re.compile(r"\(\?[a-wyz-]*x")
_REFERENCE = re.compile(r"\\(?:[1-9]|[kg][<{'])")


def check_rules(data: str, *, length: int) -> None:
    """Raise ContractError `tokenizer.invalid` unless `data` keeps the rules above.

    Args: length: how many ids the model takes.
    """
    found = _parse(data)
    model = found.get("model")
    if not isinstance(model, dict):
        raise invalid("it has no model")
    parts = list(_parts([found.get(name) for name in _RULES]))
    for part in parts:
        if isinstance(part, dict) and isinstance(part.get("Regex"), str):
            _check_pattern(part["Regex"])
    _check_growth(parts, _added_chars(found), length)
    _check_model(model)


def invalid(problem: str) -> ContractError:
    """Return the error of a file that is no tokenizer.json that can be used."""
    return ContractError(
        "tokenizer.invalid",
        f"Not a usable tokenizer.json: {problem}.",
        remedy="Save it with the `tokenizers` package: tokenizer.save('tokenizer.json').",
    )


def _parse(data: str) -> dict[str, Any]:
    try:
        found = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise invalid(f"it is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise invalid("it has no model")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise ValueError(f"it names {twice[:40]!r} twice")
    return found


def _parts(pending: list[Any]) -> Iterator[Any]:
    """Yield every value within the file's rules."""
    seen = 0
    while pending:
        part = pending.pop()
        seen += 1
        if seen > PARTS_MAX:
            raise invalid(f"its rules have over {PARTS_MAX} parts")
        yield part
        if isinstance(part, dict):
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def _check_pattern(pattern: str) -> None:
    bare = _CLASS.sub("x", _ESCAPE.sub("x", pattern))
    is_risky = _REPEATED_GROUP.search(bare) or _EXTENDED.search(bare) or _REFERENCE.search(pattern)
    if len(pattern) > PATTERN_CHARS_MAX or is_risky:
        raise invalid(
            f"the regular expression {pattern[:60]!r} is over {PATTERN_CHARS_MAX} characters, "
            "repeats a group, refers back or is an extended one, and could take for ever"
        )


def _check_growth(parts: list[Any], added_chars: int, length: int) -> None:
    growth = 1
    for part in parts:
        if isinstance(part, dict):
            growth *= _growth(part)
        if growth * max(added_chars, length * CHARS_PER_TOKEN) > EXPANDED_CHARS_MAX:
            raise invalid(f"its rules may make a text over {EXPANDED_CHARS_MAX} characters long")


def _growth(part: dict[str, Any]) -> int:
    """Return how many times as long a rule may make a text of at least one character."""
    match part:
        # A pattern of its own may match nothing, everywhere.
        case {"type": "Replace", "content": str(content), "pattern": {"String": str(pattern)}}:
            return max(1, len(content)) if pattern else 1 + len(content)
        case {"type": "Replace", "content": str(content)}:
            return 1 + len(content)
        case {"type": "Prepend", "prepend": str(content)}:
            return 1 + len(content)
        case {"type": "Precompiled", "precompiled_charsmap": str(compiled)}:
            return _check_map(compiled)
        case {"type": "ByteLevel" | "Metaspace"}:
            return 2  # Of two bytes two characters; one more in front
        case {"type": "BertNormalizer"}:
            return 3  # A blank on either side of each Chinese character
    return 1


def _check_map(compiled: str) -> int:
    """Return the length of the longest text that a compiled map puts for a character.

    The format is SentencePiece's (src/normalizer.cc, EncodePrecompiledCharsMap): the trie's size
    in bytes as uint32 little-endian, the trie, then the texts, each ended by a zero byte.
    """
    try:
        data = base64.b64decode(compiled, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("its map of characters is not base64") from error
    trie_bytes = int.from_bytes(data[:_MAP_HEAD_BYTES], "little")
    texts = data[_MAP_HEAD_BYTES + trie_bytes :]
    if not trie_bytes or trie_bytes % 4 or not texts:
        raise invalid("its map of characters is cut short or damaged")
    return max(1, *(len(text.decode("utf-8", "replace")) for text in texts.split(b"\0")))


def _added_chars(found: dict[str, Any]) -> int:
    added = found.get("added_tokens")
    tokens = added if isinstance(added, list) else []
    return sum(
        len(token["content"])
        for token in tokens
        if isinstance(token, dict) and isinstance(token.get("content"), str)
    )


def _check_model(model: dict[str, Any]) -> None:
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):  # Unigram: [text, score] each
        vocabulary = [pair[0] for pair in vocabulary if isinstance(pair, list) and pair]
    if isinstance(vocabulary, list | dict):
        longest = max((len(text) for text in vocabulary if isinstance(text, str)), default=0)
        if longest > TOKEN_CHARS_MAX:
            raise invalid(f"a token has {longest} characters, {TOKEN_CHARS_MAX} are possible")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        affix = model.get(name)
        if isinstance(affix, str) and len(affix) > AFFIX_CHARS_MAX:
            raise invalid(f"its {name} has over {AFFIX_CHARS_MAX} characters")
    word_chars = model.get("max_input_chars_per_word")
    if isinstance(word_chars, int) and word_chars > WORD_CHARS_MAX:
        raise invalid(
            f"max_input_chars_per_word is {word_chars}, at most {WORD_CHARS_MAX} is possible"
        )
