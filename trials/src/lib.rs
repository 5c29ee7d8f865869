//! Real processes, real signals, and a judge that trusts only the client.
//!
//! A trial starts the programs as a user would, puts load on them, kills what
//! it wants to kill, lets somebody take over and asks the client's own
//! [`record`] whether anything that was acknowledged is missing.

pub mod deployment;
pub mod dice;
pub mod fault;
pub mod ledger;
pub mod load;
pub mod machines;
pub mod place;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod record;
pub mod resp;
pub mod stamp;
