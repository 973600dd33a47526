# Short names for what contributors run, in .venv: make lint fast docs
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.PHONY: env test fast lint docs bench

env:
	tools/setup_env.sh

test:
	bash tools/run_tests.sh

fast:
	bash tools/run_tests.sh --fast

lint: env
	ruff check .
	ruff format --check .
	codespell
	mypy

docs: env
	python -m pip --disable-pip-version-check install --quiet -r requirements-docs.txt
	@# --quiet would hide the warnings that --strict counts.
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

bench: env
	python tools/make_shapes.py
	python tools/benchmarks/optimizers.py
	python tools/benchmarks/loop.py --shapes data/shapes
	python tools/benchmarks/update.py
	python tools/benchmarks/planner.py --shapes data/shapes
