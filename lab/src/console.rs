//! The last lines of a console, kept for the case that something goes wrong.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::error::Tail;

/// Lines kept; about two screens.
const KEPT: usize = 80;

/// Longest line kept, in bytes. A machine that prints garbage without a line
/// end must not fill the host's memory.
const LINE: u64 = 4096;

type OnLine = Arc<dyn Fn(&str) + Send + Sync>;

/// A console's last lines; clones show the same.
#[derive(Clone)]
pub(crate) struct Console {
    lines: Arc<Mutex<VecDeque<String>>>,
    on_line: Option<OnLine>,
}

impl Console {
    pub(crate) fn new(on_line: Option<OnLine>) -> Self {
        Self {
            lines: Arc::default(),
            on_line,
        }
    }

    /// Reads a stream to its end on a thread of its own.
    pub(crate) fn follow(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let console = self.clone();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while let Ok(1..) = (&mut stream).take(LINE).read_until(b'\n', &mut line) {
                console.add(String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
        })
    }

    fn add(&self, line: &str) {
        if let Some(on_line) = &self.on_line {
            on_line(line);
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    pub(crate) fn tail(&self) -> Tail {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        Tail {
            title: "console of the lab",
            lines: lines.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept_and_long_ones_are_cut() {
        let mut text = String::new();
        for number in 0..200 {
            text.push_str(&format!("line {number}\r\n"));
        }
        text.push_str(&"x".repeat(10_000));
        let console = Console::new(None);
        console.follow(std::io::Cursor::new(text)).join().unwrap();
        let lines = console.tail().lines;
        assert_eq!(lines.len(), KEPT);
        assert_eq!(lines[KEPT - 4], "line 199");
        assert!(lines.iter().all(|line| line.len() <= 4096));
    }
}
