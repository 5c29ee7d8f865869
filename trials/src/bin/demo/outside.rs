//! The part with virtual machines, seen from outside: the same program runs
//! where there is real KVM, and what happens there is shown here.

use crate::event::{Emit, Event};
use afterimage_lab::{Cache, Done, GuestImage, Job, Kernel, Lab, Line, Status, Stream, layout};
use afterimage_trials::process::{Echo, Interrupted, Program, interrupted};
use afterimage_trials::programs::binary;
use anyhow::{Context as _, bail};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// How soon Ctrl-C is noticed.
const TICK: Duration = Duration::from_millis(50);

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
    fn arguments(self) -> Vec<String> {
        let mut arguments = vec![
            "--json".to_owned(),
            format!("--writes={}", self.writes),
            format!("--clients={}", self.clients),
        ];
        if self.verbose {
            arguments.push("--verbose".to_owned());
        }
        arguments
    }
}

/// Runs it on this machine's KVM if that is fast enough, else in the lab;
/// whether nothing was lost.
///
/// # Errors
/// If it could not be tried.
pub(crate) fn run(wish: Wish, emit: &Emit) -> anyhow::Result<bool> {
    step(
        emit,
        "fetching Debian's kernel and tools, unless they are here",
    );
    let told = Arc::clone(emit);
    let cache = Cache::prepare(&Cache::default_dir(), &mut move |progress| {
        let text = match progress.total {
            0 => progress.step.to_owned(),
            total => format!("{} ({} of {total})", progress.step, progress.done),
        };
        step(&told, &text);
    })?;
    let server = binary("afterimage-kv")?;
    let image = GuestImage::new(
        &cache,
        Kernel::default(),
        &[("/bin/afterimage-kv", server.as_path())],
    )?;
    match afterimage_lab::usable_kvm() {
        Ok(_) => on_this_machine(&image, wish, emit),
        Err(why) => {
            step(emit, &format!("{why:#}"));
            in_the_lab(cache, image, wish, emit)
        }
    }
}

/// In a network of its own, where no privilege is needed to connect a guest.
fn on_this_machine(image: &GuestImage, wish: Wish, emit: &Emit) -> anyhow::Result<bool> {
    let folder = tempfile::Builder::new().prefix("afterimage-").tempdir()?;
    let initrd = folder.path().join("initrd");
    std::fs::write(&initrd, image.initrd())?;
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--net"])
        .arg(std::env::current_exe()?)
        .arg("--inside")
        .args([image.kernel(), &initrd])
        .args(wish.arguments());
    let (sender, lines) = channel();
    let told = Arc::clone(emit);
    let echo = Echo::new(move |_, line| {
        if let Some(lost_nothing) = pass_on(line, &told) {
            // Nobody waits any more after Ctrl-C.
            let _ = sender.send(lost_nothing);
        }
    });
    let mut program = Program::start(command, "inside", folder.path(), &echo)?;
    let status = program.wait_for_end(PATIENCE)?;
    match lines.try_recv() {
        Ok(lost_nothing) => Ok(lost_nothing),
        Err(_) => bail!("it ended with {status} and no verdict{}", program.tail()),
    }
}

/// Inside a machine that has real KVM.
fn in_the_lab(cache: Cache, image: GuestImage, wish: Wish, emit: &Emit) -> anyhow::Result<bool> {
    step(
        emit,
        "booting the lab: an emulated machine that has real KVM",
    );
    let files = [
        ("/bin/demo", std::env::current_exe()?),
        ("/bin/afterimage", binary("afterimage")?),
    ];
    let (sender, receiver) = channel();
    // The lab dies with this process and with the thread that booted it: both
    // stay until the end, whether that comes by itself or by Ctrl-C.
    let told = Arc::clone(emit);
    thread::spawn(move || {
        let result =
            afterimage_lab::try_twice(|| lab(&cache, image.clone(), &files, wish, &told, &sender));
        // Nobody waits any more after Ctrl-C.
        let _ = sender.send(Inside::End(result));
    });
    let mut lost_nothing = None;
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(Inside::Verdict(verdict)) => lost_nothing = Some(verdict),
            Ok(Inside::End(result)) => {
                let done = result?;
                return match lost_nothing {
                    Some(lost_nothing) => Ok(lost_nothing),
                    None => {
                        done.expect_success()?;
                        bail!("it ended without a verdict")
                    }
                };
            }
            Err(RecvTimeoutError::Timeout) if interrupted() => return Err(Interrupted.into()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the lab's thread panicked"),
        }
    }
}

/// What the lab's thread says.
enum Inside {
    /// Whether nothing was lost.
    Verdict(bool),
    /// It is over.
    End(anyhow::Result<Done>),
}

fn lab(
    cache: &Cache,
    image: GuestImage,
    files: &[(&str, PathBuf)],
    wish: Wish,
    emit: &Emit,
    sender: &Sender<Inside>,
) -> anyhow::Result<Done> {
    let console = Arc::clone(emit);
    let mut builder = Lab::builder(cache).guest(image).on_console(move |line| {
        console(Event::Console {
            source: "lab".to_owned(),
            line: line.to_owned(),
        });
    });
    for (inside, from) in files {
        builder = builder.file(*inside, from);
    }
    let lab = builder.boot().context("cannot boot the lab")?;
    let job = Job::new("/bin/demo")
        .args(["--inside", layout::GUEST_KERNEL, layout::GUEST_INITRD])
        .args(wish.arguments())
        .timeout(PATIENCE);
    let done = lab.run(&job, |line: Line<'_>| {
        if line.stream == Stream::Stdout
            && let Some(lost_nothing) = pass_on(line.text, emit)
        {
            // Nobody waits any more after Ctrl-C.
            let _ = sender.send(Inside::Verdict(lost_nothing));
        }
    })?;
    if !matches!(done.status, Status::Exited(0 | 1)) {
        return Ok(done.expect_success()?);
    }
    Ok(done)
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

fn step(emit: &Emit, text: &str) {
    emit(Event::Step {
        text: text.to_owned(),
    });
}
