//! Status of a directory, without taking it from who uses it.

use crate::replica::ReplicaError;
use afterimage_env::RealDisk;
use afterimage_protocol::status::{AreaReport, Report};
use std::path::Path;

/// Reads what the store in a directory holds; whoever has it open goes on.
/// Nothing is changed.
///
/// # Errors
/// [`ReplicaError`].
pub fn directory_status(dir: &Path) -> Result<Report, ReplicaError> {
    let store = afterimage_store::inspect(&RealDisk::read_only(dir)?)?;
    Ok(Report {
        role: "store".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        areas: vec![AreaReport {
            name: store.name.to_string(),
            len: store.len,
            term: store.reign.term.0,
            primary: store.reign.primary.map(|p| p.to_string()),
            epoch: store.epoch.0,
            acknowledged: store.epoch.0,
            state: "stored".into(),
            counters: vec![
                ("base_epoch".into(), store.base_epoch.0),
                ("base_bytes".into(), store.base_bytes),
                ("log_bytes".into(), store.log_bytes),
                ("tail_bytes".into(), store.tail_bytes),
            ],
            ..AreaReport::default()
        }],
        notes: Vec::new(),
    })
}
