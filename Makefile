# make dev     everything on this machine, no set-up (make dev ARGS='--regions 2')
# make demo    three regions, a partition, conflicts, and proof that they end equal; ends by itself
# make test    everything that must hold
# make sim     simulated worlds of regions, as many as SEEDS says (make sim SEEDS=2000)
# make bench   how fast this is, as ratios to what Postgres itself does (make bench ARGS='--only B1a,B3'); up to an hour
# make check   what a change must pass: formatting, lints, tests
# make tools   installs what is missing: a C linker, Postgres, nats-server (make test: Chromium too)

SHELL := /bin/sh
.PHONY: dev demo test sim bench check tools test-tools

dev: tools
	cargo run --quiet -- dev $(ARGS)

demo: tools
	cargo run --quiet -- demo $(ARGS)

test: test-tools
	cargo test

sim: tools
	SIM_SEEDS=$(or $(SEEDS),1000) cargo test --test it sim::every_seed -- --nocapture

bench: tools
	cargo run --release --quiet -- bench $(ARGS)

check: test-tools
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo test

tools:
	@sh docker/tools.sh

test-tools:
	@sh docker/tools.sh test
