# Everything from an empty Debian machine (python3 with venv, g++, make) to a tested build. `make help` lists the targets.
#
# A step that takes long leaves a stamp whose NAME ends in a hash of what the step depends on: the pinned versions and
# the interpreter for the environment, the generator's sources and records for the pack, the C++ sources for the
# extension. A stamp of that name means that the step is done, so times of files (a fresh clone, a branch switched
# back) do not matter. Within a step, pip, the generator's own cache and ninja again do only what changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?= python3
DEMO_ARGS ?=
BENCH_ARGS ?= all
GPU_PYTHON ?= $(PYTHON)
GPU_EXPORT_ARGS ?=
GPU_CHECK_ARGS ?=
# A process a core: most tests compute little and wait for processes of their own.
PYTEST_ARGS ?= -n logical --maxprocesses 8
NAMES ?=

# The environment must hold what constraints.txt says and nothing that the caller's shell brings along.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV
unexport PIP_CONSTRAINT PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_REQUIREMENT PIP_TARGET PIP_USER
export PIP_DISABLE_PIP_VERSION_CHECK := 1

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip
# Tools that other tools look up by name (ninja, cmake) come from the environment too.
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

short-hash = sha256sum | cut -c1-16
# $(call tree-hash,PATHS,EXTRA): of the names and contents of all files under PATHS, and of the words EXTRA.
tree-hash = $(shell { echo '$(2)'; find $(1) -type f -not -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z \
	| xargs -0 sha256sum; } | $(short-hash))

NATIVE_SOURCES := $(wildcard CMakeLists.txt cmake csrc tests/native)
ENV_KEY := $(shell { $(PYTHON) -c 'import sys; print(sys.version)'; echo '$(CURDIR)'; cat constraints.txt; } | $(short-hash))
PROJECT_KEY := $(call tree-hash,$(wildcard pyproject.toml setup.py),$(ENV_KEY))
PACK_KEY := $(call tree-hash,codegen $(wildcard csrc/runtime csrc/drivers),$(ENV_KEY))
EXT_KEY := $(call tree-hash,csrc $(wildcard setup.py CMakeLists.txt),$(PROJECT_KEY) $(PACK_KEY))

ENV_STAMP := $(VENV)/.environment-$(ENV_KEY)
PROJECT_STAMP := $(VENV)/.project-$(PROJECT_KEY)
PACK_STAMP := build/.pack-$(PACK_KEY)
EXT_STAMP := build/.extension-$(EXT_KEY)
# A stamp whose product was deleted by hand is no good.
$(if $(wildcard build/pack/*),,$(shell rm -f $(PACK_STAMP)))
$(if $(wildcard tvmops/_C*.so),,$(shell rm -f $(EXT_STAMP)))

say = @printf '\n== %s\n' "$(1)"

.PHONY: help demo test test-native test-python test-exhaustive bench gpu-export gpu-check lint format env pack build \
	clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nPYTHON=%s; DEMO_ARGS, BENCH_ARGS, GPU_EXPORT_ARGS, GPU_CHECK_ARGS, PYTEST_ARGS and NAMES are passed on.\n' '$(PYTHON)'

demo: build ## MiniLM sentence embeddings: torch.nn.Linear against tvmops.nn.Linear
	$(call say,demo: examples/minilm.py)
	@$(PY) examples/minilm.py $(DEMO_ARGS)

test: lint test-native test-python ## set-up, then every check: lint, native tests (plain and sanitized), pytest

test-python: build ## pytest alone
	$(call say,pytest)
	@$(IN_VENV) $(PY) -m pytest $(PYTEST_ARGS)

test-native: $(ENV_STAMP) $(PACK_STAMP) ## C++ tests through ctest, plain and under AddressSanitizer and UBSan
	$(call say,native tests)
	@$(IN_VENV) cmake -S . -B build/native -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo
	@$(IN_VENV) cmake --build build/native
	@$(IN_VENV) ctest --test-dir build/native --output-on-failure --no-tests=error
	$(call say,native tests under AddressSanitizer and UBSan)
	@$(IN_VENV) cmake -S . -B build/native-sanitize -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DTVMOPS_SANITIZE="address;undefined"
	@$(IN_VENV) cmake --build build/native-sanitize
	@$(IN_VENV) ctest --test-dir build/native-sanitize --output-on-failure --no-tests=error

test-exhaustive: build ## pointwise functions at all 2**32 float32 numbers, NAMES="gelu mish" for some; half an hour
	@$(PY) -m tests.exhaustive $(NAMES)

bench: build ## the benchmark suite, BENCH_ARGS="matmul --threads 1" for a part
	$(call say,benchmarks)
	@$(PY) -m benchmarks $(BENCH_ARGS)

gpu-export: $(PROJECT_STAMP) ## kernels for GPUs as sources, to be carried to a machine with one: build/gpu-check
	$(call say,kernels for GPUs)
	@$(IN_VENV) $(PY) -m benchmarks.gpu.export $(GPU_EXPORT_ARGS)

# With GPU_PYTHON, whose torch has CUDA; not with the environment, whose torch has none.
gpu-check: ## check and time those kernels on this machine's GPU, in ten minutes; needs nvcc and torch, no TVM
	@$(GPU_PYTHON) -m benchmarks.gpu $(GPU_CHECK_ARGS)

lint: $(ENV_STAMP) ## ruff, mypy, clang-format (changes nothing)
	$(call say,lint)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@find csrc tests codegen -name '*.cpp' -o -name '*.h' | xargs $(VENV)/bin/clang-format --dry-run -Werror

format: $(ENV_STAMP) ## rewrite Python and C++ sources in the project's style
	@$(PY) -m ruff check --fix . || true
	@$(PY) -m ruff format .
	@find csrc tests codegen -name '*.cpp' -o -name '*.h' | xargs $(VENV)/bin/clang-format -i

env: $(PROJECT_STAMP) ## .venv with the pinned packages

pack: $(PACK_STAMP) ## the default kernel pack, in build/pack

build: $(EXT_STAMP) ## the pack and the extension, importable from here

clean: ## remove what was built; .venv stays
	rm -rf build dist *.egg-info tvmops/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find codegen tvmops tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)

# -- set-up --------------------------------------------------------------------------------------------------------

$(ENV_STAMP): | constraints.txt
	$(call say,environment: $(VENV) from $(PYTHON))
	@version='import sys; print(sys.version)'; \
	if [ "$$($(PY) -c "$$version" 2>&1)" != "$$($(PYTHON) -c "$$version")" ] \
		|| ! grep -qsF '$(CURDIR)/$(VENV)/bin/' $(VENV)/bin/pip || ! $(PIP) --version > /dev/null; \
	then $(PYTHON) -m venv --clear $(VENV); fi
	$(call say,environment: torch; about 200 MB to download at first)
	@$(PIP) install --progress-bar off -c constraints.txt torch
	$(call say,environment: the other pinned packages; about 600 MB to download at first)
	@$(PIP) install --progress-bar off -r constraints.txt
	@rm -f $(VENV)/.environment-* && touch $@

# Registers the package and the console script; the extension itself is built below, where ninja can keep its objects.
$(PROJECT_STAMP): $(ENV_STAMP)
	$(call say,environment: tvmops in editable mode)
	@$(IN_VENV) TVMOPS_NO_EXTENSION=1 $(PIP) install --no-build-isolation --no-deps --no-index -e .
	@rm -f $(VENV)/.project-* && touch $@

$(PACK_STAMP): $(ENV_STAMP)
	$(call say,kernels: the default pack)
	@$(IN_VENV) $(PY) -m codegen build
	@mkdir -p build && rm -f build/.pack-* && touch $@

$(EXT_STAMP): $(PROJECT_STAMP) $(PACK_STAMP)
	$(call say,extension: tvmops._C; about a minute at first)
	@$(IN_VENV) $(PY) setup.py build_ext --inplace
	@mkdir -p build && rm -f build/.extension-* && touch $@
