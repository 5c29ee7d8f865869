//! What the server can do: one table, from a command's name to its function.
//!
//! The kind of function says what it may touch: only a [`Action::Write`] gets
//! the data to change, and only for it a transaction is begun.

mod connection;
mod info;
mod keys;
mod strings;

use crate::facts::Facts;
use crate::limits::MAX_REPLY;
use crate::reply::Reply;
use crate::request::Request;
use crate::store::{Heap, Store, StoreError};
use std::marker::PhantomData;

/// What a connection is beyond its bytes.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Number of the connection since the server started.
    pub(crate) id: u64,
    /// What the client calls itself.
    pub(crate) name: Vec<u8>,
    /// Set by `QUIT`: close once the replies are sent.
    pub(crate) closing: bool,
}

/// Something a command asks of the server as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Stop in order, once this turn is over.
    Stop,
    /// Die at once, as a crash would have it.
    Crash,
}

/// A command under way.
pub(crate) struct Call<'a> {
    pub(crate) request: Request<'a>,
    pub(crate) reply: &'a mut Reply,
    pub(crate) session: &'a mut Session,
    pub(crate) facts: &'a Facts,
    pub(crate) demand: &'a mut Option<Demand>,
}

impl<'a> Call<'a> {
    /// Argument `i` of the request; 0 is the command's name.
    fn arg(&self, i: usize) -> &'a [u8] {
        self.request.arg(i)
    }
}

/// Why a command did nothing; what the client reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("ERR unknown command '{0}'")]
    Unknown(String),
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(String),
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    #[error("ERR the reply would be longer than {MAX_REPLY} bytes: ask for less, or use SCAN")]
    LongReply,
    #[error("{0}")]
    Refused(&'static str),
}

type Outcome = Result<(), CommandError>;

/// What a command is about, and so what it gets.
enum Action<A: Heap> {
    /// The connection or the server.
    Server(fn(&mut Call<'_>) -> Outcome),
    /// The data, as they are.
    Read(fn(&mut Call<'_>, &Store<A>) -> Outcome),
    /// The data, to change them.
    Write(fn(&mut Call<'_>, &mut Store<A>) -> Outcome),
}

struct Command<A: Heap> {
    /// In capitals; the table is sorted by it.
    name: &'static str,
    /// Least and greatest number of arguments, the name included.
    arity: (usize, usize),
    action: Action<A>,
}

/// The data that commands work on.
pub(crate) trait Data: Sized {
    /// The allocator below.
    type Heap: Heap;
    /// Why data cannot be changed at all; the server stops.
    type Error;

    /// As they are now, changes of this turn included.
    fn read(&self) -> &Store<Self::Heap>;

    /// Changes them; it becomes safe with the whole turn.
    ///
    /// # Errors
    /// If no transaction could be begun. The data are gone with it.
    fn write(self, change: impl FnOnce(&mut Store<Self::Heap>)) -> Result<Self, Self::Error>;
}

/// Carries out one request and writes its reply.
///
/// # Errors
/// If the data could not be opened for changes.
pub(crate) fn execute<D: Data>(mut call: Call<'_>, mut data: D) -> Result<D, D::Error> {
    let mark = call.reply.len();
    let mut outcome = Ok(());
    match lookup::<D::Heap>(&call.request) {
        Ok(Action::Server(run)) => outcome = run(&mut call),
        Ok(Action::Read(run)) => outcome = run(&mut call, data.read()),
        Ok(Action::Write(run)) => {
            data = data.write(|store| outcome = run(&mut call, store))?;
        }
        Err(error) => outcome = Err(error),
    }
    if let Err(error) = outcome {
        call.reply.back_to(mark);
        call.reply.error(error);
    }
    Ok(data)
}

fn lookup<A: Heap>(request: &Request<'_>) -> Result<&'static Action<A>, CommandError> {
    let name = request.arg(0);
    let mut capitals = [0; 16];
    let command = capitals
        .get_mut(..name.len())
        .and_then(|capitals| {
            capitals.copy_from_slice(name);
            capitals.make_ascii_uppercase();
            let found = Table::<A>::COMMANDS
                .binary_search_by(|command| command.name.as_bytes().cmp(capitals))
                .ok()?;
            Table::<A>::COMMANDS.get(found)
        })
        .ok_or_else(|| CommandError::Unknown(quoted(name)))?;
    let (least, most) = command.arity;
    if !(least..=most).contains(&request.len()) {
        return Err(CommandError::Arity(command.name.to_ascii_lowercase()));
    }
    Ok(&command.action)
}

/// What a client sent, short enough to send back.
fn quoted(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..64).unwrap_or(bytes)).into_owned()
}

fn within_limit(reply: &Reply, mark: usize) -> Outcome {
    if reply.len() - mark > MAX_REPLY {
        return Err(CommandError::LongReply);
    }
    Ok(())
}

struct Table<A>(PhantomData<A>);

const ANY: usize = usize::MAX;

const fn command<A: Heap>(
    name: &'static str,
    arity: (usize, usize),
    action: Action<A>,
) -> Command<A> {
    Command {
        name,
        arity,
        action,
    }
}

impl<A: Heap> Table<A> {
    const COMMANDS: &'static [Command<A>] = &[
        command("APPEND", (3, 3), Action::Write(strings::append)),
        command("CLIENT", (2, ANY), Action::Server(connection::client)),
        command("COMMAND", (1, ANY), Action::Server(info::command)),
        command("CONFIG", (2, ANY), Action::Server(info::config)),
        command("DBSIZE", (1, 1), Action::Read(keys::dbsize)),
        command("DEBUG", (2, ANY), Action::Server(connection::debug)),
        command("DECR", (2, 2), Action::Write(strings::decr)),
        command("DECRBY", (3, 3), Action::Write(strings::decrby)),
        command("DEL", (2, ANY), Action::Write(keys::del)),
        command("ECHO", (2, 2), Action::Server(connection::echo)),
        command("EXISTS", (2, ANY), Action::Read(keys::exists)),
        command("FLUSHALL", (1, 2), Action::Write(keys::flush)),
        command("FLUSHDB", (1, 2), Action::Write(keys::flush)),
        command("GET", (2, 2), Action::Read(strings::get)),
        command("GETDEL", (2, 2), Action::Write(strings::getdel)),
        command("GETSET", (3, 3), Action::Write(strings::getset)),
        command("HELLO", (1, ANY), Action::Server(connection::hello)),
        command("INCR", (2, 2), Action::Write(strings::incr)),
        command("INCRBY", (3, 3), Action::Write(strings::incrby)),
        command("INFO", (1, ANY), Action::Read(info::info)),
        command("KEYS", (2, 2), Action::Read(keys::keys)),
        command("MGET", (2, ANY), Action::Read(strings::mget)),
        command("MSET", (3, ANY), Action::Write(strings::mset)),
        command("MSETNX", (3, ANY), Action::Write(strings::msetnx)),
        command("PING", (1, 2), Action::Server(connection::ping)),
        command("QUIT", (1, ANY), Action::Server(connection::quit)),
        command("SCAN", (2, ANY), Action::Read(keys::scan)),
        command("SELECT", (2, 2), Action::Server(connection::select)),
        command("SET", (3, ANY), Action::Write(strings::set)),
        command("SETNX", (3, 3), Action::Write(strings::setnx)),
        command("SHUTDOWN", (1, ANY), Action::Server(connection::shutdown)),
        command("STRLEN", (2, 2), Action::Read(strings::strlen)),
        command("TIME", (1, 1), Action::Server(connection::time)),
        command("TTL", (2, 2), Action::Read(keys::ttl)),
        command("TYPE", (2, 2), Action::Read(keys::kind)),
        command("UNLINK", (2, ANY), Action::Write(keys::del)),
    ];
}

#[cfg(test)]
mod tests;
