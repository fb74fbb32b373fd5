# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs first
# (scripts/setup.sh), and takes up where it left off when it is run again.

PY := .venv/bin/python
DEMO := runs/demo
SEED := 0
TRIALS := 10

# A tenth off the time to compile for CPU; what is computed stays the same, and as fast.
QUICK_COMPILE := --xla_llvm_disable_expensive_passes=true

.PHONY: help setup demo demo-check test test-all faults lint format clean

help:
	@echo "make demo      pretraining, SFT, reward model and PPO, small, on this machine -> $(DEMO)"
	@echo "make demo-check  the demo on three seeds, and what falls short of its promise"
	@echo "make test      the tests (ARGS='-k sharding' picks some)"
	@echo "make test-all  the slow tests too"
	@echo "make faults    every fault of docs/reliability.md, really made (TRIALS=50 for more of each)"
	@echo "make lint      ruff: rules and formatting, 'make format' repairs what it can; mypy: types"
	@echo "make setup     only what the others do first: .venv, with the dependencies"
	@echo "make clean     removes .venv and caches; keeps runs/"
	@echo
	@echo "PYTHON=python3.12 make setup picks the interpreter (3.11 or later), EXTRAS=gpu the extras."

setup:
	@sh scripts/setup.sh

demo: setup
	@echo "demo: training every stage into $(DEMO) (stop with Ctrl-C; 'make demo' goes on from there)"
	@XLA_FLAGS="$$XLA_FLAGS $(QUICK_COMPILE)" $(PY) -m train.chain --config=configs/chains/demo.py:seed=$(SEED) --workdir=$(DEMO)

# The demo on three seeds, beside what it promises; 22 minutes on two cores.
demo-check:
	@for seed in 0 1 2; do $(MAKE) demo SEED=$$seed DEMO=runs/demo-$$seed || exit 1; done
	@$(PY) -m benchmarks.demo --workdirs=runs/demo-0,runs/demo-1,runs/demo-2

# Two at a time, a module to each: compiling, most of what tests do, is single-threaded.
test: setup
	@echo "test: all but the slow tests, on 8 simulated CPU devices"
	@$(PY) -m pytest -n 2 --dist loadscope $(ARGS)

test-all: setup
	@echo "test-all: every test, on 8 simulated CPU devices"
	@$(PY) -m pytest -m "slow or not slow" $(ARGS)

# Each row of the table of docs/reliability.md, in real processes; 10 minutes on two cores.
faults: setup
	@$(PY) tests/faults.py --trials=$(TRIALS)

lint: setup
	@echo "lint: ruff check, ruff format --check, mypy"
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: setup
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: runs/ is kept; 'rm -r runs' removes the training runs"
