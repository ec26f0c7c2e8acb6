"""`python -m edge_agent.inference.onnx_worker`: a worker process with onnxruntime."""

import sys

import onnxruntime  # noqa: F401 - before memory is limited: what it takes is not the model's

from edge_agent.inference.onnx_engine import load_onnx_engine
from edge_agent.inference.process_worker import serve

if __name__ == "__main__":
    serve(load_onnx_engine, sys.argv[1:])
