# One word for people and for CI. `make` alone lists them.

# Which Python: the newest on this machine, in .venv; or PYTHON=/path/to/python3.13, in an environment of its own.
PYTHON :=
VENV := .venv$(if $(PYTHON),-$(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
BIN := $(VENV)/bin
LOWEST := $(VENV)-lowest
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
UV := uv==0.13.9
BUILD := build==1.6.1 twine==7.0.0
# Of the tests: two cores work while the others wait for peers.
WORKERS := 6
# Tests start hundreds of processes, which would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

# What sources are tested by as well as compiled modules, an eighth of the tests each time: the rooms that have such
# modules, and real peers.
BOTH := tests/wire tests/model tests/moq tests/quic tests/transport tests/actors \
$(patsubst %,tests/e2e/test_%.py,cluster drain loss moqt_peers quic_peers rust_peers transport websocket)

.DEFAULT_GOAL := help
.PHONY: help run compiled test test-full test-lowest coverage check format bench soak bench-micro bench-docs fuzz lock dist clean
.DELETE_ON_ERROR:

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: compiled ## Start a relay with dev.toml
	$(BIN)/moq-relay dev.toml

test: $(VENV)/.collected compiled ## Run all tests, with a sample of their combinations; TESTS="tests/web tests/wire" chooses
	@sh tests/e2e/install-chromium.sh
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)
ifndef TESTS
	MOQ_RELAY_PURE=1 TEST_SHARE=8 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(BOTH)
endif

test-full: export TEST_FULL := 1
test-full: test ## Run all tests with all combinations: pairs of versions, ways to make packets

# Lines of compiled modules are not seen.
coverage: export MOQ_RELAY_PURE := 1
coverage: $(VENV)/.dev ## Show which lines and branches of each room the tests reach; TESTS chooses
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -n $(WORKERS) --dist worksteal $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/python -m tests.rooms

test-lowest: $(LOWEST)/.dev ## Run all tests with the lowest release of each dependency that pyproject.toml allows
	@sh tests/e2e/install-chromium.sh
	$(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

check: $(VENV)/.dev ## Check style, types, the size of classes and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_imports.py tests/test_classes.py

format: $(VENV)/.dev ## Put the source into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench compiled ## Compare the relay with the Rust one; BENCH="video-25 --rounds 5" chooses
	$(BIN)/python -m bench run $(BENCH)

bench-micro: $(VENV)/.bench compiled ## Time single steps in memory; BENCH="-k packet" chooses
	$(BIN)/python -m pytest -p no:cacheprovider --benchmark-columns=median,iqr,rounds -c bench/micro/pytest.ini $(BENCH) bench/micro

soak: $(VENV)/.bench compiled ## Let sessions come and go for some minutes; fails if anything of them stays; SOAK="--hours 8" for longer
	$(BIN)/python -m bench.soak $(SOAK)

bench-docs: $(VENV)/.bench compiled ## Measure everything and write tables and plots into docs/performance.md
	$(BIN)/python -m bench docs $(BENCH)

# The fuzzer watches which lines of the source run.
fuzz: export MOQ_RELAY_PURE ?= 1
fuzz: $(VENV)/.fuzz ## Look for input that is not taken well; FUZZ="quic-packets --seconds 600" chooses
	$(BIN)/python -m fuzz $(FUZZ)

lock: $(VENV)/.python ## Renew requirements/*.txt: the newest releases that pyproject.toml allows
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(BIN)/python -m venv "$$tools" && "$$tools/bin/python" -m pip --quiet install $(UV) && \
	compile() { "$$tools/bin/uv" pip compile --quiet --no-config --upgrade --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command "make lock" "$$@"; } && \
	compile pyproject.toml -o requirements/run.txt && \
	compile requirements/build.in -c requirements/run.txt -o requirements/build.txt && \
	compile pyproject.toml --extra dev --extra media -c requirements/run.txt -c requirements/build.txt -o requirements/dev.txt && \
	compile pyproject.toml --extra bench -c requirements/dev.txt -o requirements/bench.txt

dist: $(VENV)/.python ## Build what a package index takes, the source distribution and a wheel, and check it
	rm -rf build dist
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(BIN)/python -m venv "$$tools" && "$$tools/bin/python" -m pip --quiet install $(BUILD) && \
	"$$tools/bin/python" -m build --quiet && "$$tools/bin/python" -m twine check --strict dist/*

clean: ## Remove everything that was made
	rm -rf $(VENV) .venv-* .coverage .coverage.* build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find relay -name '*.so' -delete -o -name '*.record' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps below are older than the lock they were made from only when that lock has changed since.

KERNEL := relay/quic/_kernel.c

$(VENV)/.run: requirements/run.txt requirements/build.txt pyproject.toml setup.py $(KERNEL) | $(VENV)/.python
	$(PIP) install --no-compile --require-hashes -r requirements/run.txt -r requirements/build.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Installing has compiled the hot modules; this renews them when their sources have changed.
compiled: $(VENV)/.run
	@$(BIN)/python -c "from relay import compiled; exit(bool(compiled.reason) and not compiled.is_pure())" || \
	$(BIN)/python setup.py --quiet build_ext --inplace

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# Each process would prepare every module of tests for its assertions; one does it for all of them.
$(VENV)/.collected: $(VENV)/.dev | compiled
	@-$(BIN)/python -m pytest --collect-only --quiet > /dev/null
	@touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.run
	$(PIP) install --require-hashes -r requirements/bench.txt
	@touch $@

# Not locked: the lowest releases never change, and what these depend on themselves is as pip would install it.
$(LOWEST)/.dev: pyproject.toml requirements/build.in requirements/venv.sh setup.py $(KERNEL)
	@sh requirements/venv.sh $(LOWEST) "$(PYTHON)"
	$(LOWEST)/bin/python -m pip --quiet install $(UV)
	$(LOWEST)/bin/uv pip compile --quiet --no-config --resolution lowest-direct --python $(LOWEST)/bin/python \
	pyproject.toml --extra dev --extra media requirements/build.in -o $(LOWEST)/requirements.txt
	$(LOWEST)/bin/python -m pip --quiet install -r $(LOWEST)/requirements.txt
	$(LOWEST)/bin/python -m pip --quiet install --no-deps --no-build-isolation --editable .
	@touch $@

# Not locked: nothing that a relay, a test or a benchmark needs.
$(VENV)/.fuzz: $(VENV)/.dev
	$(PIP) install atheris
	@touch $@

$(VENV)/.python:
	@sh requirements/venv.sh $(VENV) "$(PYTHON)"
	@touch $@
