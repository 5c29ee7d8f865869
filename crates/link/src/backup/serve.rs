//! One connection of a backup, from its first message to its end.

use super::Backup;
use super::areas::{nothing, refuse};
use crate::connection::{Connection, ConnectionError};
use crate::query::status_message;
use crate::replica::report;
use crate::stream::Stream;
use afterimage_area_abi::AreaName;
use afterimage_protocol::target::{Greeting, Replica as _, Session};
use afterimage_protocol::{Hello, Message, Refusal, RefusalCode, promote, send_image};
use std::sync::atomic::Ordering;

/// How a connection ended, other than by being closed between messages.
enum End {
    /// The peer is told why.
    Refused(Refusal),
    /// There is nobody to tell.
    Broken(ConnectionError),
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        match error {
            // A peer that speaks something else is told so.
            ConnectionError::Frame(_) | ConnectionError::Message(_) => Self::Refused(refuse(
                &nothing(0),
                RefusalCode::Malformed,
                error.to_string(),
            )),
            other => Self::Broken(other),
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

pub(super) fn connection(backup: &Backup, stream: Stream) {
    let mut connection = match Connection::new(stream, backup.limits.timeout, backup.limits.spin) {
        Ok(connection) => connection,
        Err(error) => {
            tracing::warn!(%error, "a connection could not be set up");
            return;
        }
    };
    match converse(backup, &mut connection) {
        Ok(()) | Err(End::Broken(ConnectionError::Closed { inside: false })) => {}
        Err(End::Broken(error)) => {
            tracing::warn!(error = report(&error), "connection ended");
        }
        Err(End::Refused(refusal)) => {
            tracing::warn!(code = %refusal.code, reason = refusal.text, "peer refused");
            // If it is gone already, the log has the reason.
            let _ = connection.send(&Message::Refused(refusal));
            connection.stream().shutdown();
        }
    }
}

fn converse(backup: &Backup, connection: &mut Connection) -> Result<(), End> {
    match connection.receive()? {
        Message::Hello(hello) => primary(backup, connection, &hello),
        Message::Promote { name } => {
            let answer = promote_area(backup, &name)?;
            Ok(connection.send(&answer)?)
        }
        Message::StatusQuery => Ok(connection.send(&status_message(&backup.report()))?),
        _ => Err(refuse(
            &nothing(0),
            RefusalCode::Malformed,
            "the first message must be a hello, a promotion or a status query",
        )
        .into()),
    }
}

fn promote_area(backup: &Backup, name: &AreaName) -> Result<Message, Refusal> {
    let area = backup.areas.find(name)?;
    let mut replica = area.lock()?;
    let held = replica.held();
    if let Some(primary_has) = area.lacks(&held) {
        return Err(refuse(
            &held,
            RefusalCode::Fuller,
            format!(
                "this backup holds area {name} up to epoch {} only, its primary was at {primary_has}: promote another target, or restart this backup first if this copy is all there is",
                held.position.epoch
            ),
        ));
    }
    let reign = promote(held.reign);
    replica
        .persist()
        .and_then(|()| replica.set_reign(reign))
        .map_err(|text| refuse(&held, RefusalCode::Failed, text))?;
    tracing::info!(area = %name, term = %reign.term, epoch = %held.position.epoch, "promoted");
    Ok(Message::Promoted {
        term: reign.term,
        epoch: held.position.epoch,
    })
}

fn primary(backup: &Backup, connection: &mut Connection, hello: &Hello) -> Result<(), End> {
    let area = backup.areas.find_or_create(&hello.name, hello.len)?;
    let mut replica = area.lock()?;
    let Greeting {
        mut session,
        welcome,
        image,
    } = Session::greet(hello, &mut *replica)?;
    let stream = connection
        .stream()
        .try_clone()
        .map_err(ConnectionError::from)?;
    let connected = area.connect(&replica, stream);
    area.note_primary(hello.position.epoch);
    drop(replica);
    tracing::info!(area = %hello.name, term = %welcome.term, epoch = %welcome.position.epoch, "primary connected");
    connection.send(&Message::Welcome(welcome))?;
    if let Some(image) = image {
        send_image(&image, welcome.term, |m| connection.send(m))?;
    }
    connection.set_limit(Session::message_limit(hello.len));
    let patient = || !backup.stopping.load(Ordering::Acquire);
    while let Some(message) = connection.receive_patiently(patient)? {
        let answer = {
            let mut replica = area.lock()?;
            if !connected.is_current() {
                return Ok(());
            }
            session.on_message(message, &mut *replica)?
        };
        if let Some(answer) = answer {
            connection.send(&answer)?;
        }
    }
    Ok(())
}
