# Two commands matter: `make book` and `make test`. Both set up .venv themselves.
# All paths are relative, so a folder with spaces or umlauts in its name will do.

PYTHON ?= python3
PY := .venv/bin/python
export PYTHONPATH := book
export PYTHONUTF8 := 1

.PHONY: book test jupyter code notebooks lint clean

book: .venv/ready
	@$(PY) -m _press build

test: .venv/ready
	@$(PY) -m ruff check .
	@$(PY) -m pytest -q --nbval --nbval-current-env --nbval-cell-timeout 60 \
		--nbval-sanitize-with book/_press/sanitize.cfg tests book

jupyter: .venv/ready
	@$(PY) -m jupyterlab --notebook-dir book

code: .venv/ready
	@$(PY) -m _press code

# ONLY=02_request_loop names one; FRESH=1 stores new pictures even where nothing has changed.
notebooks: .venv/ready
	@$(PY) -m _press $(if $(FRESH),fresh,run) $(ONLY)

lint: .venv/ready
	@$(PY) -m ruff check .

clean:
	rm -rf .venv _build book/run

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("This book needs Python 3.11 or newer; \"make PYTHON=python3.12 ...\" names another one.")'
	@if command -v uv >/dev/null; then \
		uv venv -q --clear --python "$(PYTHON)" .venv && \
		uv pip install -q --compile-bytecode --python $(PY) -r requirements.txt; \
	else \
		$(PYTHON) -m venv --clear .venv || { \
			echo "Python cannot make a virtual environment here; on Debian: apt install python3-venv" >&2; exit 1; }; \
		$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt; \
	fi
	@touch $@
