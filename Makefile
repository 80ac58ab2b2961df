# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check docs bench train fuzz clean
demo: $(READY)  ## compare the solvers on the embedded data, and say where the report is
	$(BIN)/mrfq compare --out report --jobs 2

test: $(READY)  ## all tests, on two processes
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(READY)  ## linter, types, documentation; warnings are errors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) docs

docs: $(READY)  ## the documentation, with its examples executed, in docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html

bench: $(READY)  ## speed ratios, and the classical solvers beside their peers, measured side by side in one run
	$(BIN)/python tests/bench/speed.py
	$(BIN)/python tests/bench/steps.py
	$(BIN)/python tests/bench/classical.py --out bench/classical.json

train: $(READY)  ## every training method on MNIST and CIFAR-10, in the folder DATA: hours, resumes
	$(BIN)/python tests/bench/training.py --data $(DATA) --docs docs/benchmarks.md

fuzz: $(READY)  ## 20,000 mutated files through every reader
	$(BIN)/python tests/bench/fuzz.py --count 20000

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist docs/_build docs/gallery docs/generated report bench
