//! Protocol and store, driven by threads over real sockets and directories.
//!
//! Two ends: [`Targets`], which a primary commits to, and [`Backup`], the
//! server that keeps what it is sent. Both are used by the process and by the
//! VMM alike; neither knows how changes were found.
#![forbid(unsafe_code)]

mod address;
mod backup;
mod config;
mod connection;
mod directory;
mod inspect;
mod query;
mod remote;
mod replica;
mod settings;
mod stream;
mod targets;

pub use address::{Address, BadAddress, TargetUrl};
pub use afterimage_area_abi::Level;
pub use backup::{Backup, BackupError, Limits};
pub use config::{Config, ConfigError};
pub use connection::ConnectionError;
pub use directory::DirectoryError;
pub use inspect::directory_status;
pub use query::{QueryError, promote, serve_status, status};
pub use remote::RemoteError;
pub use replica::ReplicaError;
pub use settings::{OnLoss, Settings, SettingsError};
pub use stream::{Listener, Stream};
pub use targets::{CommitError, OpenError, Targets};
