# Every command makes the environment first.

VENV := .venv
PYTHON := $(VENV)/bin/python
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
UV_VERSION := 0.13.8
ROOMS := cytoserve training export server benchmarks
# Versions of Python that the locked packages have wheels for; uv finds one on the machine.
PYTHONS := >=3.10,<3.13
GROUPS := server training export benchmarks dev

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)

.PHONY: help demo study test test-slow lint lock lock-image peers lock-peers openvino lock-openvino cuda lock-cuda clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed ## Serve the shipped networks and segment real images: two minutes
	python -m benchmarks.demo

study: $(VENV)/.installed ## Train, export, serve and compare with study S1, on rendered cells: minutes
	python -m benchmarks.study

test: $(VENV)/.installed lint ## All that must hold
	python -m pytest -m "not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.installed ## The tests that take minutes each
	python -m pytest -m slow --timeout 1800

lint: $(VENV)/.installed ## Style, types, and the model repository
	ruff check .
	ruff format --check .
	mypy $(addprefix -p ,$(ROOMS))
	python -m export lint

# All packages at the locked versions with their hashes, then this project itself. Bytecode is made
# here, as pip would: left to the processes, those that cannot keep it import twice as long, each.
$(VENV)/.installed: requirements.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python "$(PYTHONS)" $(VENV)
	$(UV) pip sync --require-hashes --compile-bytecode requirements.lock
	$(UV) pip install --quiet --no-deps --editable .
	@touch $@

PEERS := litserve ultralytics

peers: $(PEERS:%=.bench/%/.installed) ## What benchmarks.peers compares with, one environment each

# uv takes most of it from its cache by hard links: PyTorch twice costs the disk little.
.bench/%/.installed: benchmarks/peers/%.lock | $(UV)
	$(UV) venv --quiet --allow-existing --python "$(PYTHONS)" .bench/$*
	$(UV) pip sync --require-hashes --python .bench/$*/bin/python $<
	@touch $@

# Where a package is this project's as well, its locked version is kept: peers differ by themselves.
lock-peers: | $(UV) ## Choose the peers' versions anew
	for peer in $(PEERS); do \
		cp requirements.lock benchmarks/peers/$$peer.lock; \
		$(UV) pip compile benchmarks/peers/$$peer.in --universal --python-version 3.10 \
			--generate-hashes --no-header --no-annotate --quiet \
			--output-file benchmarks/peers/$$peer.lock || exit 1; \
	done

openvino: .openvino/.installed ## ONNX Runtime with OpenVINO, for `python -m server --variant openvino`

.openvino/.installed: server/openvino.lock | $(UV) $(VENV)/.installed
	rm -rf $(@D)
	$(UV) pip install --quiet --no-deps --require-hashes --target $(@D) --requirement $<
	@touch $@

# Versions of TensorRT that NVIDIA's images may have; docker/gpu/Dockerfile takes the one that it finds.
TENSORRT := 10.13.3.9.post1 10.14.1.48.post1 10.15.1.29 10.16.1.11 11.0.0.114 11.1.0.106 11.2.1.2 \
	11.3.0.99 11.4.0.106
LOCK_IMAGE := pip compile --constraint requirements.lock --generate-hashes --no-header \
	--no-annotate --quiet
LOCK_GPU := $(LOCK_IMAGE) --python-platform x86_64-manylinux_2_39 --python-version 3.12

lock-image: | $(UV) ## Take the versions of the images' packages from requirements.lock
	$(UV) $(LOCK_IMAGE) --python-platform x86_64-manylinux_2_36 --python-version 3.11 \
		--output-file docker/cpu/requirements.lock --group server pyproject.toml
	$(UV) $(LOCK_GPU) --output-file docker/gpu/requirements.lock docker/gpu/requirements.in
	for version in $(TENSORRT); do \
		echo "tensorrt-cu13-bindings==$$version" | $(UV) $(LOCK_GPU) - --output-file \
			docker/gpu/tensorrt/$$(echo $$version | cut -d. -f1-3).lock || exit 1; \
	done

lock-openvino: | $(UV) ## Choose the version of ONNX Runtime with OpenVINO anew
	$(UV) pip compile server/openvino.in --universal --python-version 3.10 --no-deps --upgrade \
		--generate-hashes --no-header --no-annotate --quiet --output-file server/openvino.lock

cuda: .cuda/.installed ## ONNX Runtime with CUDA, for `python -m server --variant cuda`

.cuda/.installed: server/cuda.lock | $(UV) $(VENV)/.installed
	rm -rf $(@D)
	$(UV) pip install --quiet --no-deps --require-hashes --target $(@D) --requirement $<
	@touch $@

lock-cuda: | $(UV) ## Choose the versions of ONNX Runtime with CUDA and of its libraries anew
	$(UV) pip compile server/cuda.in --universal --python-version 3.10 --no-deps --upgrade \
		--generate-hashes --no-header --no-annotate --quiet --output-file server/cuda.lock

.uv/bin/uv:
	@python3 -m venv .uv || { echo "make needs uv, or Python's venv to fetch it: apt install python3-venv"; exit 1; }
	.uv/bin/python -m pip install --quiet uv==$(UV_VERSION)

lock: | $(UV) ## Choose package versions anew
	rm -f requirements.lock
	$(UV) pip compile pyproject.toml $(addprefix --group ,$(GROUPS)) --universal \
		--python-version 3.10 --generate-hashes --no-header --no-annotate --quiet \
		--output-file requirements.lock

clean: ## Remove what was made here, but no trained or exported model
	rm -rf $(VENV) .uv .bench .openvino .cuda .mypy_cache .pytest_cache .ruff_cache
