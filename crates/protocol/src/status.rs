//! What a running program tells of itself, as JSON.

use serde::{Deserialize, Serialize};

/// Answer to a status query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `backup`, `vmm`, `process` or `store`.
    pub role: String,
    /// Version of the program.
    pub version: String,
    /// Its areas.
    pub areas: Vec<AreaReport>,
    /// Anything else worth a look, in plain words: fallbacks and why.
    pub notes: Vec<String>,
}

/// One area.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AreaReport {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// Term of the reign.
    pub term: u64,
    /// Hexadecimal id of the primary, or nothing if the term is unclaimed.
    pub primary: Option<String>,
    /// Last epoch in the image.
    pub epoch: u64,
    /// Last epoch known to be on disk here; for a primary, the last one that
    /// holds at the quorum.
    pub acknowledged: u64,
    /// Whether a primary is connected (at a target).
    pub connected: Option<bool>,
    /// Tracker in use (at a primary).
    pub tracker: Option<String>,
    /// `running`, or why commits are not taken.
    pub state: String,
    /// Targets (at a primary).
    pub targets: Vec<TargetReport>,
    /// Counters by name.
    pub counters: Vec<(String, u64)>,
}

/// One target of a primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// Its URL.
    pub url: String,
    /// Whether it can be reached.
    pub connected: bool,
    /// Last epoch it acknowledged.
    pub acknowledged: u64,
    /// What went wrong last, if anything did.
    pub problem: Option<String>,
}
