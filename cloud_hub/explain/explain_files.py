"""Names and shapes of what the hub and its explaining process exchange in one folder."""

from typing import Annotated

import msgspec
from msgspec import Meta

from cloud_hub.datasets.manifest import Part
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec
from shared.settings import Settings
from shared.wire.limits import Digest

TASK = "explain.json"  # ExplainTask
WEIGHTS = "weights.npz"
REPORT = "report.json"  # As run_files.py has it; beside it ANSWERS and the pictures
ANSWERS = "answers.npz"  # answers.py, which imports numpy, says what is in it
ANSWERS_BYTES_MAX = 256 << 20
RESULT = "explained.json"  # ExplainResult; written last


class ExplainSettings(Settings, frozen=True):
    """How much explaining a checkpoint may take."""

    explain_s_max: Annotated[int, Meta(ge=1, le=86_400)] = 1800  # Of processor time
    # Address space, which is more than what is used: torch alone maps 1 GiB.
    explain_memory_bytes_max: Annotated[int, Meta(ge=2 << 30)] = 16 << 30
    threads: Annotated[int, Meta(ge=1, le=256)] = 1


class ExplainTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the process is asked: this checkpoint on this part of this dataset version."""

    spec: ModelSpec
    network: NetworkSpec
    objects: Annotated[str, Meta(min_length=1, max_length=1000)]  # A folder or a URL
    manifest: Digest
    part: Part = Part.TEST
    cache: Annotated[str, Meta(max_length=1000)] = ""  # Folder for decoded arrays; empty: none
    settings: ExplainSettings = ExplainSettings()


class ExplainResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `code` and `error` say why nothing did."""

    code: str = ""
    error: str = ""
    remedy: str = ""
