# Two commands matter: `make book` and `make test`. Both set up .venv themselves.
# All paths are relative, so a folder with spaces or umlauts in its name will do.

PYTHON ?= python3
VENV := .venv
PINS := -r requirements.txt -c book/_press/constraints.txt
PY := $(VENV)/bin/python
export PYTHONPATH := book
export PYTHONUTF8 := 1

# What `git diff` shows of a notebook; its file, where that can't be made into text.
TEXTCONV := f() { python3 book/_press/notebook_text.py "$$1" 2>/dev/null || cat "$$1"; }; f

.PHONY: book test jupyter code notebooks prose lint bench constraints newest clean

book: $(VENV)/ready
	@$(PY) -m _press build

test: $(VENV)/ready
	@$(PY) -m ruff check .
	@$(PY) -m pytest -q -n 2 --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout 60 \
		--nbval-sanitize-with book/_press/sanitize.cfg tests book

jupyter: $(VENV)/ready
	@$(PY) -m jupyterlab --notebook-dir book

code: $(VENV)/ready
	@$(PY) -m _press code

# ONLY=02_request_loop names one; FRESH=1 stores new pictures even where nothing has changed.
notebooks: $(VENV)/ready
	@$(PY) -m _press $(if $(FRESH),fresh,run) $(ONLY)

# What the prose says and no assertion proves; ONLY=02_request_loop names one page.
prose: $(VENV)/ready
	@$(PY) -m _press prose $(ONLY)

lint: $(VENV)/ready
	@$(PY) -m ruff check .

# Measure what a request costs each server, and store it; some six minutes, on an idle machine.
bench: $(VENV)/ready
	@$(PY) -m _press bench

# Pin anew what requirements.txt brings along; after a change of it, or to move on to newer versions.
constraints:
	@$(PYTHON) -m _press constraints

# Test and build with the newest of everything, beside .venv, and say what differs and what breaks.
newest:
	@$(PYTHON) -m _press newest

clean:
	rm -rf .venv _build book/run

$(VENV)/ready: requirements.txt book/_press/constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("This book needs Python 3.11 or newer; \"make PYTHON=python3.12 ...\" names another one.")'
	@if command -v uv >/dev/null; then \
		uv venv -q --clear --python "$(PYTHON)" $(VENV) && \
		uv pip install -q --compile-bytecode --python $(PY) $(PINS); \
	else \
		$(PYTHON) -m venv --clear $(VENV) || { \
			echo "Python cannot make a virtual environment here; on Debian: apt install python3-venv" >&2; exit 1; }; \
		$(PY) -m pip install -q --disable-pip-version-check $(PINS); \
	fi
	@[ ! -e .git ] || git config diff.notebook.textconv '$(TEXTCONV)' 2>/dev/null || true
	@touch $@
