"""Draft: a spec in the making, and its text: TOML in which whatever was guessed is marked.

Who fills it in: spec_reading.py, spec_ultralytics.py. A draft is a valid spec, always; `check`
says so.
"""

from dataclasses import dataclass, field

from edge_agent.inference.engine import Node
from edge_agent.inference.onnx_facts import ModelFacts
from shared.errors import RefusedError
from shared.model.spec import ModelSpec, parse_spec

SIDE_USUAL = 640  # Where a file leaves its sides open and says no imgsz
GUESS = "# guessed: check"

Value = str | int | float | tuple[str | int | float, ...]
Table = dict[str, Value]


@dataclass
class Draft:
    """A spec in the making: keys by table, in the order of writing; `guessed` as "table.key"."""

    model: str
    task: str = ""
    input: Table = field(default_factory=dict)
    output: Table = field(default_factory=dict)
    guessed: dict[str, str] = field(default_factory=dict)

    def guess(self, key: str, why: str = "") -> None:
        """Mark `key` ("input.scale") as guessed. Args: why: a few words for the comment."""
        self.guessed[key] = why


def to_toml(draft: Draft) -> str:
    """Return the draft as TOML text, what was guessed marked by a comment."""
    lines = [f"model = {_literal(draft.model)} # what pipelines and rollouts call it"]
    lines += [f"task = {_literal(draft.task)}{_comment(draft, 'task')}"]
    for table in ("input", "output"):
        keys: Table = getattr(draft, table)
        lines += ["", f"[{table}]"]
        lines += [
            f"{key} = {_literal(value)}{_comment(draft, f'{table}.{key}')}"
            for key, value in keys.items()
        ]
    return "\n".join(lines) + "\n"


def check(draft: Draft) -> ModelSpec:
    """Return the draft as the spec it is. Raises ContractError; see rule 3."""
    return parse_spec(to_toml(draft).encode(), name="the draft")


def _literal(value: Value) -> str:
    """Return a TOML literal."""
    if isinstance(value, tuple):
        return "[" + ", ".join(_literal(one) for one in value) + "]"
    if isinstance(value, str):
        inside = "".join(
            f"\\u{ord(sign):04x}" if ord(sign) < 32 or sign in '"\\\x7f' else sign for sign in value
        )
        return f'"{inside}"'
    return repr(value)


def _comment(draft: Draft, key: str) -> str:
    if key not in draft.guessed:
        return ""
    return f" {GUESS}{f' ({draft.guessed[key]})' if draft.guessed[key] else ''}"


def sides(
    shape: tuple[int | str | None, ...], draft: Draft, *, usual: int = SIDE_USUAL
) -> tuple[int, int]:
    """Return two sides; one that the file leaves open is the usual one, and guessed."""
    if any(not isinstance(size, int) for size in shape):
        for key in ("width", "height") if usual == SIDE_USUAL else ("samples", "channels"):
            draft.guess(f"input.{key}", "the file leaves it open")
    first, second = (size if isinstance(size, int) else usual for size in shape)
    return first, second


def numbered(count: int) -> tuple[str, ...]:
    """Return names for classes whose names are not known."""
    return tuple(f"class {index}" for index in range(count))


def refused(why: str, facts: ModelFacts) -> RefusedError:
    """Return the error of a file that no spec can be drafted for, with what was seen."""

    def told(nodes: tuple[Node, ...]) -> str:
        return ", ".join(f"{node.name} {node.dtype}{list(node.shape)}" for node in nodes[:4])

    return RefusedError(
        "spec.no_draft",
        f"No spec can be drafted for this file: {why}. In: {told(facts.inputs)}. "
        f"Out: {told(facts.outputs)}.",
        remedy="Write one by hand: shared/model/README.md lists what inputs and heads there are.",
    )
