# Every target does its own set-up. A fresh clone needs only Python 3.10 to 3.13 with pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each Ray worker imports everything again, which takes three times as long without bytecode.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-training test-without-ray test-with-ray test-slow test-lowest test-newest fuzz \
  lint audit lock bench docs clean browser machines

demo: $(VENV)/.run
	$(BIN)/steel-batch demo

# The parts run in parallel, in more processes than there are cores, as many tests wait for others.
test: $(VENV)/.test browser machines
	$(MAKE) --no-print-directory --jobs 3 test-training test-without-ray test-with-ray

# All tests of a file run in one process, so that they share fixtures, servers and cluster. Files
# run in the order of tests/conftest.py, the longest first.
PYTEST := $(BIN)/python -m pytest --durations 10
SPREAD := --dist loadfile --no-loadscope-reorder
# Tests with Ray wait for processes of Ray, and without the cores they take twice as long.
LATER := nice -n 5
test-without-ray: $(VENV)/.test
	$(LATER) $(PYTEST) -n 2 $(SPREAD) -m "not ray and not slow and not gpu" --ignore tests/training

# Only files with such tests are imported: each process would spend seconds on the others.
test-with-ray: $(VENV)/.test
	$(PYTEST) -n 2 $(SPREAD) -m "ray and not slow and not gpu" \
	  $$(grep -rlw --include='test_*.py' --exclude-dir training 'mark\.ray' tests)

# In a process of its own, as importing PyTorch and the networks takes 6 s of CPU.
test-training: $(VENV)/.test
	$(LATER) $(PYTEST) -m "not slow and not gpu" tests/training

test-slow: $(VENV)/.test machines
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[cluster]'
	$(BIN)/python -m pytest --hypothesis-profile random -m "(slow or hypothesis) and not gpu"

# Fuzz each reader of foreign data for FUZZ_SECONDS: `make fuzz FUZZ_SECONDS=60`.
FUZZ_SECONDS := 600
FUZZ := header tar_index tar parquet inventory manifest card receipt lock
fuzz: $(VENV)/.test
	@for target in $(FUZZ); do \
	  $(BIN)/python -m tests.fuzz.loop $$target --seconds $(FUZZ_SECONDS) || exit 1; done

# Tests of pages use Debian's chromium; they are skipped if it cannot be installed.
browser:
	@command -v chromium >/dev/null || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
	  || echo "no chromium: tests of pages will be skipped. Install it: apt-get install chromium"

# Tests of several machines use network namespaces, as root; they are skipped if that is impossible.
machines:
	@{ command -v ip && command -v nft; } >/dev/null 2>&1 || { \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	  --no-install-recommends iproute2 nftables; } \
	  || echo "tests of several machines will be skipped: they need iproute2 and nftables"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/uv lock --quiet --check --offline || { echo "uv.lock does not match pyproject.toml: run make lock"; exit 1; }
	@$(MAKE) --no-print-directory audit || echo "lint passes: raise the bounds, then run make lock"

# Check the versions in uv.lock for published vulnerabilities. If the server does not answer, nothing
# fails: tests/test_dependencies.py compares the versions with advisories.toml without a network.
ADVISORIES_URL := https://api.osv.dev/
audit: $(BIN)/uv
	@UV_HTTP_RETRIES=0 $(BIN)/uv audit --quiet --preview --frozen --service-url $(ADVISORIES_URL); \
	status=$$?; if [ $$status -ne 2 ]; then exit $$status; fi; \
	echo "$(ADVISORIES_URL) did not answer: versions were not audited"

# Update uv.lock to the newest versions of all packages, for every Python and every extra.
lock: $(BIN)/uv
	$(BIN)/uv lock --upgrade

# Test the oldest and the newest versions that pyproject.toml allows, each in its own environment.
# To select tests or another Python: make test-lowest TESTS='tests/lake -m "not ray"' PYTHON=python3.10
TESTS ?= -m "not slow and not gpu"
test-lowest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-lowest test-newest: test-%: $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) build/$*
	$(BIN)/uv pip install --quiet --compile-bytecode --python build/$*/bin/python \
	  --resolution $(RESOLUTION) --editable '.[train,test]'
	build/$*/bin/python -m pytest -p no:cacheprovider $(TESTS)

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.rle
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.startup

# Build the site in build/docs; a broken link is an error.
docs: $(VENV)/.test
	$(BIN)/python -m sphinx -W -q -b html docs build/docs

clean:
	rm -rf $(VENV) demo-out build

# uv installs in half a minute; pip takes seven minutes.
$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	touch $@

# The demo needs only the base install; the tests need all extras.
$(VENV)/.run: pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[train,test,dev,docs]'
	touch $@
