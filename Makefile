# Everything runs from .venv, which these rules make and keep up: `make demo`, `make test`, `make lint`.
#
# The project is installed in setuptools' strict editable mode: site-packages sees exactly the packages of setup.cfg (raftkv,
# raftkv_cli, raftkv_bench) as links to the files here, so an edit takes effect at once. A file that is added or removed needs a new
# set of links; the stamp below carries a checksum of the list of files, so that this happens by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
SEEDS ?= 20
FIRST ?= 1
SECONDS ?= 60
RUNS ?= 1
STATES ?= 1000000
MUTANTS_ARGS ?=
TORTURE_FIRST ?= $(shell date +%s)

FILES := $(shell find raftkv cli benchmarks \( -name '*.py' -o -name 'py.typed' \) | LC_ALL=C sort)
LIST := $(shell printf '%s\n' $(FILES) | cksum | tr ' ' '-')
DEPENDENCIES := $(VENV)/dependencies.stamp
INSTALLED := $(VENV)/installed-$(LIST).stamp

.PHONY: help install demo test lint simulate explore sweep mutants chaos fuzz torture bench clean

help:
	@echo "make demo      three nodes on this machine: kill the leader, lose a state store, check every acknowledged write"
	@echo "make test      the test suite"
	@echo "make lint      ruff and mypy --strict"
	@echo "make fuzz      changed and broken bytes for everything that reads some; SECONDS=60 for each target"
	@echo "make simulate  raftkv verify: whole clusters in simulated storms; SEEDS=100 FIRST=1 say which"
	@echo "make explore   every interleaving of three cores, STATES=1000000 states from each start"
	@echo "make sweep     a crash and an error in every disk operation of every workload"
	@echo "make mutants   plant every fault of tests/mutants and say whether it is caught; MUTANTS_ARGS='--row 9' for a part"
	@echo "make chaos     clusters of real processes, tortured; RUNS=3 says how many"
	@echo "make torture   all of these proofs at length, about an hour; TORTURE_FIRST says with which seeds"
	@echo "make bench     a quick measurement of this machine"
	@echo "make clean     remove .venv and what was built"

$(DEPENDENCIES): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "raftkv needs Python 3.11 or newer; say make PYTHON=python3.12 (this is %s)" % sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'setuptools >= 77'
	rm -rf build/__editable__.* $(VENV)/installed-*.stamp
	$(BIN)/python -m pip install --quiet --no-build-isolation --config-settings editable_mode=strict --editable '.[dev]'
	touch $@

$(INSTALLED): $(DEPENDENCIES)
	@rm -rf build/__editable__.* $(VENV)/installed-*.stamp
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --config-settings editable_mode=strict --editable .
	@touch $@

install: $(INSTALLED)

demo: install
	$(BIN)/raftkv demo

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy -p raftkv -p raftkv_cli -p raftkv_bench -p tests

simulate: install
	$(BIN)/raftkv verify --jobs 2 --seeds $(SEEDS) --first $(FIRST)

chaos: install
	$(BIN)/raftkv chaos --runs $(RUNS)

fuzz: install
	$(BIN)/python -m tests.fuzz --all --seconds $(SECONDS)

explore: install
	$(BIN)/raftkv verify explore --states $(STATES)

sweep: install
	$(BIN)/raftkv verify sweep

mutants: install
	$(BIN)/python -m tests.mutants --jobs 2 $(MUTANTS_ARGS)

torture: install
	$(BIN)/raftkv verify --suite --jobs 2 --first $(TORTURE_FIRST)
	$(BIN)/python -m tests.mutants --jobs 2
	$(BIN)/raftkv verify sweep
	$(BIN)/raftkv verify rot
	$(BIN)/raftkv verify explore --from start --states $(STATES)
	$(BIN)/raftkv chaos --runs 40

bench: install
	$(BIN)/python -m raftkv_bench.smoke

clean:
	rm -rf $(VENV) build raftkv.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
