# Every target installs what it needs into .venv first. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow test-gpu soak check format docs results bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.quickstart  ## install, then distil a text teacher into an image student (about five minutes on 2 cores)
	@if [ -f $(RUN)/summary.json ]; then echo "$(RUN) is finished; for another run: make quickstart RUN=runs/another"; \
	elif [ -d $(RUN) ]; then $(BIN)/xmodal distill emoji-text-to-image --out $(RUN) --resume; \
	else $(BIN)/xmodal distill emoji-text-to-image --out $(RUN); fi
	@echo "first     source $(BIN)/activate        (the commands above are installed there)"

test: $(VENV)/.dev  ## install everything and run the tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not gpu" $(ARGS)

test-slow: $(VENV)/.dev  ## the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not soak" $(ARGS)

test-gpu: $(VENV)/.dev  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(ARGS)

soak: $(VENV)/.dev  ## kill training and caching some seventy times, compare with what is left alone (a quarter of an hour)
	$(BIN)/python -m pytest -m soak $(ARGS)

check: $(VENV)/.dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy xmodal

format: $(VENV)/.dev  ## mend lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## build the documentation into site/, strictly
	$(BIN)/mkdocs build --strict

results: $(VENV)/.dev  ## run the recipe and its baseline with three seeds, write the tables (about 40 minutes on 2 cores)
	$(BIN)/python benchmarks/results.py

bench: $(VENV)/.dev  ## measure speed: training steps, every loss, tiled losses over batch sizes, streams
	$(BIN)/python benchmarks/training.py --json benchmarks/training.json
	$(BIN)/python benchmarks/losses.py --json benchmarks/losses.json
	$(BIN)/python benchmarks/losses.py --sweep --json benchmarks/losses-sweep.json
	$(BIN)/python benchmarks/streams.py --json benchmarks/streams.json --docs docs/streams-speed.md
	$(BIN)/python benchmarks/decoders.py --json benchmarks/decoders.json

clean:  ## remove what building and testing left; runs/ and .venv stay
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# A stamp each, so that a second call installs nothing.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.quickstart: pyproject.toml constraints.txt requirements-nodeps.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-nodeps.txt
	touch $@

$(VENV)/.dev: requirements-nodeps-dev.txt $(VENV)/.quickstart
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-nodeps-dev.txt
	touch $@
