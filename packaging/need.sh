# shellcheck shell=bash
# What a fresh Debian machine lacks, and the Rust that this checkout pins.
# Sourced by ./demo and ./test, which set $root to the checkout.

# Prints a failure and what to do about it, and ends.
die() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

# A linker, and the C library's static archive, which every binary is linked
# with.
links_statically() {
    local archive
    archive=$(cc -print-file-name=libc.a 2>/dev/null) && [[ $archive == /* && -e $archive ]]
}

# Installs Debian packages if something is missing; asks for root only then.
need_packages() {
    local packages=() install
    links_statically || packages+=(gcc libc6-dev)
    # cargo fetches crates over https.
    [[ -e /etc/ssl/certs/ca-certificates.crt ]] || packages+=(ca-certificates)
    ((${#packages[@]} > 0)) || return 0
    install="apt-get update && apt-get install --yes --no-install-recommends ${packages[*]}"
    command -v apt-get >/dev/null ||
        die "needs a C compiler that links statically (on Debian: ${packages[*]})"
    printf 'installing: %s\n' "${packages[*]}" >&2
    if [[ $(id -u) == 0 ]]; then
        DEBIAN_FRONTEND=noninteractive sh -c "$install" >&2 || die "could not install: $install"
    elif command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
        sudo DEBIAN_FRONTEND=noninteractive sh -c "$install" >&2 ||
            die "could not install: $install"
    else
        die "run this as root, then try again: $install"
    fi
    links_statically || die "cc still does not link statically; is another compiler first in PATH?"
}

# Finds Rust. Where the pinned version is installed under another name, that
# one is taken rather than downloading it again.
need_rust() {
    local pinned toolchain
    [[ -d $HOME/.cargo/bin ]] && PATH=$PATH:$HOME/.cargo/bin
    command -v cargo >/dev/null || die "needs Rust: see https://rustup.rs"
    command -v rustup >/dev/null || return 0
    [[ -z ${RUSTUP_TOOLCHAIN:-} ]] || return 0
    # shellcheck disable=SC2154 # set by whoever sources this
    pinned=$(sed -n 's/^channel = "\(.*\)"$/\1/p' "$root/rust-toolchain.toml")
    while read -r toolchain _; do
        [[ $toolchain != "$pinned"-* ]] || return 0
    done < <(rustup toolchain list)
    while read -r toolchain _; do
        if [[ $(RUSTUP_TOOLCHAIN=$toolchain rustc --version) == "rustc $pinned "* ]]; then
            export RUSTUP_TOOLCHAIN=$toolchain
            return 0
        fi
    done < <(rustup toolchain list)
}

# Where this checkout's static binaries are built.
binaries() {
    printf '%s\n' "${CARGO_TARGET_DIR:-$root/target}/x86_64-unknown-linux-gnu/release"
}
