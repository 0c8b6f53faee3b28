# The commands of this project. `make help` lists them.

SHELL        := /bin/bash
TARGET       := x86_64-unknown-linux-gnu
OUT          := $(or $(CARGO_TARGET_DIR),target)/$(TARGET)
JOEY_RELEASE := $(OUT)/release/joey
JOEY_DEBUG   := $(OUT)/debug/joey
IMAGES       := images/out
export CARGO_TERM_COLOR ?= auto

.DEFAULT_GOAL := help
.PHONY: help setup build images demo test test-long check test-vm test-vagrant vagrant-stage footprint bench dist deny fmt man clean

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## Install what building and testing need (Debian packages, two kubectls)
	@tests/setup.sh

build: ## Build the release binary
	@tests/setup.sh build
	cargo build --release --locked
	@ls -lh $(JOEY_RELEASE) | awk '{print $$9, $$5}'

images: build ## Build the sample images as OCI archives into images/out
	@images/build.sh $(JOEY_RELEASE) $(IMAGES)

demo: build images ## Show a pod's life on this machine, in namespaces of its own (HOST=1: on the real network)
	@tests/setup.sh demo
	@HOST=$(HOST) tests/demo/run.sh $(JOEY_RELEASE) $(IMAGES)

check: ## Formatting, lints and the house rules (tests/tidy.rs)
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked --test tidy

test: setup ## Everything: lints, unit tests, real namespaces and packets, the real kubectl, the demo
	@tests/run.sh

test-long: setup ## The same with the long forms of random tests
	@JOEY_TEST_LONG=1 tests/run.sh

test-vm: build images ## Limits, the unit, power cut and reboot on a bare Debian in QEMU (ONLY=20,30: some cases)
	@tests/setup.sh
	@tests/vm/run.py $(JOEY_RELEASE) $(IMAGES) --only "$(ONLY)"

footprint: build images ## Measure memory, CPU, wake-ups and boot in QEMU, into docs/footprint.md (a quarter of an hour)
	@tests/setup.sh
	@tests/vm/run.py $(JOEY_RELEASE) $(IMAGES) --only 59,60 --footprint docs/footprint.md

test-vagrant: build images ## The same cases in a machine of Vagrant (libvirt, QEMU, in namespaces of its own)
	@tests/setup.sh
	@tests/vm/vagrant.sh $(JOEY_RELEASE) $(IMAGES)

vagrant-stage: build images ## Lay out what `vagrant up` in vagrant/ installs
	@rm -rf vagrant/stage && tests/vm/run.py $(JOEY_RELEASE) $(IMAGES) --stage vagrant/stage

dist: build ## A tarball, a Debian package and their checksums in target/dist
	@packaging/dist.sh $(JOEY_RELEASE) target/dist

bench: build images ## Measure against peers and the floor in alternation; prints tables
	@tests/setup.sh
	@tests/bench.sh $(JOEY_RELEASE) $(IMAGES)

deny: ## Licences, advisories and duplicate crates (needs cargo-deny)
	cargo deny --all-features check

fmt: ## Format the code
	cargo fmt --all

man: build ## Write the man pages into target/man
	$(JOEY_RELEASE) man target/man

clean: ## Remove what was built
	cargo clean
	rm -rf $(IMAGES) .tools vagrant/stage
