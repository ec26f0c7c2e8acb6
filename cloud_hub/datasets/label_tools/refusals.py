"""The error for a label tool's file that is not one, and for what a tool cannot hold."""

from types import MappingProxyType

from shared.errors import ContractError, RefusedError

REASON_CHARS_MAX = 300
_REMEDIES = MappingProxyType(
    {
        "coco": "Export it as COCO (detection) JSON.",
        "cvat": "Export it as 'CVAT for images 1.1'.",
        "label-studio": "Export it from Label Studio as JSON (not JSON-MIN).",
        "yolo": "Give data.yaml, and below labels/ one .txt file per picture.",
    }
)


def wrong_file(tool: str, where: str, reason: str) -> ContractError:
    """Return the error for a file that is not of this tool; `reason` names line or field."""
    return ContractError(
        "dataset.layout",
        f"{where} is not of the layout {tool!r}: {reason[:REASON_CHARS_MAX]}.",
        remedy=_REMEDIES[tool],
    )


def cannot_hold(tool: str, what: str, instead: str) -> RefusedError:
    """Return the error for what a tool's files cannot say."""
    return RefusedError("dataset.label_tool", f"{tool} cannot hold {what}.", remedy=instead)
