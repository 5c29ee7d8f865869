# Recurring chores; `just` lists them. Everything works without just, too.

# What is built, and where.
release := "target/x86_64-unknown-linux-gnu/release"

_list:
    @just --list

# Does it compile, quickly.
check:
    cargo check --workspace --all-targets --release

# Format everything.
fmt:
    cargo fmt --all

# What ./test checks before it builds.
lint:
    cargo fmt --all --check
    cargo xtask check
    cargo clippy --workspace --all-targets --release -- -D warnings

# Tests of one package: just test afterimage-store
test package:
    cargo nextest run --release -p {{package}}

# All of it, as CI runs it.
test-all:
    ./test

# The demonstration: just demo --process
demo *options:
    ./demo {{options}}

# Run a program on real KVM: just lab -- uname -a
lab *arguments:
    cargo build --release -p afterimage-lab --bins
    {{release}}/lab run {{arguments}}

# Fuzz a target for a while: just fuzz guest_commands 60
fuzz target seconds="60":
    cargo +nightly fuzz run {{target}} -- -max_total_time={{seconds}}

# Lines of code by package.
loc:
    cargo xtask loc

# Documentation of all libraries.
doc:
    cargo doc --workspace --no-deps --lib --open

# Licences, advisories and sources of dependencies (needs cargo-deny).
deny:
    cargo deny check
