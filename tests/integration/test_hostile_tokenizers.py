"""Files that are to kill, stall or blind whoever reads a stranger's tokenizer.json."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ContractError, RefusedError
from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, TextInput, Tokenizer
from shared.model.tokenizers_text import load_tokenizer

LENGTH = 12
SPEC = ModelSpec(
    model="mood",
    task=Task.CLASSIFICATION,
    input=TextInput(length=LENGTH, tokenizer=Tokenizer.TOKENIZER_JSON),
    output=OutputSpec(decoder=Decoder.LOGITS, classes=("a", "b")),
)
File = dict[str, Any]


def token(number: int, content: str) -> File:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": content, **flags}


def file(**changes: object) -> File:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    rules = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    return {"version": "1.0", "added_tokens": [token(0, "[PAD]")], **rules, "model": model} | (
        changes
    )


def chars_map(data: bytes, *, said_bytes: int | None = None) -> File:
    said = len(data) if said_bytes is None else said_bytes
    packed = base64.b64encode(said.to_bytes(4, "little") + data + b"x\0").decode()
    return file(normalizer={"type": "Precompiled", "precompiled_charsmap": packed})


def template(count: int, **special: object) -> File:
    mark = {"SpecialToken": {"id": "[PAD]", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return file(
        post_processor={
            "type": "TemplateProcessing",
            "single": [mark] * count + [text],
            "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": special,
        }
    )


def split(pattern: str) -> File:
    rule = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return file(pre_tokenizer=rule)


def normalizers(*rules: File) -> File:
    return file(normalizer={"type": "Sequence", "normalizers": list(rules)})


def bpe(**changes: object) -> File:
    vocabulary = {"[PAD]": 0, "a": 1, "b": 2, "ab": 3}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]], "unk_token": "[PAD]"}
    return file(model=model | changes)


def nested(rule: str, depth: int) -> str:
    opened = '{"type": "Sequence", "' + rule + '": ['
    inner = opened * depth + '{"type": "Lowercase"}' + "]}" * depth
    return json.dumps(file()).replace('"normalizer": null', f'"normalizer": {inner}')


TENFOLD = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
LONG = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10_000_000}
TWICE = json.dumps(file())[:-1] + ', "normalizer": null}'
WORD_PIECE = {"type": "WordPiece", "vocab": {"[PAD]": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
PIECES = WORD_PIECE | {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
HOSTILE: dict[str, tuple[Callable[[], File | str], str]] = {
    # Aborts the process when it runs out of memory: nothing could be caught.
    "a text a million times as long": (lambda: normalizers(*[TENFOLD] * 6), "characters long"),
    "one letter of ten million": (lambda: normalizers(LONG), "characters long"),
    "a map that says it is 4 GB": (lambda: chars_map(b"\xff" * 64, said_bytes=2**32 - 4), "map"),
    "a map of letters to books": (
        lambda: chars_map(b"\0" * 64 + b"x" * 9_000_000, said_bytes=64),
        "characters long",
    ),
    "a frame of 2,000 tokens": (lambda: template(2000), "parts"),
    # Panics in Rust: an exception that is no Exception.
    "a map that points beyond itself": (lambda: chars_map(b"\xff" * 64), "out of bounds"),
    "a map that is cut": (
        lambda: file(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "cut short",
    ),
    "a frame without its tokens": (lambda: template(1), "no entry found"),
    "pieces of no length": (
        lambda: file(pre_tokenizer={"type": "FixedLength", "length": 0}),
        "non-zero",
    ),
    "a prefix longer than its words": (
        lambda: bpe(continuing_subword_prefix="####"),
        "out of range",
    ),
    # Time without end.
    "an extended expression": (lambda: split("(?x)(a+ # )\n)\n +b"), "take for ever"),
    "one that calls itself": (lambda: split(r"(?<x>a\g<x>?)b"), "take for ever"),
    "one that repeats a repeated group": (lambda: split("(a+)+c"), "take for ever"),
    "a prefix of 2 MB": (
        lambda: file(model=PIECES | {"continuing_subword_prefix": "#" * 2_000_000}),
        "continuing_subword_prefix",
    ),
    "words of any length": (
        lambda: file(model=PIECES | {"max_input_chars_per_word": 10**18}),
        "max_input_chars_per_word",
    ),
    "a token of 10 MB": (
        lambda: bpe(vocab={"[PAD]": 0, "a": 1, "b": 2, "ab": 3, "x" * 10_000_000: 4}),
        "a token has",
    ),
    # What we would see another way than the parser does.
    "a key twice": (lambda: TWICE, "'normalizer' twice"),
    "rules 400 deep": (lambda: nested("normalizers", 400), "over 1000 parts"),
    "rules 100 deep": (lambda: nested("normalizers", 100), "recursion"),
    "lists 100,000 deep": (lambda: "[" * 100_000, "not JSON"),
    "half a character": (lambda: json.dumps(file()).replace('"b"', '"\\ud800"'), "hex escape"),
    "5,000 digits": (lambda: json.dumps(file()).replace("3}", "9" * 5000 + "}"), "not JSON"),
    "a token below zero": (lambda: json.dumps(file()).replace("3}", "-3}"), "-3"),
    "more marks than ids": (
        lambda: template(LENGTH, **{"[PAD]": {"id": "[PAD]", "ids": [0], "tokens": ["[PAD]"]}}),
        "12 tokens around a text",
    ),
}  # fmt: skip


def write(folder: Path, content: File | str) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    make, said = HOSTILE[name]
    with pytest.raises(ContractError) as caught:
        load_tokenizer(write(tmp_path, make()), SPEC)
    assert caught.value.code == "tokenizer.invalid"
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_file_that_the_hostile_ones_are_made_of_is_taken(tmp_path: Path) -> None:
    for content in (file(), bpe(), file(model=PIECES), template(0), normalizers(TENFOLD)):
        assert load_tokenizer(write(tmp_path, content), SPEC)("a b").shape == (LENGTH,)


def test_what_a_tokenizer_does_not_know_is_the_texts_fault(tmp_path: Path) -> None:
    tokenize = load_tokenizer(write(tmp_path, bpe(unk_token="[NONE]")), SPEC)
    assert tokenize("ab").tolist()[0] == 3
    with pytest.raises(RefusedError, match=r"\[NONE\]") as caught:
        tokenize("z")
    assert caught.value.code == "inference.input"


def test_a_text_that_the_expression_gives_up_on_is_refused(tmp_path: Path) -> None:
    """It has no group to repeat, and backtracks all the same: the library's own limit ends it."""
    tokenize = load_tokenizer(write(tmp_path, split(".*" * 6 + "[^a]")), SPEC)
    with pytest.raises(RefusedError, match="retry-limit"):
        tokenize("a" * 300)


MEASURE = """
import resource, sys
from pathlib import Path
import tests.integration.test_hostile_tokenizers as hostile
before = resource.getrusage(resource.RUSAGE_SELF)
tokenize = hostile.load_tokenizer(Path(sys.argv[1]), hostile.SPEC)
tokenize("t7 b " * 1000)
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime - before.ru_utime, (after.ru_maxrss - before.ru_maxrss) // 1024)
"""


@pytest.mark.slow
def test_as_many_added_tokens_as_fit_cost_little_time_and_memory(tmp_path: Path) -> None:
    many = [token(number + 10, f"t{number}") for number in range(120_000)]
    path = write(tmp_path, file(added_tokens=[token(0, "[PAD]"), *many]))
    assert 14_000_000 < path.stat().st_size < 16_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    seconds, mebibytes = done.stdout.split()
    assert float(seconds) < 5.0  # 0.6 s measured
    assert int(mebibytes) < 400, "a device of 512 MB lives through it"
