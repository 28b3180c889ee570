# make build | test | test-fast | lint | docs | package | demo | bench | gpu: each sets up .venv first (docs: .venv-docs); a
# second call only does what changed.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(VENV)/bin/uv pip install -q --compile-bytecode --python $(PY) -c constraints.txt
CSRC := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: build test test-fast lint docs package demo bench gpu format clean

build: $(VENV)/.built

test: build
	OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest -n auto --dist loadfile

test-fast: build
	OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest -n auto --dist loadfile -m "not slow"

lint: build
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --cache-dir .import_linter_cache
	$(VENV)/bin/clang-format --dry-run -Werror $(CSRC)

format: build
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/clang-format -i $(CSRC)

# The site is built from the sources alone, in an environment of its own without torch; a page must fetch no script,
# style or font from another server.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet --site-dir site
	@! grep -rEl '<(script|link|img)[^>]+(src|href)="?https?://[^">]+\.(js|css|woff2?|png|svg)' site --include='*.html' \
		|| { echo "these pages fetch from other servers"; exit 1; }
	@echo "site/index.html"

.venv-docs/.installed: pyproject.toml constraints.txt
	@.venv-docs/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		| .venv-docs/bin/pip install -q --disable-pip-version-check -c constraints.txt -r /dev/stdin
	@touch $@

# Wheel and sdist in dist/, which is emptied first; each is installed elsewhere and trains five steps.
package: build
	.ci/package

demo: build
	$(PY) -m hagan3d.demo

bench: build
	OMP_WAIT_POLICY=PASSIVE $(PY) benchmarks/kernels.py
	OMP_WAIT_POLICY=PASSIVE $(PY) benchmarks/memory.py
	OMP_WAIT_POLICY=PASSIVE $(PY) benchmarks/speed.py

# On a machine with a GPU: about ten minutes; results in benchmarks/results/gpu_NAME/.
gpu: build
	$(PY) benchmarks/gpu.py

clean:
	rm -rf build hagan3d/_C*.so $(VENV)/.built

# PyTorch comes before the package, whose extension is compiled against it.
$(VENV)/.requirements: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hagan3d needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@test -x $(VENV)/bin/uv || $(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@test -x $(VENV)/bin/uv || $(PY) -m pip install -q --disable-pip-version-check -c constraints.txt uv
	$(INSTALL) setuptools ninja torch
	@touch $@

$(VENV)/.installed: $(VENV)/.requirements setup.py
	HAGAN3D_NO_BUILD=1 $(INSTALL) --no-build-isolation -e '.[dev]'
	@touch $@

$(VENV)/.built: $(VENV)/.installed $(CSRC)
	@mkdir -p build; echo "compiling csrc (log: build/log)"
	@$(PY) setup.py -q build_ext --inplace > build/log 2>&1 || { cat build/log; exit 1; }
	@grep "^hagan3d:" build/log || true
	@$(PY) -c 'from hagan3d.ops import backend; print("operators:", backend())'
	@touch $@
