# make demo: the main job on the embedded default.   make test: everything that guards the project.
PYTHON ?= $(firstword $(foreach v,3.12 3.11 3.13 3.10,$(shell command -v python$(v) 2>/dev/null)) python3)
BIN := .venv/bin

.PHONY: demo test test-release check clean

demo: .venv/demo-ready
	$(BIN)/jetlens demo

test: .venv/test-ready .venv-core/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test

test-release: .venv/test-ready .venv-core/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test --release

check: .venv/test-ready
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit("jetlens needs Python 3.10 or later; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.11" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo-ready: .venv/created pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu,openvino,video,map]'
	touch $@

.venv/test-ready: .venv/created pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ .venv/demo-ready

# Only the core dependencies: what a Jetson installs, and what every module must import with.
.venv-core/ready: .venv/created pyproject.toml
	$(BIN)/python -m venv .venv-core
	.venv-core/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

clean:
	rm -rf .venv .venv-core demo runs
