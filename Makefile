# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ORT_WEB_VERSION := $(shell sed -n 's/^VERSION = "\(.*\)"/\1/p' export/onnxruntime_web.py)
ORT_WEB := build/onnxruntime-web/onnxruntime-web-$(ORT_WEB_VERSION).tgz

.PHONY: demo test coverage test-slow test-camera test-gpu bench-gpu test-faults lint types install clean release release-weights bench-weights bench-peers

demo: $(INSTALLED)  ## export, verify, benchmark and run on photographs; writes demo-out/report.html
	$(BIN)/dmx demo --out demo-out --overwrite

test: lint types | $(ORT_WEB)  ## linters, types and the whole suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

coverage: $(INSTALLED) | $(ORT_WEB)  ## the same suite, and the lines of depthmask/ and export/ that it does not reach
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --cov --cov-report=term-missing:skip-covered

test-slow: $(INSTALLED)  ## what takes minutes: kills by the dozen, long trainings
	$(BIN)/python -m pytest -m slow

# 20,000 mutations of each parser that is ours, 2,000 of each that is not, then kills by the hundred.
test-faults: $(INSTALLED)  ## what docs/reliability.md promises, at length: about 40 minutes on two cores
	$(BIN)/python tests/faults/mutate.py
	$(BIN)/python -m pytest -s -m slow tests/faults
	$(BIN)/python -m pytest -m slow tests/train/test_processes.py tests/train/test_materialise.py -k killed

test-camera:  ## against the V4L2 camera that DEPTHMASK_CAMERA names; unplugs it where the driver is vivid
	$(BIN)/python -m pytest -m camera tests/depthmask/video/test_camera.py

test-gpu:  ## on a machine with an NVIDIA GPU, in the environment that is active (docs/gpu.md)
	DEPTHMASK_REQUIRE_GPU=1 python -m pytest -m gpu

# Into a folder of the GPU's name, in the environment that is active (docs/gpu.md).
GPU_OUT ?= bench/results/$(shell nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-')
GPU_WORK ?= build/gpu
GPU_BENCH := python -m depthmask bench --device cuda --overwrite
GPU_EXPORT := python -m depthmask export --fp16 --overwrite
bench-gpu:  ## on a machine with an NVIDIA GPU: latency of lite and of hu2019, as exported and rewritten
	mkdir -p $(GPU_WORK) $(GPU_OUT)
	$(GPU_EXPORT) --for gpu --resolution 64,128,224 --out $(GPU_WORK)/lite-fp16
	$(GPU_EXPORT) --for gpu --dynamic-batch --out $(GPU_WORK)/lite-fp16-batch
	$(GPU_EXPORT) --for gpu --preset hu2019 --init 0 --out $(GPU_WORK)/hu2019-fp16
	$(GPU_EXPORT) --rewrite none --preset hu2019 --init 0 --out $(GPU_WORK)/hu2019-fp16-plain
	$(GPU_BENCH) depthmask/data/lite-bundle $(GPU_WORK)/lite-fp16 --runtimes onnxruntime,torch \
		--resolutions 64,128,224 --out $(GPU_OUT)/lite.json --report $(GPU_OUT)/lite.md
	$(GPU_BENCH) $(GPU_WORK)/lite-fp16-batch --runtimes onnxruntime --batch 1,8 \
		--out $(GPU_OUT)/lite-batch.json --report $(GPU_OUT)/lite-batch.md
	$(GPU_BENCH) $(GPU_WORK)/hu2019-fp16-plain $(GPU_WORK)/hu2019-fp16 --runtimes onnxruntime --rounds 30 \
		--seconds 6 --out $(GPU_OUT)/hu2019.json --report $(GPU_OUT)/hu2019.md
	python -m depthmask compare $(GPU_OUT)/hu2019.json | tee $(GPU_OUT)/hu2019-compare.txt

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot follow an editable install's import hooks: it reads the packages through a tree of links.
types: $(INSTALLED)
	@rm -rf build/mypy && mkdir -p build/mypy/depthmask
	@ln -s $(CURDIR)/depthmask/* build/mypy/depthmask/
	@ln -s $(CURDIR)/export $(CURDIR)/bench $(CURDIR)/train $(CURDIR)/configs build/mypy/depthmask/
	$(BIN)/mypy

install: $(INSTALLED)

# Installs again only when what is to be installed has changed.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python must be 3.11 or newer, but $(PYTHON) is older. Try make PYTHON=python3.11" >&2; exit 4; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# What the tests of the browser's page run; without npm, or offline, they skip and say so.
$(ORT_WEB):
	@mkdir -p $(@D)
	@npm pack --silent --pack-destination $(@D) onnxruntime-web@$(ORT_WEB_VERSION) >/dev/null \
		|| echo "warning: npm could not fetch onnxruntime-web: the tests of the browser's page will skip" >&2

clean:
	rm -rf $(VENV) build dist demo-out *.egg-info

# hu2019 at 64 px for an hour, which measurements of big chains use; the same command goes on.
BENCH_RUN ?= runs/bench-weights
bench-weights: $(INSTALLED)
	$(BIN)/dmx train --config bench-weights --out $(BENCH_RUN)

# The same weights through other people's tools, side by side; installs them first.
PEERS_OUT ?= peers.json
bench-peers: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,peers]'
	$(BIN)/python -m depthmask.bench.peers --resolution 64,128,224 --out $(PEERS_OUT) --overwrite --markdown

release: $(INSTALLED)  ## sdist and wheel, with SHA256SUMS and an SBOM, in dist/
	rm -rf build dist *.egg-info/SOURCES.txt
	$(BIN)/python -m build --quiet
	$(BIN)/python .ci/release.py dist

# The trained weights and the ready bundle that ship with the package, from finished trainings.
LITE_RUN ?= runs/lite
RELEVANCE_RUN ?= runs/relevance
release-weights: $(INSTALLED)
	$(BIN)/python -m depthmask.train.release $(LITE_RUN) depthmask/data/lite
	$(BIN)/python -m depthmask.train.release $(RELEVANCE_RUN) depthmask/data/lite-relevance
	$(BIN)/dmx export --resolution 64,128,224 --out depthmask/data/lite-bundle --overwrite
