# Everything here needs Python >= 3.11 and make; the rest is installed into .venv, Postgres too.
#   make demo                       the whole thing on an embedded Postgres and a sandbox EMP
#   make test ARGS='-k outbox -x'   the tests
#   make bench ONLY=storm           measure, beside other systems, which are installed for it, against our goals: docs/performance.md
#   make faults                     the fault campaign, a quarter of an hour: KINDS='killed ended' SEED=7 RUNS=3, or MUTANTS=all
#   make soak                       an hour of a hundred changes a second and faults: does anything grow? MINUTES=12 SEED=2 JSON=FILE
#   make screens                    docs/screens, what the status page looks like; needs Chromium
#   make plots                      docs/plots, from what `make bench` has measured here
#   make alerts                     check the alerting rules and run their tests, with promtool
#   make fuzz                       the tests in tests/fuzz with FUZZ_EXAMPLES=100000 each; and guided by coverage: ONLY=decode SECONDS=600
#   make audit                      ask the package index for withdrawn and vulnerable releases among our pins
#   make docs                       the documentation as a site in ./site, links checked; nothing in it comes from elsewhere
#   make check                      all that .ci/run checks of the code
#   make deb                        dist/cdc-pusher_VERSION_ARCH.deb: packaging/README.md
#   make deb-check                  … and try it in a clean Debian; as root, with debootstrap
#   make PYTHON=python3.13 …        with another Python; `make clean` first

PYTHON ?= python3
DEB_PYTHON ?= /usr/bin/python3
ARGS ?=
BENCHMARKS := storm latency host heartbeat load idle many longtx
VENV := .venv
BIN := $(VENV)/bin
PROMTOOL = $(or $(shell command -v promtool 2>/dev/null),$(VENV)/promtool)
STAMP := $(VENV)/.installed
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help alerts audit bench demo docs faults fuzz plots soak test coverage lint format types layers screens wheel-check deb deb-check constraints check clean

help:
	@sed -n 's/^#   //p' Makefile

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo 'This Python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/cdc-pusher demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

bench: $(STAMP)
	@missed=; for name in $(or $(ONLY),$(BENCHMARKS)); do echo "== $$name"; $(BIN)/python -m bench $$name || missed="$$missed $$name"; done; \
	$(BIN)/python -m bench goals $(or $(ONLY),$(BENCHMARKS)); [ -z "$$missed" ] || { echo "goals missed in:$$missed" >&2; exit 1; }

faults: $(STAMP)
	PYTHONPATH=tests:. $(BIN)/python -m faults --seed $(or $(SEED),1) --runs $(or $(RUNS),1) --kinds $(KINDS) \
	    $(if $(MUTANTS),--mutants $(filter-out all,$(MUTANTS)))

soak: $(STAMP)
	PYTHONPATH=tests:. $(BIN)/python -m faults.soak --minutes $(or $(MINUTES),60) --seed $(or $(SEED),1) $(if $(JSON),--json $(JSON))

$(VENV)/.plots: $(STAMP)
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[bench]'
	touch $@

plots: $(VENV)/.plots
	$(BIN)/python -m bench.plots

# As root on a machine of no name in particular.
screens: $(STAMP)
	export PYTHONPATH=tests:.; photograph='$(BIN)/python -m page.screens docs/screens'; \
	if [ "$$(id -u)" = 0 ]; then unshare --uts sh -c "hostname cpo-db-1; exec $$photograph"; else $$photograph; fi

coverage: $(STAMP)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/mypy

audit: $(STAMP)
	$(BIN)/python .ci/audit.py

# Without ONLY by Hypothesis alone; with it one surface, guided by coverage (atheris, which is not to be had for every Python).
fuzz: $(STAMP)
ifdef ONLY
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[fuzz]'
	$(BIN)/python tests/fuzz/guided.py $(ONLY) $(or $(SECONDS),60)
else
	FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),100000) $(BIN)/python -m pytest tests/fuzz $(ARGS)
endif

docs: $(STAMP)
	$(BIN)/python -m mkdocs build

layers: $(STAMP)
	$(BIN)/lint-imports

# Where Prometheus is not installed, promtool alone is taken out of Debian's package.
$(VENV)/promtool:
	@set -eu; \
	work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; trap 'exit 1' HUP INT TERM; \
	mkdir -p $(VENV); \
	{ (cd "$$work" && apt-get download -o APT::Sandbox::User="$$(id -un)" prometheus && dpkg -x prometheus_*.deb .) && \
	    cp "$$work/usr/bin/promtool" $@; } >"$$work/log" 2>&1 || { \
	    cat "$$work/log" >&2; \
	    echo 'promtool is needed, which comes with Prometheus. On Debian and Ubuntu it is fetched after apt-get update.' >&2; exit 1; }

alerts: $(PROMTOOL)
	$(PROMTOOL) check rules monitoring/alerts.yml
	$(PROMTOOL) test rules monitoring/alerts_test.yml

# The wheel, built from the sdist, works where there is no checkout.
wheel-check: $(STAMP)
	@set -eu; \
	root=$$(pwd); work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; trap 'exit 1' HUP INT TERM; \
	$(BIN)/python -m build --outdir "$$work/dist" . >"$$work/log" 2>&1 || { cat "$$work/log" >&2; exit 1; }; \
	$(PYTHON) -m venv "$$work/venv"; \
	"$$work/venv/bin/python" $(PIP_INSTALL) -c constraints.txt "cdc-pusher[demo] @ file://$$(echo "$$work"/dist/*.whl)"; \
	cd "$$work"; unset PYTHONPATH; \
	"$$work/venv/bin/python" -c 'import sys, cdc_pusher; sys.exit(cdc_pusher.__file__.startswith(sys.argv[1] + "/"))' "$$root"; \
	"$$work/venv/bin/cdc-pusher" --version; \
	"$$work/venv/bin/cdc-pusher" demo

deb: $(STAMP)
	packaging/build $(BIN)/python $(DEB_PYTHON)

deb-check: $(STAMP)
	package=$$(packaging/build $(BIN)/python $(DEB_PYTHON)) && packaging/try "$$package"

# The newest of everything that pyproject.toml allows, without addresses; a commit of its own.
constraints:
	@set -eu; \
	work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; trap 'exit 1' HUP INT TERM; \
	$(PYTHON) -m venv "$$work/venv"; \
	"$$work/venv/bin/python" $(PIP_INSTALL) -e '.[dev]'; \
	{ echo '# Every package that cdc-pusher[dev] brings, at the versions it is tested with.'; \
	  echo '# Made by `make constraints`; used by `pip install -c constraints.txt`.'; \
	  "$$work/venv/bin/python" -m pip freeze --disable-pip-version-check --exclude-editable --exclude cdc-pusher \
	      | grep -E '^[A-Za-z0-9._-]+==[^ ]+$$'; } >"$$work/constraints.txt"; \
	cp "$$work/constraints.txt" constraints.txt

check: test lint types layers docs alerts wheel-check

clean:
	rm -rf $(VENV) dist build site .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find bench cdc_pusher migrations packaging tests -name __pycache__ -prune -exec rm -rf {} +
