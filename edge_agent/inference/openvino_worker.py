"""`python -m edge_agent.inference.openvino_worker`: a worker process with OpenVINO.

The library is imported before memory is limited: what it takes is not the model's.
"""

import contextlib
import sys

from edge_agent.inference.openvino_engine import import_openvino, load_openvino_engine
from edge_agent.inference.process_worker import serve

if __name__ == "__main__":
    with contextlib.suppress(ImportError):  # load_openvino_engine says what to install
        import_openvino()
    serve(load_openvino_engine, sys.argv[1:])
