# Two commands do all the set-up: `make demo` and `make test`. `make check` is the quick round.

# Outside the checkout, so that a fresh clone finds what an earlier one built.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/lateen/target
TOOLS := $(HOME)/.cache/lateen/tools
RELEASE := $(CARGO_TARGET_DIR)/release
BINARIES := --bin lateen --bin lateend --bin lateen-agent --bin lateen-proxy --bin bookinfo

# Istio's sample files and other test inputs, where they are at hand.
ifneq ($(wildcard ../shared/corpora),)
export LATEEN_CORPORA ?= $(abspath ../shared/corpora)
endif

.PHONY: demo build test check format clippy doc tools unit process differential corpora bench bench-api clean

demo: build ## build everything and run Bookinfo in a mesh on this machine
	$(RELEASE)/lateen demo

build: ## the programs, optimised
	cargo build --release --locked $(BINARIES)

test: tools build unit differential process ## install what the tests need and run all of them
	@echo "All tests passed."

tools: ## Debian packages, Envoy and kubectl for the tests
	tools/install $(TOOLS)

unit: tools
	. $(TOOLS)/env && cargo test --locked --workspace --no-fail-fast

# Whole processes: one test at a time, for each wants both cores.
process: tools build
	. $(TOOLS)/env && LATEEN_BIN_DIR=$(RELEASE) cargo test --locked --workspace --test demo -- --test-threads=1 --nocapture

# Envoy and our proxy on the same files. Make it with CASES="routing/ tls/" for some of them.
differential: tools build
	. $(TOOLS)/env && LATEEN_BIN_DIR=$(RELEASE) LATEEN_CASES="$(CASES)" cargo test --locked --workspace --test differential

# VERBOSE=1 lists the cases that fail, ONLY="analyze simulation" takes some of the corpora.
corpora: ## the corpora of DIR: passed and total of each
	cargo run --locked --quiet -p lateen-corpora -- $(DIR) $(if $(VERBOSE),--verbose) $(if $(ONLY),--only "$(ONLY)")

bench: ## the data plane against Envoy: a table of ratios
	tools/install $(TOOLS) bench
	cargo build --release --locked --bin lateen-proxy --bin lateen-bench
	. $(TOOLS)/env && PATH=$$PATH:/usr/sbin $(RELEASE)/lateen-bench --proxy $(RELEASE)/lateen-proxy --output $(CARGO_TARGET_DIR)/bench \
		--rounds $(ROUNDS) --scenarios "$(SCENARIOS)" $(if $(DOCUMENT),--document $(DOCUMENT))

bench-api: ## the API server under load: 1,000 writes a second, 1,000 watchers
	cargo build --release --locked -p lateen-apiserver --example load
	$(RELEASE)/examples/load $(LOAD)

bench-control: ## the control plane: what changes cost; DOCUMENT=FILE keeps the tables
	cargo build --release --locked --bin lateend --bin lateen-bench-control
	$(RELEASE)/lateen-bench-control run --lateend $(RELEASE)/lateend $(if $(DOCUMENT),--document $(DOCUMENT)) $(ARGUMENTS)
	$(RELEASE)/lateen-bench-control generators $(if $(DOCUMENT),--document $(DOCUMENT))

check: format clippy doc ## format, lints, documentation

format:
	cargo fmt --all --check

clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

clean:
	rm -rf $(CARGO_TARGET_DIR) $(TOOLS)
