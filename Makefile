# make dev     everything on this machine, no set-up (make dev ARGS='--regions 2')
# make demo    three regions, a partition, conflicts, and proof that they end equal; ends by itself
# make test    everything that must hold
# make sim     simulated worlds of regions, as many as SEEDS says (make sim SEEDS=2000)
# make check   what a change must pass: formatting, lints, tests
# make tools   installs what is missing: a C linker, Postgres, nats-server (make test: Chromium too)

SHELL := /bin/sh
.PHONY: dev demo test sim check tools test-tools

dev: tools
	cargo run --quiet -- dev $(ARGS)

demo: tools
	cargo run --quiet -- demo $(ARGS)

test: test-tools
	cargo test

sim: tools
	SIM_SEEDS=$(or $(SEEDS),1000) cargo test --test it sim::every_seed -- --nocapture

check: test-tools
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo test

tools:
	@sh docker/tools.sh

test-tools:
	@sh docker/tools.sh test
