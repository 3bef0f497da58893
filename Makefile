# Every target sets up what it needs; the only things taken for granted are make and Python >= 3.11.
PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,$(if $(shell $(name) -c 'import sys; print(int(sys.version_info >= (3, 11)))' 2>/dev/null | grep 1),$(name))))
BIN := .venv/bin
SOURCES := pyproject.toml $(shell find bench attacks defenses -name '*.py' -o -path '*/site/*' -type f) $(wildcard docs/*.md docs/*/*)

.PHONY: demo test test-slow browser ray screenshots lint types wheel extras bench fuzz catch-rate study findings recipes clean

demo: .venv/installed
	$(BIN)/gauntlet demo

test: .venv/installed
	$(BIN)/pytest -n auto --dist worksteal -m "not slow"

# The tests that take over six seconds each, most of them of processes that are killed and of whole evaluations.
test-slow: .venv/installed
	$(BIN)/pytest -n auto --dist worksteal -m slow

# The report in a real Chromium; fails where there is none (apt-get install chromium).
browser: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[browser]'
	rm -rf build
	GAUNTLET_BROWSER=1 $(BIN)/pytest tests/report/browser -p no:xdist

# A cluster on this machine.
ray: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[ray]'
	rm -rf build
	$(BIN)/pytest tests/extras/test_ray.py -p no:xdist

# The pictures of the README, from the project's own results.
screenshots: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[browser]'
	rm -rf build
	$(BIN)/python tests/report/browser/screenshots.py

# Imports and types from inside .venv, so that the installed package is checked and not the folders here.
lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd .venv && bin/lint-imports --no-cache ../pyproject.toml

types: .venv/installed
	cd .venv && bin/mypy --config-file ../pyproject.toml -p bench

wheel: .venv/installed
	PYTHON=$(PYTHON) bash tests/wheel.sh

extras: .venv/installed
	$(BIN)/python tests/extras.py

bench: .venv/installed
	$(BIN)/python tests/speed/overhead.py
	$(BIN)/python tests/speed/libraries.py
	$(BIN)/python tests/speed/training.py
	$(BIN)/python tests/speed/kernel.py
	$(BIN)/python tests/speed/memory.py
	$(BIN)/python tests/speed/waiting.py
	$(BIN)/python tests/speed/verify.py
	$(BIN)/python tests/speed/diagnosis.py $(firstword $(wildcard results/mnist/*/fast_at-mnist*-s0-*))
	$(BIN)/python tests/speed/report.py $(firstword $(wildcard results/mnist/*/*-s0-*/fast-*/card.json))
	$(BIN)/python tests/speed/parallel.py results/*/*/*/fast-*/card.json

# Which broken defenses the diagnosis exposes, and which sound ones it wrongs; goes on where it was interrupted.
catch-rate: .venv/installed
	$(BIN)/python tests/catch_rate.py --results runs/catch-rate

# Every reader with 10,000 inputs; `make fuzz READERS=card INPUTS=100000` for more of one.
fuzz: .venv/installed
	cd tests && ../$(BIN)/python -m fuzz --inputs $(or $(INPUTS),10000) $(READERS)

# Needs GAUNTLET_DATA; goes on where it was interrupted.
study: .venv/installed
	$(BIN)/python tests/studies/warmup.py
	$(BIN)/python tests/studies/periodic.py
	$(BIN)/python tests/studies/periodic.py --images 20000 --epochs 16 --only constant cosine
	$(BIN)/python tests/studies/directions.py
	$(BIN)/python tests/studies/directions.py --seeds 5 --schedule constant --only plain ema
	$(BIN)/python tests/studies/directions.py --dataset cifar10 --images 2500 --augment none --model "preact_resnet18?width=8" \
		--eps 8/255 --steps 5 --epochs 60 --n 500
	$(BIN)/python tests/studies/overfitting.py
	$(BIN)/python tests/studies/precision.py

# The pages of docs/findings: what their commands print, their records and their figures. Needs GAUNTLET_DATA; goes on where it was
# interrupted. The trainings behind collapse.py are those of overfitting.py, which `make study` runs.
findings: .venv/installed
	$(BIN)/python tests/studies/collapse.py
	$(BIN)/python tests/studies/linear.py
	$(BIN)/python tests/studies/switching.py
	$(BIN)/python tests/studies/kernels.py --course
	$(BIN)/python tests/studies/inference.py
	$(BIN)/python tests/studies/budget.py --only constant cosine periodic "constant, periodic rate"
	$(BIN)/python tests/studies/norms.py
	$(BIN)/python tests/studies/features.py
	$(BIN)/python tests/studies/images.py
	$(BIN)/python tests/studies/stages.py
	$(BIN)/python tests/studies/falls.py
	$(BIN)/python tests/studies/patches.py

# The CIFAR-10 rows of the papers' size: hours on a GPU. Goes on where it was interrupted; `make recipes ROW=fast_at` makes one
# row, OPTIONS=--dry-run says how long it takes. Needs GAUNTLET_DATA or a network.
recipes: .venv/installed
	$(BIN)/gauntlet board results/boards/papers.toml $(if $(ROW),--only '$(ROW)') $(OPTIONS)

# Not editable: tests and users import the same thing. build/ would smuggle deleted modules into the wheel.
.venv/installed: $(SOURCES)
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one, or name it: make PYTHON=/path/to/python"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	rm -rf build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	rm -rf build
	touch $@

clean:
	rm -rf .venv build dist *.egg-info results/demo
