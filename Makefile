# Everyday commands. A fresh machine needs Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One torch thread a process: the hospitals of a study share the machine's cores.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check bench results format proto clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt 'setuptools>=68' wheel
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/secure-fedhelp demo --out runs/demo --overwrite

test: $(STAMP)
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=90 --skip-covered

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m secure_fedhelp.wire.generate --check
	$(BIN)/python checks/valve.py

bench: $(STAMP)
	$(BIN)/secure-fedhelp bench aggregation --json runs/bench.json --plot runs/bench.html $(BENCH)

# docs/results.md from scratch: hours. DATA is the folder of the data sets (README, "Data").
results: $(STAMP)
	@test -n "$(DATA)" || { echo "say where the data are: make results DATA=FOLDER"; exit 2; }
	$(BIN)/python benchmarks/results.py run --data-dir $(DATA) $(RESULTS)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(STAMP)
	$(BIN)/python -m secure_fedhelp.wire.generate

clean:
	rm -rf $(VENV) runs .coverage .coverage.* htmlcov
