//! The part with virtual machines, seen from outside: the same program runs
//! where there is real KVM, and what happens there is shown here.

use crate::event::{Emit, Event};
use afterimage_trials::place::{Place, TakeLine, Wants};
use afterimage_trials::process::{Interrupted, interrupted};
use anyhow::bail;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How soon Ctrl-C is noticed.
const TICK: Duration = Duration::from_millis(50);

/// Longest time for taking everything down after Ctrl-C.
const END: Duration = Duration::from_secs(10);

/// Longest time for all that happens inside.
const PATIENCE: Duration = Duration::from_secs(900);

/// What the part inside is asked to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// As `--writes`.
    pub(crate) writes: u32,
    /// As `--clients`.
    pub(crate) clients: u32,
    /// As `--verbose`.
    pub(crate) verbose: bool,
}

impl Wish {
    fn arguments(self, guest: [String; 2]) -> Vec<String> {
        let mut arguments = vec!["--inside".to_owned()];
        arguments.extend(guest);
        arguments.extend([
            "--json".to_owned(),
            format!("--writes={}", self.writes),
            format!("--clients={}", self.clients),
        ]);
        if self.verbose {
            arguments.push("--verbose".to_owned());
        }
        arguments
    }
}

/// Runs it where virtual machines can run; whether nothing was lost.
///
/// # Errors
/// If it could not be tried.
pub(crate) fn run(wish: Wish, emit: &Emit) -> anyhow::Result<bool> {
    let (sender, receiver) = channel();
    let told = Arc::clone(emit);
    // The lab dies with the thread that booted it, which stays until the end,
    // whether that comes by itself or by Ctrl-C.
    thread::spawn(move || {
        let result = afterimage_lab::try_twice(|| inside(wish, &told));
        end(&sender, result);
    });
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(_) if interrupted() => return Err(Interrupted.into()),
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) if interrupted() => {
                // What runs notices it too and is taken down in order; whatever
                // takes longer dies with this process.
                let _ = receiver.recv_timeout(END);
                return Err(Interrupted.into());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the lab's thread panicked"),
        }
    }
}

fn end(sender: &Sender<anyhow::Result<bool>>, result: anyhow::Result<bool>) {
    // Nobody waits any more after Ctrl-C.
    let _ = sender.send(result);
}

fn inside(wish: Wish, emit: &Emit) -> anyhow::Result<bool> {
    let (console, told) = (Arc::clone(emit), Arc::clone(emit));
    let place = Place::prepare(Wants {
        console: Arc::new(move |line| {
            console(Event::Console {
                source: "lab".to_owned(),
                line: line.to_owned(),
            });
        }),
        step: Arc::new(move |text| {
            told(Event::Step {
                text: text.to_owned(),
            });
        }),
        ..Wants::nothing()
    })?;
    let verdict = Arc::new(Mutex::new(None));
    let (seen, told) = (Arc::clone(&verdict), Arc::clone(emit));
    let on_line: TakeLine = Arc::new(move |line| {
        if let Some(lost_nothing) = pass_on(line, &told)
            && let Ok(mut seen) = seen.lock()
        {
            *seen = Some(lost_nothing);
        }
    });
    let end = place.run("demo", &wish.arguments(place.guest()), PATIENCE, &on_line)?;
    let verdict = verdict.lock().ok().and_then(|seen| *seen);
    match verdict {
        Some(lost_nothing) => Ok(lost_nothing),
        None => {
            end.expect_success()?;
            bail!("it ended without a verdict")
        }
    }
}

/// Shows an event from inside; for the verdict, whether nothing was lost.
fn pass_on(line: &str, emit: &Emit) -> Option<bool> {
    match serde_json::from_str::<Event>(line) {
        Ok(event) => {
            let verdict = match &event {
                Event::Verdict(verdict) => Some(verdict.lost == 0),
                _ => None,
            };
            emit(event);
            verdict
        }
        Err(_) => {
            emit(Event::Console {
                source: "inside".to_owned(),
                line: line.to_owned(),
            });
            None
        }
    }
}
