//! Imports run one way.
//!
//! The one place where the order of the packages is written: each may use what
//! its line names, and its line names only packages above it.

use crate::workspace::{Package, Workspace};

/// A package (without the prefix `afterimage-`), what it may use, and what its
/// tests may use beside that.
struct Layer(
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

#[rustfmt::skip]
const LAYERS: [Layer; 17] = [
    Layer("delta", &[], &[]),
    Layer("area-abi", &["delta"], &[]),
    Layer("env", &[], &[]),
    Layer("protocol", &["delta", "area-abi"], &[]),
    Layer("store", &["delta", "area-abi", "env"], &[]),
    Layer("checkpoint", &["delta"], &[]),
    Layer("track-user", &["delta", "checkpoint"], &[]),
    Layer("track-kvm", &["delta", "checkpoint"], &[]),
    Layer("link", &["delta", "area-abi", "env", "protocol", "store"], &[]),
    Layer("devices", &["delta", "area-abi"], &[]),
    Layer("vmm", &["delta", "area-abi", "checkpoint", "track-kvm", "devices"], &[]),
    Layer("afterimage", &["delta", "area-abi", "checkpoint", "track-user", "link"], &[]),
    Layer("cli", &["delta", "area-abi", "protocol", "track-user", "link", "vmm"], &[]),
    Layer("kv", &["afterimage"], &[]),
    Layer("bank", &["afterimage"], &[]),
    Layer("lab", &["vmm"], &[]),
    // Programs are started as a user starts them; tests also talk to them in
    // their own language, and run the machine's self-tests.
    Layer("trials", &["vmm", "lab"], &["delta", "area-abi", "protocol"]),
];

/// Not part of the product, on top of everything.
const TOP: &str = "xtask";

/// Packages of others that only some of ours may use, and why.
const RESERVED: [(&str, &[&str], &str); 5] = [
    (
        "kvm-ioctls",
        &["track-kvm", "vmm"],
        "only the machine knows KVM",
    ),
    (
        "kvm-bindings",
        &["track-kvm", "vmm"],
        "only the machine knows KVM",
    ),
    (
        "vm-memory",
        &["devices", "track-kvm", "vmm"],
        "only the machine has guest memory",
    ),
    (
        "virtio-queue",
        &["devices"],
        "only devices read what a guest queues",
    ),
    (
        "anyhow",
        &["cli", "kv", "bank", "lab", "trials", "xtask"],
        "libraries have typed errors",
    ),
];

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    workspace.packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<String> {
    // A workspace of its own that feeds parsers wherever they are.
    if package.folder == "fuzz" {
        return Vec::new();
    }
    let name = short(&package.name);
    let manifest = format!("{}/Cargo.toml", package.folder);
    let mut findings = Vec::new();
    for dependency in &package.dependencies {
        let reserved = RESERVED.iter().find(|(other, ..)| other == dependency);
        if let Some((_, users, why)) = reserved
            && !users.contains(&name)
        {
            findings.push(format!(
                "{manifest}: {name} may not use {dependency}: {why}"
            ));
        }
    }
    if name == TOP {
        return findings;
    }
    let Some(Layer(_, uses, tests_use)) = LAYERS.iter().find(|layer| layer.0 == name) else {
        findings.push(format!("{manifest}: {name} has no place in the order of packages; give it one in xtask/src/layers.rs"));
        return findings;
    };
    let own = package.dependencies.iter().map(|d| (d, false));
    let dev = package.dev_dependencies.iter().map(|d| (d, true));
    for (dependency, in_tests) in own.chain(dev) {
        let used = short(dependency);
        let ours = used == TOP || LAYERS.iter().any(|layer| layer.0 == used);
        let allowed = uses.contains(&used) || (in_tests && tests_use.contains(&used));
        if ours && !allowed {
            findings.push(format!(
                "{manifest}: {name} may not use {used}; it may use: {}",
                if uses.is_empty() {
                    "nothing of ours".to_owned()
                } else {
                    uses.join(", ")
                }
            ));
        }
    }
    findings
}

fn short(name: &str) -> &str {
    name.strip_prefix("afterimage-").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(name: &str, dependencies: &[&str], dev: &[&str]) -> usize {
        let owned = |list: &[&str]| list.iter().map(|&d| d.to_owned()).collect();
        check_package(&Package {
            name: name.to_owned(),
            folder: "crates/x".to_owned(),
            dependencies: owned(dependencies),
            dev_dependencies: owned(dev),
        })
        .len()
    }

    #[test]
    fn the_order_points_one_way() {
        for (at, Layer(name, uses, tests_use)) in LAYERS.iter().enumerate() {
            for used in uses.iter().chain(*tests_use) {
                assert!(
                    LAYERS[..at].iter().any(|l| l.0 == *used),
                    "{name} uses {used}"
                );
            }
        }
    }

    #[test]
    fn an_import_against_the_order_is_found() {
        assert_eq!(
            findings("afterimage-store", &["afterimage-env", "thiserror"], &[]),
            0
        );
        assert_eq!(
            findings("afterimage-store", &["afterimage-protocol"], &[]),
            1
        );
        assert_eq!(findings("afterimage-delta", &[], &["afterimage-store"]), 1);
        assert_eq!(
            findings(
                "afterimage",
                &["afterimage-vmm", "afterimage-track-kvm"],
                &[]
            ),
            2
        );
        assert_eq!(findings("afterimage-vmm", &["afterimage"], &[]), 1);
        assert_eq!(findings("afterimage-env", &["xtask"], &[]), 1);
    }

    #[test]
    fn a_package_of_others_where_it_does_not_belong_is_found() {
        assert_eq!(findings("afterimage-store", &["kvm-ioctls"], &[]), 1);
        assert_eq!(findings("afterimage-link", &["anyhow"], &[]), 1);
        assert_eq!(findings("afterimage-link", &[], &["anyhow"]), 0);
    }

    #[test]
    fn a_package_without_a_place_is_found() {
        assert_eq!(findings("afterimage-new", &[], &[]), 1);
    }
}
