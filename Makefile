# Every target sets up what it needs. `make demo` and `make test` are the two to know.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.isthmus-ready
# Real data and models for tests and benchmarks, beside the project where there are any.
export ISTHMUS_DATA ?= $(abspath $(wildcard ../shared))
PYTEST_WORKERS ?= 2
# As shared/quiet_libraries.py has it for our own programs.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help demo test check format bench-sensors bench-hub-start bench-rollouts bench-telemetry bench-infer bench-peers bench-heads bench-infer-rss bench-worker bench-swaps bench-agent-rss bench-delivery bench-aggregation bench-federated bench-flower-rounds bench-train bench-quantize bench-small bench-nab bench-counts clean

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 28

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): about 3 minutes and 2.5 GB the first time."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Isthmus needs Python 3.11 or newer; try: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0 -c constraints.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[edge,edge-openvino,hub,train,ray,dev]' -c constraints.txt
	@touch $@

demo: $(READY)  ## The whole loop with a dashboard. ONCE=1 ends after it; VIDEO= MODEL= SPEC= runs your own.
	@$(BIN)/python -m deploy.demo $(if $(ONCE),--once) $(if $(PORT),--port $(PORT)) \
		$(if $(VIDEO),--video '$(VIDEO)') $(if $(MODEL),--model '$(MODEL)') $(if $(SPEC),--spec '$(SPEC)')

test: $(READY)  ## Every test that can run here; what cannot is named with the reason.
	@$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup -raR

check: $(READY)  ## Linters, types, import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## Put the code in its usual form.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-hub-start: $(READY)  ## How long a hub takes to answer, and its memory.
	@$(BIN)/python -m tests.benchmarks.bench_hub_start

bench-rollouts: $(READY)  ## What a tick and a Report cost the hub, with 500 devices.
	@$(BIN)/python -m tests.benchmarks.bench_rollouts

bench-telemetry: $(READY)  ## Records a second into the hub's database.
	@$(BIN)/python -m tests.benchmarks.bench_telemetry

bench-infer: $(READY)  ## A pipeline beside what the machine can do. MODEL= SPEC= VIDEO= for your own; ARGS=--in-process.
	@$(BIN)/python -m tests.benchmarks.bench_infer $(if $(MODEL),--model '$(MODEL)') \
		$(if $(SPEC),--spec '$(SPEC)') $(if $(VIDEO),--video '$(VIDEO)') $(ARGS)

# What others install is theirs: a venv of its own, outside the project's.
PEERS := .venv-peers
$(PEERS)/.ready:
	@echo "Setting up $(PEERS) for other people's runtimes: about 3 minutes and 1.5 GB."
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0
	@$(PEERS)/bin/python -m pip install -q --disable-pip-version-check --no-deps ultralytics torchvision
	@$(PEERS)/bin/python -m pip install -q --disable-pip-version-check opencv-python-headless onnx onnxruntime \
		onnxslim pillow pyyaml requests psutil polars scipy matplotlib ultralytics-thop
	@touch $@

bench-peers: $(READY) $(PEERS)/.ready  ## CPU a frame beside ultralytics predict(stream=True), same ONNX and video.
	@$(BIN)/python -m tests.benchmarks.bench_peers --peer-python $(PEERS)/bin/python $(ARGS)

bench-heads: $(READY) $(PEERS)/.ready  ## Our YOLO boxes beside ultralytics' own, one by one. Fails where they differ.
	@$(BIN)/python -m tests.benchmarks.bench_heads --peer-python $(PEERS)/bin/python $(ARGS)

bench-infer-rss: $(READY)  ## Memory of an agent that only infers.
	@$(BIN)/python -m tests.benchmarks.bench_infer_rss

bench-worker: $(READY)  ## What a worker process costs beside a bare run: time a frame, memory, recovery.
	@$(BIN)/python -m tests.benchmarks.bench_worker $(ARGS)

bench-swaps: $(READY)  ## 30 hot swaps under load: what they lose, what they leave behind. ARGS="--swaps 100".
	@$(BIN)/python -m tests.benchmarks.bench_swaps $(ARGS)

bench-sensors: $(READY)  ## 1,000 sensors through one model: CPU per window beside the bare call. ARGS="--sensors 100".
	@$(BIN)/python -m tests.benchmarks.bench_sensors $(ARGS)

bench-agent-rss: $(READY)  ## Memory of a whole agent on a real video, with a hub, through two swaps.
	@$(BIN)/python -m tests.benchmarks.bench_agent_rss

bench-delivery: $(READY)  ## What a release costs: to judge, to sign, to bring to a device.
	@$(BIN)/python -m tests.benchmarks.bench_delivery

bench-aggregation: $(READY)  ## Updates of 100 devices made into one, beside Flower's own. MB=100 for large ones.
	@$(BIN)/python -m tests.benchmarks.bench_aggregation $(if $(MB),--megabytes $(MB))

bench-federated: $(READY)  ## Learning together on Fashion-MNIST and 12 air stations; ARGS="mnist --data FOLDER" for MNIST.
	@$(BIN)/python -m tests.benchmarks.bench_federated $(or $(ARGS),all)

bench-flower-rounds: $(READY)  ## What a Round costs, beside Flower's stock processes: seconds, CPU, memory.
	@$(BIN)/python -m tests.benchmarks.bench_flower_rounds

bench-train: $(READY)  ## How fast the trainer is, beside a plain PyTorch loop. ARGS="--quick" for a short look.
	@$(BIN)/python -m tests.benchmarks.bench_train $(ARGS)

bench-quantize: $(READY)  ## What int8 costs and gains for each network, and what the gate chooses. ARGS as above.
	@$(BIN)/python -m tests.benchmarks.bench_quantize $(ARGS)

bench-small: $(READY)  ## 2,000 pictures of two classes: from scratch, transfer, partial, LoRA; 5 folds. ARGS as above.
	@$(BIN)/python -m tests.benchmarks.bench_small_task $(ARGS)

bench-nab: $(READY)  ## The Numenta Anomaly Benchmark: our anomaly pipeline as a stream beside Windowed Gaussian.
	@$(BIN)/python -m tests.benchmarks.bench_nab

bench-counts: $(READY)  ## Cars over a line on a real video, beside the count by hand.
	@$(BIN)/python -m tests.benchmarks.bench_counts

clean:  ## Remove what was built here.
	rm -rf $(VENV) .demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
