# `make demo` shows it and `make test` tests it: as root on Debian 12 or newer with Rust. `make help` lists all targets.

PROFILE   ?= dev
OUT       := $(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
STAGE     := target/stage/$(OUT)
# The profile of the programs in the package.
DEB_PROFILE ?= release
CARGO     ?= cargo
# PID 1 of a jail must need no loader, because it would find the tenant's. The login shell is static too, so that it loads
# nothing that its environment names. They, the command line and the other programs that start often are linked with musl where
# the toolchain has it (tests/deps adds it), because glibc starts slowly (docs/decisions/0061-static-programs-are-linked-with-musl.md).
# The target is read when it is used, after tests/deps.
MACHINE   := $(shell uname -m)
TARGET     = $(MACHINE)-unknown-linux-$(shell test -d "$$(rustc --print sysroot)/lib/rustlib/$(MACHINE)-unknown-linux-musl" && echo musl || echo gnu)
STATIC     = CARGO_TARGET_$(shell echo $(TARGET) | tr a-z- A-Z_)_RUSTFLAGS="-C target-feature=+crt-static"

# Tests wait much of the time, so more of them run at once than there are processors.
TEST_THREADS ?= $(shell echo $$(($$(nproc) + 1)))

FUZZ_TIME ?= 60
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

.PHONY: all help build stage stage-failpoints deps demo check test vm-test soak package deb lint doc mutants fuzz fuzz-build fmt clean bench

all: build

## help: print this list
help:
	@sed -n 's/^## \([a-z-]*\): /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

## build: build every program, optimised, into target/stage/release
build:
	$(MAKE) stage PROFILE=release

## stage: build every program of one profile into one directory, as an installation has them
stage: deps
	$(CARGO) build --locked --profile $(PROFILE) -p bailiwick-daemon -p bailiwick-warden -p bailiwick-network -p bailiwick-exporter -p bailiwick-notify -p bailiwick-hooks -p bailiwick-pam
	$(STATIC) $(CARGO) build --locked --profile $(PROFILE) -p bailiwick-cli -p bailiwick-init -p bailiwick-shell -p bailiwick-web -p bailiwick-lend -p bailiwick-mail --target $(TARGET)
	mkdir -p $(STAGE)
	install -m 0755 $(addprefix target/$(OUT)/,bailiwickd bailiwick-warden bailiwick-net bailiwick-exporter bailiwick-notify bailiwick-hooks) $(STAGE)
	install -m 0644 target/$(OUT)/libpam_bailiwick.so $(STAGE)/pam_bailiwick.so
	install -m 0755 $(addprefix target/$(TARGET)/$(OUT)/,bailiwick bailiwick-shell) $(STAGE)
	install -m 0711 $(addprefix target/$(TARGET)/$(OUT)/,bailiwick-init bailiwick-web bailiwick-lend bailiwick-mail) $(STAGE)

## stage-failpoints: the same, plus a warden and a bailiwick-net whose steps a test can make fail
stage-failpoints: stage
	$(CARGO) build --locked --profile $(PROFILE) -p bailiwick-warden -p bailiwick-network --features bailiwick-warden/failpoints,bailiwick-network/failpoints
	mkdir -p $(STAGE)/failpoints
	install -m 0755 $(addprefix target/$(OUT)/,bailiwick-warden bailiwick-net) $(STAGE)/failpoints
	install -m 0711 $(addprefix $(STAGE)/,bailiwick-init bailiwick-web bailiwick-lend bailiwick-mail) $(STAGE)/failpoints

## deps: install the Debian packages that the build and the tests need
deps:
	@tests/deps

## demo: make a host below a temporary folder with three tenants, look into each, audit, remove it all
demo: stage
	tests/demo $(STAGE)

## check: check formatting, lints and documentation, and run every test that needs no root
check:
	@tests/check

## test: run every test on this machine
test: stage-failpoints
	BAILIWICK_STAGE=$(CURDIR)/$(STAGE) RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --locked --workspace --profile $(if $(filter dev,$(PROFILE)),test,$(PROFILE))

## vm-test: test what the kernel, systemd and the file system decide, in emulated Debian hosts (XFS, ext4, old and new kernels, power failures)
vm-test: deps
	tests/vm/suite

## soak: run every suite in each of these hosts, with all repetitions: fifty kills of either daemon, ten power cuts, five hundred sessions
soak: deps
	tests/vm/suite all

## package: build the Debian package into target/deb
package:
	debian/deps
	rm -rf target/deb
	mkdir -p target/deb
	DEB_OUT=$(CURDIR)/target/deb DEB_PROFILE=$(DEB_PROFILE) debian/rules clean binary
	rm -rf debian/bailiwick debian/files debian/*.substvars debian/*.debhelper debian/*.debhelper.log debian/.debhelper debian/debhelper-build-stamp

## deb: the same, and check it with lintian
deb: package
	lintian --fail-on error,warning target/deb/bailiwick_*.deb

## bench: measure start, stop and entry, and compare them with other tools as ratios
bench:
	$(MAKE) stage PROFILE=release
	benches/run target/stage/release

## lint: check formatting, subjects of commits, and clippy; warnings are errors
lint:
	tests/commits
	MUTANTS_MATCH=1 tests/mutants
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings

## doc: build the documentation of every crate into target/doc; warnings are errors
doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --workspace

## mutants: takes each wall out of a copy, and counts the suites that turn red; on a machine that may be lost
mutants: stage-failpoints
	tests/mutants $(WALLS)

## fuzz-build: build the fuzz targets and run each with a thousand inputs, without guidance by coverage
fuzz-build:
	$(CARGO) build --locked --manifest-path fuzz/Cargo.toml
	for target in $(FUZZ_TARGETS); do fuzz/target/debug/$$target -runs=1000 || exit 1; done

## fuzz: run each fuzz target for FUZZ_TIME seconds; needs a nightly compiler and cargo-fuzz
fuzz:
	@$(CARGO) fuzz --version > /dev/null 2>&1 || { echo "make fuzz needs cargo-fuzz: cargo install cargo-fuzz" >&2; exit 1; }
	for target in $(FUZZ_TARGETS); do $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_TIME) || exit 1; done

## fmt: format every source file
fmt:
	$(CARGO) fmt --all

## clean: remove build output
clean:
	$(CARGO) clean
