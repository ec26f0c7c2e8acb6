"""Keeps libraries from calling home. What a device or a hub runs is nobody else's business.

1. onnxruntime, in its builds for Linux since 1.29, tells its maker of each session (names, graph
   and hashes of a model) and keeps a database of it in the user's folder, unless the environment
   says otherwise when it is imported. So this comes first in every program; processes inherit it.
2. What OpenVINO's package does about this is in edge_agent/inference/openvino_engine.py.
"""

import os
from collections.abc import Mapping
from types import MappingProxyType

QUIET: Mapping[str, str] = MappingProxyType({"ORT_DISABLE_TELEMETRY": "1"})


def keep_libraries_quiet() -> None:
    """Say so in this process's environment; before any of them is imported."""
    os.environ.update(QUIET)
