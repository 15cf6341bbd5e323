# `make demo` and `make test` need Python 3.11 or later, git and make; each sets up all the rest in .venv.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

# The versions that everything was tested with; with PINS= the newest ones are installed.
PINS := constraints.txt
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PINS:%=--constraint %)

.PHONY: help install demo engines test newest constraints faults nightly bench check docs clean

help: ## Show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /	/'

$(BIN)/flowplan: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flowplan needs Python 3.11 or later: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade "pip>=25.3"
	$(INSTALL) $(PINS:%=--build-constraint %) --editable .
	@# Where Python may not write bytecode (PYTHONDONTWRITEBYTECODE), each command would compile all modules again.
	@$(BIN)/python -m compileall -q flowplan planner providers schemas state
	@touch $@

$(VENV)/dev: $(BIN)/flowplan
	$(INSTALL) --group dev
	@touch $@

install: $(BIN)/flowplan ## Install flowplan into .venv

demo: $(BIN)/flowplan ## Plan, apply, plan again and destroy a spec of local processes, in a temporary directory
	@sh examples/demo.sh $(CURDIR)/$(BIN)/flowplan $(CURDIR)/examples/01-process.yaml

engines: $(VENV)/dev ## Say which engines tests find, and what is skipped for want of one
	@$(BIN)/python tests/engines.py

test: engines check ## All checks and tests; engines are found by DOCKER_HOST, KUBECONFIG, REGISTRY ... (CONTRIBUTING.md); TESTS="file ..." for some
	@# Three workers share two cores, because each waits for engines half of the time: what fails there has to fail alone as well to
	@# count. Each has whole modules, so that what a module's fixtures start is started once; in the order of the files, which has
	@# the slow ones first.
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(TESTS) || $(BIN)/pytest --last-failed --last-failed-no-failures none

newest: ## All checks and tests with the newest versions of all dependencies, in .venv-newest
	rm -rf .venv-newest
	FLOWPLAN_VERSIONS=newest $(MAKE) VENV=.venv-newest PINS= test

constraints: ## Write constraints.txt: the newest versions of all dependencies, which tests then have to pass
	rm -rf .venv-newest
	$(MAKE) VENV=.venv-newest PINS= .venv-newest/dev
	{ echo "# Written by make constraints: every distribution of .venv, direct and indirect, runtime and dev."; \
	  .venv-newest/bin/python -m pip --disable-pip-version-check freeze --all --exclude-editable; } > constraints.new
	mv constraints.new constraints.txt

faults: $(VENV)/dev ## Kill flowplan at every named point, on every engine, and write the table of docs/reliability.md (about three hours)
	PYTHONPATH=tests $(BIN)/python tests/faults/fault_rounds.py --providers process docker kubernetes slurm --passings 2 --write-docs
	PYTHONPATH=tests $(BIN)/python tests/faults/fault_rounds.py --providers process --random 600 --write-docs
	PYTHONPATH=tests $(BIN)/python tests/faults/fault_rounds.py --providers docker kubernetes --random 60 --write-docs
	PYTHONPATH=tests $(BIN)/python tests/faults/fault_rounds.py --postgres --providers process docker kubernetes --passings 1 --write-docs
	for what in ended fast immediate; do PYTHONPATH=tests $(BIN)/python tests/faults/fault_rounds.py --postgres --breaks $$what \
		--only "apply|destroy|replace" --passings 1 --write-docs || exit 1; done
	PYTHONPATH=tests $(BIN)/python tests/faults/fault_rounds.py --postgres --random 300 --write-docs
	PYTHONPATH=tests $(BIN)/python tests/faults/four_people.py

nightly: $(VENV)/dev ## Hostile inputs, random specs and a million simulated projects, which takes about two hours
	@# On two cores: half an hour each for the inputs, the projects and the specs of processes, 10 minutes for containers.
	FLOWPLAN_EXAMPLES=nightly FLOWPLAN_SIMULATED=1000000 $(BIN)/pytest -n 2 tests/test_hostile_input.py tests/test_big_input.py \
		tests/test_conduct.py tests/e2e/test_random_specs.py tests/test_random_containers.py

bench: $(BIN)/flowplan ## Measure flowplan side by side with what one would use instead; ROWS="name ..." for some
	$(BIN)/python benchmarks/run.py $(ROWS)

check: $(VENV)/dev ## Style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/dev ## Write the spec's schema, the generated pages, and the outputs that pages show
	$(BIN)/python docs/generate.py

clean: ## Remove what was built
	rm -rf $(VENV) .venv-newest build dist *.egg-info examples/plugin/build examples/plugin/*.egg-info
