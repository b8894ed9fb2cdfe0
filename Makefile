# make demo: the main job, on a real engine.  make test: all tests.  Both set up what they need.
# make bench: what the daemon costs, beside other proxies.  BENCH="--install --rounds 3" hands options on.
# make soak: half an hour of mixed traffic.  SOAK="--minutes 30 --engine unix:///path/docker.sock" names the engine.
# make torture: thousands of rounds in which something dies.  TORTURE="--engine real --seed 7 --rounds 100" says which.
# make engines: each way to create, on each engine.  ENGINES="--bundles COMMAND --write" names what brings them up, and
# writes the page of the reference; without it a private engine of Debian's docker.io is gone through, and nothing is written.

PYTHON ?= python3
VENV := .venv
DEMO := .cache/demo
PARTS := unit integration machines crashes wheel typing lint layers docs

.PHONY: test demo bench soak engines torture coverage clean $(PARTS)

test: $(VENV)/.tools
	@$(VENV)/bin/python -m tests.run

$(PARTS): $(VENV)/.tools
	@$(VENV)/bin/python -m tests.run $@

coverage: $(VENV)/.tools
	@$(VENV)/bin/python -m tests.run unit integration coverage

bench: $(VENV)/.tools
	@$(VENV)/bin/python -m benchmarks $(BENCH)

soak: $(VENV)/.tools
	@$(VENV)/bin/python -m benchmarks.soak $(SOAK)

TORTURE ?= --quiet --rounds 5000
torture: $(VENV)/.tools
	@$(VENV)/bin/python -m tests.torture $(TORTURE)

engines: $(VENV)/.tools
	@$(VENV)/bin/python -m tests.engines $(ENGINES)

demo: $(DEMO)/.installed
	@$(PYTHON) -m demo $(DEMO)/bin/twistd

# Debian's Python has the module venv, but not what it needs to put pip into the new environment.
define make-environment
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || ./demo/debian-packages python3-venv
	@test -x $(1)/bin/pip || $(PYTHON) -m venv $(1)
endef

$(VENV)/.tools: tests/requirements.txt
	$(call make-environment,$(VENV))
	@$(VENV)/bin/pip install -qq --disable-pip-version-check -r tests/requirements.txt
	@touch $@

$(DEMO)/.installed: setup.cfg pyproject.toml $(shell find docker_tracker twisted systemd -type f -not -name '*.pyc' -not -name dropin.cache)
	@mkdir -p .cache
	$(call make-environment,$(DEMO))
	@rm -rf build
	@$(DEMO)/bin/pip install -qq --disable-pip-version-check --upgrade '.[cli]'
	@touch $@

clean:
	rm -rf $(VENV) .cache build dist *.egg-info docs/_build .mypy_cache .ruff_cache .hypothesis .import_linter_cache .tox
