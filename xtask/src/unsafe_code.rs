//! Unsafe code only where it has a reason to be.

use crate::source::{code, lines_with_word};
use crate::workspace::Workspace;

/// Every file with unsafe code, and why it cannot do without.
#[rustfmt::skip]
const ALLOWED: [(&str, &str); 19] = [
    ("crates/afterimage/src/area.rs", "the root object lives at an address in the area"),
    ("crates/afterimage/src/device.rs", "control page and data are memory shared with the hypervisor"),
    ("crates/afterimage/src/heap/mod.rs", "an allocator hands out raw memory"),
    ("crates/afterimage/src/heap/tests.rs", "gives the allocator memory and uses what it hands out"),
    ("crates/afterimage/src/root.rs", "InArea is a promise that no compiler can check"),
    ("crates/track-kvm/src/kvm_log.rs", "KVM_CLEAR_DIRTY_LOG has no wrapper"),
    ("crates/track-kvm/src/slot.rs", "KVM is told addresses of memory"),
    ("crates/track-user/src/fault.rs", "a signal handler, and what it shares with the tracker"),
    ("crates/track-user/src/mprotect.rs", "its test stores to memory that is protected"),
    ("crates/track-user/src/region.rs", "mappings at fixed addresses"),
    ("crates/vmm/examples/ring.rs", "stands for an application: maps the device and stores to it"),
    ("crates/vmm/src/console.rs", "poll(2) on descriptors of a file that is only borrowed"),
    ("crates/vmm/src/kick.rs", "reaches into kvm_run of a running vCPU, signals a thread"),
    ("crates/vmm/src/tap.rs", "ioctls of network interfaces"),
    ("crates/vmm/src/vcpu.rs", "a union in kvm_run"),
    ("examples/afterimage-kv/src/data.rs", "says of generic types that they may live in an area"),
    ("examples/afterimage-kv/src/store_tests.rs", "an allocator that runs dry on request"),
    ("lab/src/qemu.rs", "between fork and exec"),
    ("trials/src/process.rs", "between fork and exec"),
];

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    compare(workspace, &ALLOWED)
}

fn compare(workspace: &Workspace, allowed: &[(&str, &str)]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut used = Vec::new();
    for file in workspace.rust("") {
        let Some(line) = lines_with_word(&code(&file.text), "unsafe")
            .into_iter()
            .next()
        else {
            continue;
        };
        if allowed.iter().any(|(path, _)| *path == file.path) {
            used.push(file.path.as_str());
        } else {
            findings.push(format!(
                "{}:{line}: unsafe code in a file that is not in the list of xtask/src/unsafe_code.rs; do without, or add it with its reason",
                file.path
            ));
        }
    }
    for (path, _) in allowed.iter().filter(|(path, _)| !used.contains(path)) {
        findings.push(format!(
            "{path}: has no unsafe code any more; take it off the list"
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::TextFile;

    #[test]
    fn unsafe_code_off_the_list_and_entries_without_unsafe_code_are_found() {
        let workspace = Workspace {
            files: vec![TextFile {
                path: "a/src/lib.rs".into(),
                text: "fn f() { unsafe { g() } }".into(),
            }],
            ..Workspace::default()
        };
        assert_eq!(compare(&workspace, &[("a/src/lib.rs", "why")]).len(), 0);
        assert_eq!(compare(&workspace, &[]).len(), 1);
        assert_eq!(
            compare(&workspace, &[("a/src/lib.rs", "why"), ("b.rs", "why")]).len(),
            1
        );
    }
}
