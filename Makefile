# Two commands are all a newcomer needs: `make demo` and `make test`.
# Both install what they miss (and say so), need root or sudo, and use no
# network but namespaces of their own.

.DEFAULT_GOAL := help
.PHONY: help demo test bench build check fuzz clean-guest

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: ## a real tunnel between two gateways, traffic, status, clean-up
	@scripts/demo

test: ## every test, in about twenty minutes on two cores
	@scripts/test

bench: ## the performance table, every ratio measured in this run
	@scripts/bench

build: ## posternd and postern, optimised, in target/release
	cargo build --release -p daemon -p cli

check: ## format, lints, dependency rules: what a commit must pass
	@scripts/test check

fuzz: ## every fuzz target for FUZZ_SECONDS each (default 60)
	@scripts/fuzz

clean-guest: ## forget the guest images of the conformance tests
	rm -rf .cache/guest 2>/dev/null || sudo rm -rf .cache/guest
