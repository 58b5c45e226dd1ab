# The two commands of a newcomer are `make up` and `make test`; `make help` lists all.

PGBAKE = .venv/bin/pgbake
# Two at a time, a file to one: builds of one share the machine with what others wait for.
PYTEST = .venv/bin/python -m pytest -n 2 --dist loadfile

.PHONY: help up down setup test test-full lint bench clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## Set everything up, build the example bundle from source, start a server from it
	@scripts/setup run
	@$(PGBAKE) -C example up
	@echo
	@echo "The example's server is running. Next:"
	@echo "  $(PGBAKE) -C example psql          talk to it"
	@echo "  $(PGBAKE) -C example size          see what the bundle holds"
	@echo "  $(PGBAKE) -C example down          stop it"
	@echo "  $(PGBAKE) --help                   see all commands"

down: ## Stop the example's server
	@$(PGBAKE) -C example down

setup: ## Set up system packages, virtual environment and tests' needs
	@scripts/setup test

lint: setup ## Run the linters and the type checker
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

test: lint ## Run the tests of every area: 25 minutes at most, from nothing, on two cores
	$(PYTEST) -m "not full"

test-full: lint ## Run every test
	$(PYTEST)

bench: setup ## Measure, against a peer or a bare command in the same run
	.venv/bin/python -m bench

clean: ## Remove the virtual environment and caches of tools, not the store
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis example/result
