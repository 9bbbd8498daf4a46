# Two commands are all a newcomer needs: `make demo` and `make test`.
# Both install what they miss (and say so), need root or sudo, and send packets
# in namespaces of their own only.

.DEFAULT_GOAL := help
.PHONY: help demo test bench build install uninstall check fuzz clean-guest

PREFIX ?= /usr/local
DESTDIR ?=
# Where the finished programs are.
BUILT ?= $(or $(CARGO_TARGET_DIR),target)/release
unit = $(DESTDIR)$(PREFIX)/lib/systemd/system/posternd.service
doc = $(DESTDIR)$(PREFIX)/share/doc/postern

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

install: ## what is built, a systemd unit, and /etc/postern; takes PREFIX and DESTDIR
	@test -x $(BUILT)/posternd -a -x $(BUILT)/postern || { echo "$(BUILT) has no posternd and postern: run 'make build' first" >&2; exit 1; }
	install -d $(DESTDIR)$(PREFIX)/sbin $(dir $(unit)) $(doc)/docs
	install -m 755 $(BUILT)/posternd $(BUILT)/postern $(DESTDIR)$(PREFIX)/sbin/
	sed 's|/usr/local|$(PREFIX)|' dist/posternd.service >$(unit)
	chmod 644 $(unit)
	install -m 644 README.md CHANGELOG.md LICENSE config.toml $(doc)/
	install -m 644 docs/*.md $(doc)/docs/
	install -d -m 700 $(DESTDIR)/etc/postern
	test -e $(DESTDIR)/etc/postern/config.toml || install -m 600 config.toml $(DESTDIR)/etc/postern/config.toml

uninstall: ## removes what install put there, but /etc/postern
	rm -f $(DESTDIR)$(PREFIX)/sbin/posternd $(DESTDIR)$(PREFIX)/sbin/postern $(unit)
	rm -rf $(doc)

check: ## format, lints, dependency rules: what a commit must pass
	@scripts/test check

fuzz: ## every fuzz target for FUZZ_SECONDS (default 60) or FUZZ_EXECUTIONS each
	@scripts/fuzz

clean-guest: ## forget the guest images of the conformance tests
	rm -rf .cache/guest 2>/dev/null || sudo rm -rf .cache/guest
