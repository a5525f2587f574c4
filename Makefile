# make demo: the main job on the embedded default.   make test: everything that guards the project.
# The first Python that runs and is new enough; `make PYTHON=...` names another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && echo $$p && break; done)
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
	@test -n "$(PYTHON)" || { echo "jetlens needs Python 3.10 or later and none was found; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
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
