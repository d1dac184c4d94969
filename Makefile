# What a person runs and what CI runs are the same commands.

PACKAGES := mold redis-server redis-tools nginx-light nftables iproute2 dnsmasq-base libfaketime util-linux procps ca-certificates \
    gcc g++ libc6-dev postgresql mariadb-server memcached rabbitmq-server redis-sentinel curl squid tinyproxy
# What the bench measures beside preflight; nothing else needs them.
BENCH_PACKAGES := prometheus-blackbox-exporter nmap
IN_LAB := scripts/in-lab
# Tests mostly wait for networks and clocks, so more of them than there are cores run side by side.
THREADS ?= 6
CARGO ?= cargo
TARGET = $(shell $(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

.PHONY: help setup build test scenario demo lint bench openapi schema fuzz

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building and the lab need, where it is missing
	@scripts/setup $(PACKAGES)

build: setup ## Build the binaries and the tests
	$(CARGO) build --workspace --bins --tests

test: build ## Run every test, in namespaces of their own
	$(IN_LAB) $(CARGO) test --workspace --offline --no-fail-fast -- --test-threads $(THREADS)

scenario: build ## Play scenarios whose name contains NAME
	$(IN_LAB) $(CARGO) test --offline -p preflight-tests --test scenarios -- $(NAME)

demo: setup ## Replay the outage: the gate blocks, the group is opened, the gate passes
	$(CARGO) build --workspace --bins
	@$(IN_LAB) $(TARGET)/debug/preflight-demo

lint: setup ## Check format, lints, licences, bans and sources
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny check bans licenses sources

# Without a sanitizer the stable toolchain is enough: there is no unsafe code for one to look at.
FUZZ_SECONDS ?= 60
PROTOCOLS := redis redis_cluster redis_sentinel http postgres mysql memcached amqp grpc
fuzz: setup ## Fuzz what reads foreign bytes, each target for FUZZ_SECONDS
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install cargo-fuzz --locked
	@for target in manifest inventory target escape report $(PROTOCOLS); do \
		mkdir -p fuzz/found/$$target && \
		$(CARGO) fuzz run --sanitizer none $$target fuzz/found/$$target fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=5 -rss_limit_mb=2048 || exit 1; \
	done

openapi: setup ## Write the HTTP API's description from the code
	$(CARGO) run -p preflight-controller -- openapi > controller/openapi.json

schema: setup ## Write the JSON Schema of the gate's answer from the code
	$(CARGO) run -p preflight -- verdict schema > proto/gate.schema.json

bench: setup ## Measure probes, drops, memory and gates beside others, as ratios; PART=probes for one part
	@scripts/setup $(BENCH_PACKAGES)
	$(CARGO) build --workspace --bins --release
	$(IN_LAB) $(TARGET)/release/preflight-bench $(PART)
	$(IN_LAB) $(CARGO) test -p preflight-probe --test loss --offline -- --ignored --nocapture
