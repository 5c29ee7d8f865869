//! All connections, and which of them wait to be served.

use crate::connection::Connection;
use mio::Token;
use std::collections::VecDeque;

/// Connections in numbered places; a place is used again once it is free.
#[derive(Default)]
pub(crate) struct Clients {
    places: Vec<Option<Connection>>,
    free: Vec<usize>,
    queue: VecDeque<usize>,
}

impl Clients {
    /// Number of connections.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// The place that the next connection will get.
    pub(crate) fn next_place(&self) -> Token {
        Token(self.free.last().copied().unwrap_or(self.places.len()))
    }

    /// Puts a connection into [`Clients::next_place`] and queues it.
    pub(crate) fn add(&mut self, connection: Connection) {
        let place = self.next_place().0;
        match self.free.pop() {
            Some(_) => self.places[place] = Some(connection),
            None => self.places.push(Some(connection)),
        }
        self.queue(place);
    }

    /// The connection at a place; none if it is gone, as it may be while events
    /// for it are still under way.
    pub(crate) fn get(&mut self, place: usize) -> Option<&mut Connection> {
        self.places.get_mut(place)?.as_mut()
    }

    /// Takes a connection out; dropping it closes it.
    pub(crate) fn remove(&mut self, place: usize) -> Option<Connection> {
        let connection = self.places.get_mut(place)?.take()?;
        self.free.push(place);
        Some(connection)
    }

    /// Lets a connection be served in the next turn.
    pub(crate) fn queue(&mut self, place: usize) {
        if let Some(connection) = self.get(place)
            && !connection.queued
        {
            connection.queued = true;
            self.queue.push_back(place);
        }
    }

    /// Whether somebody waits to be served.
    pub(crate) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next one to be served in this turn.
    pub(crate) fn next_queued(&mut self) -> Option<usize> {
        let place = self.queue.pop_front()?;
        if let Some(connection) = self.get(place) {
            connection.queued = false;
        }
        Some(place)
    }
}
