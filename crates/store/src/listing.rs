//! The files of a store.

use crate::error::StoreError;
use crate::layout::FILE_HEADER_LEN;
use afterimage_env::{Disk, DiskFile as _};
use std::collections::BTreeSet;

/// What a directory holds; files with other names are somebody else's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) bases: BTreeSet<u64>,
    pub(crate) logs: BTreeSet<u64>,
    pub(crate) unfinished: BTreeSet<String>,
}

pub(crate) fn base_name(generation: u64) -> String {
    format!("base-{generation:016x}")
}

/// A base image that is being written.
pub(crate) fn unfinished_name(generation: u64) -> String {
    format!("base-{generation:016x}.tmp")
}

pub(crate) fn log_name(generation: u64) -> String {
    format!("log-{generation:016x}")
}

impl Listing {
    pub(crate) fn read<D: Disk>(disk: &D) -> Result<Self, StoreError> {
        let names = disk
            .list()
            .map_err(StoreError::disk("list", disk.place("")))?;
        let mut listing = Self::default();
        for name in names {
            if let Some(generation) = generation(&name, "base-") {
                listing.bases.insert(generation);
            } else if let Some(generation) = generation(&name, "log-") {
                listing.logs.insert(generation);
            } else if name
                .strip_suffix(".tmp")
                .is_some_and(|name| generation(name, "base-").is_some())
            {
                listing.unfinished.insert(name);
            }
        }
        Ok(listing)
    }

    /// The generation that is the store, if there is one, with its log.
    ///
    /// A log without a base is what a crash leaves between making the log and
    /// naming the base; then it has no record yet.
    pub(crate) fn current<D: Disk>(&self, disk: &D) -> Result<Option<u64>, StoreError> {
        let current = self.bases.last().copied();
        for log in self.logs.range(current.map_or(0, |newest| newest + 1)..) {
            let name = log_name(*log);
            let file = disk
                .open(&name)
                .map_err(StoreError::disk("open", disk.place(&name)))?;
            let len = file
                .len()
                .map_err(StoreError::disk("read", disk.place(&name)))?;
            if len > FILE_HEADER_LEN {
                return Err(StoreError::Orphan {
                    file: disk.place(&name),
                });
            }
        }
        if let Some(newest) = current
            && !self.logs.contains(&newest)
        {
            return Err(StoreError::LogMissing {
                file: disk.place(&log_name(newest)),
            });
        }
        Ok(current)
    }

    /// Everything but the files of `current`.
    pub(crate) fn leftovers(&self, current: Option<u64>) -> impl Iterator<Item = String> + '_ {
        let other = move |generation: &&u64| Some(**generation) != current;
        let bases = self.bases.iter().filter(other).map(|g| base_name(*g));
        let logs = self.logs.iter().filter(other).map(|g| log_name(*g));
        bases.chain(logs).chain(self.unfinished.iter().cloned())
    }
}

fn generation(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    let plain = digits.len() == 16 && digits.bytes().all(|b| b"0123456789abcdef".contains(&b));
    // The last number has no next one, so no writer uses it.
    u64::from_str_radix(digits, 16)
        .ok()
        .filter(|generation| plain && *generation < u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        assert_eq!(generation(&base_name(7), "base-"), Some(7));
        assert_eq!(
            generation(&log_name(u64::MAX - 1), "log-"),
            Some(u64::MAX - 1)
        );
        for other in [
            "base-7",
            "base-000000000000000G",
            "base-+000000000000001",
            "base-ffffffffffffffff",
        ] {
            assert_eq!(generation(other, "base-"), None, "{other}");
        }
    }
}
