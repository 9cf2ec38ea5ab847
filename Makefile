# `make demo` and `make test` need Python 3.11 or later and make; everything else is installed here, in .venv: the package
# for `make demo`, the tools for `make test` and the others, the site's for `make docs`.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Rebuilt when what it is made from changes: the package alone, and with the extra of that name.
READY := $(VENV)/.ready
DEV := $(VENV)/.dev
DOCS := $(VENV)/.docs
RELEASE := $(VENV)/.release
# timm and torchvision, seen by benchmarks/real_models.py alone: where torchvision's compiled part doesn't load (beside a
# torch without CUDA, say), other libraries fail as soon as they find it.
MODELS := $(VENV)/models

# Python keeps what it compiles, also where it is told not to, as in many containers: every process of the tests and of the
# demo would compile thousands of modules anew, which took half of its processor time.
unexport PYTHONDONTWRITEBYTECODE

# What is parallel here are the tests: neither torch's kernels nor its compiler need processes of their own.
PYTEST := OMP_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1 $(BIN)/python -m pytest
TOGETHER := -n auto --dist worksteal

# The rooms in which something is changed, or those that ROOM names; a path will do, as in ROOM=optim/m_sam.
ROOM ?= $(sort $(shell git status --porcelain | sed -En 's,^.* "?(src/lowland|tests)/(test_)?([a-z0-9_]+)(/.*|\.py)"?$$,\3,p'))
QUICK = $(wildcard $(foreach room,$(ROOM),tests/$(room) tests/test_$(room).py))

.PHONY: demo docs test quick coverage hostile hunt check models format dist clean
demo: $(READY)  ## a real experiment, start to figure: handwritten digits, no download
	$(BIN)/lowland run long2024/digits --out runs/demo

docs: $(DOCS)  ## the site, in site/: open site/index.html; fails at a broken link or an undocumented name
	$(BIN)/python docs/site/build.py

test: check  ## every check and test, on all cores
	$(PYTEST) $(TOGETHER)

quick: $(DEV)  ## a minute: formatter, linter, types, limits, and the quick tests of what is changed; ROOM=optim for others
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tests/house.py --check & $(BIN)/mypy && wait $$!
	$(if $(QUICK),$(PYTEST) $(TOGETHER) -m 'not slow and not hostile' \
		--durations 10 --durations-min 0.5 $(QUICK),@echo "no room is changed: name one, as in make quick ROOM=optim")

coverage: $(DEV)  ## every test once more, with the share of lines and branches that run; by room
	$(PYTEST) $(TOGETHER) --cov

hostile: $(DEV)  ## the whole hostile campaign, two hours; SEED=1 draws other cases, RECORD=1 writes the counts down
	$(PYTEST) tests/hostile -m 'hostile or not hostile' --seed $(or $(SEED),0) $(if $(RECORD),--record)

hunt: $(DEV)  ## ten minutes of random programs through exact m-SAM, against its definition; MINUTES=60 SEED=1 for others
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/hunt.py --minutes $(or $(MINUTES),10) --seed $(or $(SEED),0)

check: $(DEV)  ## formatter, linter, types, import rules, the house's limits
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache & imports=$$!; $(BIN)/python tests/house.py --check & house=$$!; \
		$(BIN)/mypy; types=$$?; wait $$imports && wait $$house && exit $$types

models: $(MODELS)/.ready  ## real architectures through exact m-SAM, against its definition
	$(BIN)/python benchmarks/real_models.py

format: $(DEV)  ## rewrite what the formatter and the linter can mend by themselves
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dist: $(RELEASE)  ## wheel and sdist in dist/: metadata checked, the wheel tried in an empty environment
	rm -rf dist build/lib build/bdist.*
	$(BIN)/python -m build --quiet
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tools/smoke.py dist/*.whl

$(READY): pyproject.toml constraints.txt tools/environment.py
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; say where it is: make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) tools/environment.py $(VENV)
	touch $@

$(DEV) $(DOCS) $(RELEASE): $(VENV)/.%: $(READY)
	$(PYTHON) tools/environment.py $(VENV) $*
	touch $@

# All that they need but themselves is in the environment.
$(MODELS)/.ready: $(DEV)
	rm -rf $(MODELS)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["models"])' \
		| xargs $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --target $(MODELS)
	touch $@

clean:
	rm -rf $(VENV) .cache/torch build dist site *.egg-info
