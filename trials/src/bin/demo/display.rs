//! How events are shown: a bar on a terminal, plain lines elsewhere, or JSON.

use crate::event::Event;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

/// Shows events to a person or a program.
#[derive(Debug)]
pub(crate) struct Display {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Terminal(ProgressBar),
    /// The last tenth of the writes that a line was printed for.
    Plain(Mutex<u64>),
    Json,
}

impl Display {
    /// JSON if asked for, else what fits standard output and error.
    pub(crate) fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let kind = match (json, terminal) {
            (true, _) => Kind::Json,
            (false, true) => Kind::Terminal(bar()),
            (false, false) => Kind::Plain(Mutex::new(0)),
        };
        Self { kind }
    }

    /// Shows one event.
    pub(crate) fn show(&self, event: &Event) {
        match &self.kind {
            Kind::Json => print(&serde_json::to_string(event).unwrap_or_default()),
            Kind::Plain(tenth) => plain(event, tenth),
            Kind::Terminal(bar) => match event {
                Event::Step { text } => {
                    if !bar.message().is_empty() {
                        bar.println(format!("  done: {}", bar.message()));
                    }
                    bar.set_message(text.clone());
                }
                Event::Progress { done, total } => {
                    bar.set_length(*total);
                    bar.set_position(*done);
                }
                Event::Console { source, line } => bar.println(format!("{source} | {line}")),
                Event::Verdict(verdict) => {
                    bar.println(format!("  done: {}", bar.message()));
                    bar.finish_and_clear();
                    print(&verdict.to_string());
                }
            },
        }
    }

    /// Leaves the terminal as it was.
    pub(crate) fn close(&self) {
        if let Kind::Terminal(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    // The template is a constant; without it the bar only looks plainer.
    if let Ok(style) = ProgressStyle::with_template(
        "{spinner} [{elapsed_precise}] {wide_bar} {pos}/{len} writes acknowledged\n  {msg}",
    ) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn plain(event: &Event, tenth: &Mutex<u64>) {
    match event {
        Event::Step { text } => print(text),
        Event::Console { source, line } => print(&format!("{source} | {line}")),
        Event::Verdict(verdict) => print(&verdict.to_string()),
        Event::Progress { done, total } => {
            let now = done * 10 / (*total).max(1);
            if let Ok(mut tenth) = tenth.lock()
                && now != *tenth
            {
                *tenth = now;
                print(&format!("{done} of {total} writes acknowledged"));
            }
        }
    }
}

fn print(line: &str) {
    // Whoever reads may be gone, as `head` is; the exit status still tells.
    let _ = writeln!(std::io::stdout(), "{line}");
}
