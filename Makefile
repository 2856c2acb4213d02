# Each target makes the environment it needs. `make help` lists the targets.
PYTHON ?= python3
CHAPTER ?=
SEEDS ?= 50
ASSIGNMENT ?=
SUBMISSIONS ?= submissions
OUT ?= marks
OPTIONS ?=
PORT ?= 8000

BOOK_ENV = .venv-book
ENV = .venv
PIP = bin/python -m pip install -qq --disable-pip-version-check
PYTEST = $(ENV)/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=10

# Two workers share two cores, so each computes in one thread.
export OMP_NUM_THREADS = 1
export OPENBLAS_NUM_THREADS = 1
# What is compiled once is read by every worker, kernel and build after it.
export PYTHONDONTWRITEBYTECODE =
export JAX_COMPILATION_CACHE_DIR = $(CURDIR)/_build/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES = -1
export TF_CPP_MIN_LOG_LEVEL = 3
export TF_ENABLE_ONEDNN_OPTS = 0

.DEFAULT_GOAL = help
.PHONY: help book serve colab slides pdf test test-long notebooks assignments grade studies bench fetch-wheels push-colab clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(BOOK_ENV)/.stamp  ## build the book: _build/html/index.html
	$(BOOK_ENV)/bin/jupyter-book build . --quiet -W -n --keep-going

serve: book  ## build the book and serve it on http://localhost:8000 (PORT=...)
	$(BOOK_ENV)/bin/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

# BOOK_REPOSITORY=OWNER/NAME and BOOK_URL=https://... say whose book it is; see book/colab/site.py.
colab: book  ## write a notebook for Colab of each chapter: _build/colab/*.ipynb
	$(BOOK_ENV)/bin/jupyter-book build . --quiet -W -n --keep-going --builder custom --custom-builder colab

slides: $(BOOK_ENV)/.stamp  ## write lecture slides with speaker notes: _build/slides/*.html
	$(BOOK_ENV)/bin/jupyter-book build . --quiet -W -n --keep-going --builder custom --custom-builder slides

pdf: $(ENV)/.stamp book  ## print the whole book: _build/pdf/inverted-dropout.pdf
	$(ENV)/bin/python -m book.pdf

test: $(ENV)/.stamp book  ## style, types, and every short test
	$(ENV)/bin/ruff check .
	$(ENV)/bin/ruff format --check .
	$(ENV)/bin/mypy
	$(PYTEST) --nbval --nbval-kernel-startup-timeout 300 --ledger -m "not long" --cov --cov-report=term

test-long: $(ENV)/.stamp book  ## the long tests, then the statistical ones under other seeds (SEEDS=50)
	$(PYTEST) -m "long and not alone"
	$(ENV)/bin/python -m pytest -q -m alone
	$(PYTEST) -m statistical --seeds $(SEEDS)

notebooks: $(ENV)/.stamp  ## run what changed and store its outputs (CHAPTER=name for one, --all for all)
	$(ENV)/bin/python -m book.notebooks $(CHAPTER)

assignments: $(ENV)/.stamp  ## write students' notebooks and instructors' packs: _build/assignments
	$(ENV)/bin/python -m grading assign

# OPTIONS="--key FILE --variant WORD ..."; appendix/instructors.md says more.
grade: $(ENV)/.stamp  ## grade what students handed in (ASSIGNMENT=name SUBMISSIONS=folder OUT=folder)
	$(ENV)/bin/python -m grading grade $(ASSIGNMENT) $(SUBMISSIONS) -o $(OUT) $(OPTIONS)

studies: $(ENV)/.stamp  ## run the slow experiments again and store their results
	$(ENV)/bin/python -m studies.learning_rate
	$(ENV)/bin/python -m studies.batch_norm
	$(ENV)/bin/python -m studies.does_it_help
	$(ENV)/bin/python -m studies.uncertainty

# About four minutes on a quiet machine. OPTIONS="--shapes 32x100 --rates 0.3" is quicker; --store keeps the figures.
bench: $(ENV)/.stamp  ## time dropout side by side with other ways to do it (OPTIONS=--store for the book)
	$(ENV)/bin/python -m benchmarks $(OPTIONS)

fetch-wheels: $(BOOK_ENV)/.stamp  ## before publishing: get the wheels that the site must go on serving
	$(BOOK_ENV)/bin/python -m book.colab.publish fetch

push-colab: $(BOOK_ENV)/.stamp  ## after publishing: notebooks and wheels to the branch colab
	$(BOOK_ENV)/bin/python -m book.colab.publish push

clean:  ## remove what was built; the environments stay
	rm -rf _build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

$(BOOK_ENV)/.stamp: book/requirements.txt constraints.txt
	$(call make-env,$(BOOK_ENV),book/requirements.txt)

$(ENV)/.stamp: requirements.txt book/requirements.txt constraints.txt pyproject.toml
	$(call make-env,$(ENV),requirements.txt)

define make-env
@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else \
    f"Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is {v.major}.{v.minor}; name another: make PYTHON=python3.12")'
@echo "Making $(1) from $(2) ..."
@$(PYTHON) -m venv --clear $(1)
@$(1)/$(PIP) -r $(2)
@touch $@
endef
