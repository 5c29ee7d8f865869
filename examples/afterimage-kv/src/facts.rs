//! What the server knows about itself, for `INFO` and `CONFIG GET`.

use std::time::Instant;

/// Settings and counters. Counters only grow.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) started: Instant,
    pub(crate) debug_allowed: bool,
    pub(crate) max_clients: usize,
    /// Name of the area.
    pub(crate) area: String,
    /// Bytes of the area.
    pub(crate) area_len: u64,
    /// How the area is run: `process` or `guest`.
    pub(crate) engine: String,
    /// What tells which pages changed.
    pub(crate) tracker: String,
    /// Number of this primary's reign.
    pub(crate) term: u64,
    /// Number of the last commit.
    pub(crate) epoch: u64,
    /// What the last commit came to.
    pub(crate) outcome: String,
    /// Connections now.
    pub(crate) clients: usize,
    /// Connections ever.
    pub(crate) connections: u64,
    /// Connections refused because there were too many.
    pub(crate) refused: u64,
    /// Commands ever.
    pub(crate) commands: u64,
    /// Turns in which a command wanted to write; each one is a transaction.
    pub(crate) commits: u64,
    /// Commits held by fewer targets than the quorum.
    pub(crate) degraded: u64,
}

impl Facts {
    /// The sections of `INFO`, for a store of `keys` keys.
    pub(crate) fn sections(&self, keys: usize) -> [(&'static str, Vec<(&'static str, String)>); 5] {
        [
            (
                "server",
                vec![
                    // Clients choose by this number what to ask for.
                    ("redis_version", "7.0.0".to_owned()),
                    ("redis_mode", "standalone".to_owned()),
                    ("server_name", "afterimage-kv".to_owned()),
                    ("server_version", env!("CARGO_PKG_VERSION").to_owned()),
                    ("process_id", std::process::id().to_string()),
                    (
                        "uptime_in_seconds",
                        self.started.elapsed().as_secs().to_string(),
                    ),
                ],
            ),
            (
                "clients",
                vec![
                    ("connected_clients", self.clients.to_string()),
                    ("maxclients", self.max_clients.to_string()),
                ],
            ),
            (
                "stats",
                vec![
                    ("total_connections_received", self.connections.to_string()),
                    ("rejected_connections", self.refused.to_string()),
                    ("total_commands_processed", self.commands.to_string()),
                ],
            ),
            (
                "afterimage",
                vec![
                    ("area", self.area.clone()),
                    ("area_bytes", self.area_len.to_string()),
                    ("engine", self.engine.clone()),
                    ("tracker", self.tracker.clone()),
                    ("term", self.term.to_string()),
                    ("epoch", self.epoch.to_string()),
                    ("commits", self.commits.to_string()),
                    ("commits_degraded", self.degraded.to_string()),
                    ("last_commit", self.outcome.clone()),
                ],
            ),
            (
                "keyspace",
                if keys == 0 {
                    Vec::new()
                } else {
                    vec![("db0", format!("keys={keys},expires=0,avg_ttl=0"))]
                },
            ),
        ]
    }
}
