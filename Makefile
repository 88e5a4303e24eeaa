# make test   every test, on a fresh Debian 12 machine, as root
# make demo   a VM boots, fetches its keys, and its disks open
# make quick  what a change needs while it is being written: a minute
# make mutants  breaks each guard of the planners and models, and shows that a test fails: some minutes
# make kills  a broker under load, and a rewrapping of 10,000 volumes, killed 50 times each: six minutes and more
# make failover  two brokers on a PostgreSQL of three machines, whose primary dies under load: four minutes and more
# make bench  ratios against cryptsetup, curl and nginx
# make packages  the Debian packages keybroker and keybroker-agent, in build/; VERSION=1.2.3 for another version
# make lint   what the linters and the type checker say
# make man    the man pages, in build/man; `keybroker manual DIR` writes them where an installation wants them
# make lock   new pins for requirements/*.txt from requirements/*.in

PYTHON = .venv/bin/python
PYTEST = $(PYTHON) -m pytest
FAST = tests/unit tests/contract tests/header tests/crash tests/tls tests/cli tests/failover/test_consistency.py

.PHONY: test demo quick mutants kills failover bench packages lint man lock install

install:
	@.ci/install

# For two cores: one virtual machine at a time from the beginning, beside it two at a time of what waits for disks and
# processes, then one kernel at a time. Kernels share what a file sets up, and machines share everything. What the
# machines' tests say comes at the end.
test: install
	@said=$$(mktemp); $(PYTEST) -q --no-skips tests/machine >"$$said" 2>&1 & machines=$$!; \
	trap 'kill $$machines; rm -f "$$said"; exit 1' INT TERM; \
	echo "$(PYTEST) -q --no-skips -n 2 --dist worksteal $(FAST)"; \
	$(PYTEST) -q --no-skips -n 2 --dist worksteal $(FAST); fast=$$?; \
	echo "$(PYTEST) -q --no-skips tests/kernel"; $(PYTEST) -q --no-skips tests/kernel; kernels=$$?; \
	echo "$(PYTEST) -q --no-skips tests/machine"; wait $$machines; machines=$$?; cat "$$said"; rm -f "$$said"; \
	exit $$((fast + kernels + machines))

demo: install
	@$(PYTHON) -m tests.machine.demo

quick: install
	$(PYTEST) -q -n 4 --dist worksteal tests/unit tests/contract tests/header

mutants: install
	$(PYTHON) -m tests.mutation.breaking

kills: install
	KEYBROKER_KILLS=50 $(PYTEST) -q -s --no-skips tests/tls/test_tls_kills.py tests/contract/test_broker_rewrap_crash.py

failover: install
	KEYBROKER_FAILOVERS="kill" $(PYTEST) -q -s --no-skips tests/failover/test_failover.py
	KEYBROKER_FAILOVERS="stop cut" $(PYTEST) -q -s --no-skips tests/failover/test_failover.py

bench: install
	$(PYTEST) -q -s -m bench tests/bench

packages: install
	@debian/build $(if $(VERSION),--version $(VERSION))

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

man: install
	$(PYTHON) -m keybroker.cli manual build/man
	$(PYTHON) -m agent manual build/man

# pip-tools has a place of its own, so that it does not pin what it needs itself
lock: install
	/usr/bin/python3 -m venv .cache/lock
	.cache/lock/bin/pip install --quiet --disable-pip-version-check pip-tools
	for name in broker pkcs11 postgres agent test; do \
		.cache/lock/bin/pip-compile --quiet --generate-hashes --strip-extras --no-header --no-emit-index-url \
			--no-emit-find-links --no-emit-trusted-host --output-file requirements/$$name.txt requirements/$$name.in || exit 1; \
	done
