"""What a person names beside a model file: its spec, its tokenizer."""

from pathlib import Path

from shared.errors import ContractError
from shared.model.preprocess import Tokenize, to_bytes
from shared.model.spec import ModelSpec, TextInput, parse_spec
from shared.model.tokenizers_text import load_tokenizer
from shared.release.manifest import TOKENIZER


def read_spec(path: Path) -> ModelSpec:
    """Return the ModelSpec in a TOML file. Raises ContractError naming what is wrong."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    return parse_spec(text, name=str(path))


def tokenize_beside(model: Path, spec: ModelSpec, tokenizer: Path | None) -> Tokenize:
    """Return what makes items of texts, by `tokenizer` or the tokenizer.json beside a model file.

    Raises ContractError `tokenizer.missing`, `tokenizer.invalid` or `tokenizer.padding`.
    """
    if not isinstance(spec.input, TextInput):
        return to_bytes
    return load_tokenizer(tokenizer or model.parent / TOKENIZER, spec)


def unreadable(path: Path, error: OSError) -> ContractError:
    """Return what a person is told of a file that cannot be read."""
    return ContractError(
        "config.missing", f"Cannot read {path}: {error.strerror}.", remedy="Check the path."
    )
