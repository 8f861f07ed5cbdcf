# make venv    .venv with the locked packages and this one, editable
# make book    run every notebook at $(PRESET), then build _build/html/index.html
# make html    build the same pages from the notebooks as stored: no training
# make test    the test suite            make lint    ruff: what it finds, and its format
# make zip     the built book, its runs and its data in one file, with their checksums, to be read and checked offline
# make render  make the stored notebooks' pages again from the published runs, ready to commit: no training
# make lock    resolve requirements.txt anew (TORCH=x.y.z takes another torch)
# make bench   time the layers beside their peers, which it installs, and store the report that the performance page shows
# make clean   remove what was built; runs and .venv stay

PYTHON ?= python3
LOCK_PYTHON ?= python3.11
PRESET ?= quick
PARAMETERS ?= -p preset $(PRESET)
TORCH ?= $(shell sed -n 's/^torch==//p' requirements.txt)

BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard book/*.ipynb))
PAPERMILL := $(BIN)/papermill --kernel python3 --cwd .
STRIP := $(BIN)/nbstripout --keep-output --keep-count \
	--extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution"

# The kernel named python3 is that of .venv, whatever else is registered on the machine.
export JUPYTER_PREFER_ENV_PATH := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
# What is imported is compiled once, by whoever imports it first: pip would have one core compile all, most of it for nothing.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: venv book html pages zip sources test lint render lock bench clean

venv: .venv/.installed

# uv takes a tenth of pip's time and reads none of its settings: where they name another index, and PyPI is out of reach, pip does it all.
# Then pip adds torch, with what its build for this system needs.
.venv/.installed: requirements.txt requirements.hashes pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed: make venv PYTHON=python3.12'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\]$$/p' requirements.hashes > .venv/uv.hashes
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --require-hashes -r .venv/uv.hashes
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements.hashes \
		|| $(BIN)/python -m pip install --quiet --no-compile --no-deps --require-hashes -r requirements.hashes
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

book: $(NOTEBOOKS:book/%=run/%)
	$(MAKE) --no-print-directory pages

html: sources
	$(MAKE) --no-print-directory pages

sources: venv
	rm -rf _build/book && mkdir -p _build/running && cp -R book _build/book

# The verdicts, the key and the performance are of what is published, and train nothing. The reader's own runs come last: that page
# looks at what the others trained.
run/verdicts.ipynb run/key.ipynb run/performance.ipynb: PARAMETERS =
run/your_run.ipynb: PARAMETERS = -p preset $(PRESET)
run/your_run.ipynb: $(filter-out run/your_run.ipynb,$(NOTEBOOKS:book/%=run/%))

# A notebook takes its place only when all of it has run; one that failed stays in _build/running to be looked at.
run/%: sources
	$(PAPERMILL) $(PARAMETERS) --log-output book/$* _build/running/$*
	mv _build/running/$* _build/book/$*

# The pages, and all of them as one, to be printed, from what was read for them.
pages:
	-$(BIN)/asym stale
	mkdir -p _build/own && cp -R figures _build/own _build/book/_extra/
	$(BIN)/jupyter-book build _build/book --config _config.yml --path-output . --all -W -n --keep-going
	$(BIN)/jupyter-book build _build/book --config _config.yml --path-output . --builder singlehtml -W -n --keep-going
	sed 's/href="index.html#/href="#/g' _build/singlehtml/index.html > _build/html/print.html

zip: html
	$(BIN)/python -m asym.parcel _build/html _build/asym-book-$$($(BIN)/python -c 'import asym; print(asym.__version__)').zip

render: venv
	$(MAKE) --no-print-directory --jobs 2 $(NOTEBOOKS:book/%=render/%)

render/%: venv
	mkdir -p _build/running
	$(PAPERMILL) book/$* _build/running/$*
	$(STRIP) _build/running/$*
	mv _build/running/$* book/$*

test: venv
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

# BioTorch asks for much that its layers do not use.
bench: venv
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python -m pip install --quiet --no-deps biotorch==0.0.16
	mkdir -p figures/performance
	$(BIN)/asym bench --json figures/performance/bench.json

# On the oldest Python, so that every pin serves the newer ones too (papermill needs aiohttp only from 3.12 on).
# Torch's CUDA packages stay out: torch itself pins them.
lock:
	rm -rf _build/lock && $(LOCK_PYTHON) -m venv _build/lock
	_build/lock/bin/python -m pip install --quiet --upgrade setuptools torch==$(TORCH)
	_build/lock/bin/python -m pip install --quiet --no-build-isolation -e '.[book,test]' aiohttp uv
	{ echo '# Exact pins of all that the package, its book and its tests need. Regenerate with: make lock'; \
	  _build/lock/bin/python -m pip freeze --all --exclude pip --exclude-editable \
	  | grep -viE '^(nvidia|cuda|triton)' | sed 's/+.*//' | LC_ALL=C sort -f; } > _build/requirements.txt
	mv _build/requirements.txt requirements.txt
	{ echo '# The same pins with the checksums of their files, but for torch, whose builds have checksums of their own. Regenerate with: make lock'; \
	  grep -v '^torch==' requirements.txt | _build/lock/bin/uv pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate -; } \
	  > _build/requirements.hashes
	mv _build/requirements.hashes requirements.hashes

clean:
	rm -rf _build build *.egg-info .pytest_cache .ruff_cache
	find asym tests book -name __pycache__ -prune -exec rm -rf {} +
