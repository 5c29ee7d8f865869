//! Short questions to a running program: status and promotion.

use crate::connection::{Connection, ConnectionError};
use crate::stream::{Listener, Stream};
use crate::{Address, Settings};
use afterimage_area_abi::AreaName;
use afterimage_delta::{Epoch, Term};
use afterimage_protocol::status::Report;
use afterimage_protocol::{Message, Refusal};
use std::time::Duration;

/// Longest answer in bytes: some hundred areas with their targets.
const MAX_ANSWER: usize = 1 << 20;

/// A question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The program cannot be reached, or the connection broke.
    #[error("cannot ask {address}")]
    Connection {
        /// The program.
        address: Address,
        /// What happened.
        source: ConnectionError,
    },
    /// It said no.
    #[error("{address} refused")]
    Refused {
        /// The program.
        address: Address,
        /// Why.
        source: Refusal,
    },
    /// It said something else.
    #[error("{0} answered with something else than what was asked for")]
    Unexpected(Address),
}

/// Asks a backup, a VMM or a process for its status.
///
/// # Errors
/// [`QueryError`].
pub fn status(address: &Address) -> Result<Report, QueryError> {
    status_of(address, Settings::default().timeout)
}

pub(crate) fn status_of(address: &Address, timeout: Duration) -> Result<Report, QueryError> {
    let unexpected = || QueryError::Unexpected(address.clone());
    match ask(address, &Message::StatusQuery, timeout)? {
        Message::Status { json } => serde_json::from_slice(&json).map_err(|_| unexpected()),
        _ => Err(unexpected()),
    }
}

/// Raises the term of an area at a backup, so that a new primary can take over
/// with what the backup holds; the old primary is fenced. Returns the new term
/// and the last epoch.
///
/// # Errors
/// [`QueryError`].
pub fn promote(address: &Address, name: &AreaName) -> Result<(Term, Epoch), QueryError> {
    let question = Message::Promote { name: name.clone() };
    match ask(address, &question, Settings::default().timeout)? {
        Message::Promoted { term, epoch } => Ok((term, epoch)),
        _ => Err(QueryError::Unexpected(address.clone())),
    }
}

fn ask(address: &Address, question: &Message, timeout: Duration) -> Result<Message, QueryError> {
    let broken = |source: ConnectionError| QueryError::Connection {
        address: address.clone(),
        source,
    };
    let stream = Stream::connect(address, timeout).map_err(|e| broken(e.into()))?;
    let mut connection =
        Connection::new(stream, timeout, Duration::ZERO).map_err(|e| broken(e.into()))?;
    connection.set_limit(MAX_ANSWER);
    connection.send(question).map_err(broken)?;
    match connection.receive().map_err(broken)? {
        Message::Refused(source) => Err(QueryError::Refused {
            address: address.clone(),
            source,
        }),
        answer => Ok(answer),
    }
}

/// Answers status queries at a socket for as long as the process lives; for a thread
/// of its own. One question a connection, one connection at a time, each
/// bounded by a time-out.
pub fn serve_status(listener: &Listener, report: impl Fn() -> Report) {
    loop {
        let stream = match listener.accept() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a status query was not accepted");
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        let answer = || -> Result<(), ConnectionError> {
            let mut connection = Connection::new(stream, Duration::from_secs(1), Duration::ZERO)?;
            if connection.receive()? == Message::StatusQuery {
                connection.send(&status_message(&report()))?;
            }
            Ok(())
        };
        if let Err(error) = answer() {
            tracing::debug!(%error, "status query failed");
        }
    }
}

pub(crate) fn status_message(report: &Report) -> Message {
    Message::Status {
        json: serde_json::to_vec(report)
            .expect("a report has string keys and plain numbers, which JSON can hold"),
    }
}
