//! The QEMU process: started, watched, and never left behind.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use rustix::process::{
    Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal,
};

use crate::console::Console;
use crate::error::{Error, Result};

/// A running QEMU. Dropping it kills it and waits until it is gone.
pub(crate) struct Qemu {
    process: OwnedFd,
    keeper: Option<JoinHandle<()>>,
}

impl Qemu {
    /// Starts QEMU with its standard output as the machine's console and
    /// `agent` as its standard input (the one descriptor that a child gets
    /// without any other child getting it too), and calls `ended` once, when
    /// it is gone.
    pub(crate) fn start(
        mut command: Command,
        agent: OwnedFd,
        console: &Console,
        ended: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> Result<Self> {
        command
            .stdin(Stdio::from(agent))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        die_with_parent(&mut command);
        let console = console.clone();
        let (started, result) = channel();
        // The kernel sends the parent-death signal when the *thread* that
        // started the child ends, so that thread lives as long as QEMU does.
        let keeper = thread::Builder::new()
            .name("lab-qemu".into())
            .spawn(move || keep(command, &console, &started, ended))
            .map_err(Error::io("cannot start a thread"))?;
        let process = result
            .recv()
            .unwrap_or_else(|_| Err(Error::io("QEMU")(std::io::ErrorKind::BrokenPipe.into())))?;
        Ok(Self {
            process,
            keeper: Some(keeper),
        })
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended by itself already.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn keep(
    mut command: Command,
    console: &Console,
    started: &Sender<Result<OwnedFd>>,
    ended: impl FnOnce(ExitStatus),
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(Error::io("cannot start QEMU")(error)));
            return;
        }
    };
    // The command holds the machine's end of the agent's socket; with it
    // gone, QEMU's death closes the socket.
    drop(command);
    let readers = [
        child.stdout.take().map(|stream| console.follow(stream)),
        child.stderr.take().map(|stream| console.follow(stream)),
    ];
    // Not reaped before `wait` below, so the number is still this process.
    let process = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|error| Error::io("cannot watch QEMU")(error.into()));
    if process.is_err() {
        let _ = child.kill();
    }
    let _ = started.send(process);
    let status = child.wait();
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    if let Ok(status) = status {
        ended(status);
    }
}

/// Makes the kernel kill the child when its parent dies, however it dies.
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let in_child = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before that line.
        if getppid() == Some(parent) {
            Ok(())
        } else {
            Err(rustix::io::Errno::SRCH.into())
        }
    };
    // SAFETY: between fork and exec only async-signal-safe work is allowed.
    // The closure makes two system calls through rustix's raw entry points
    // and converts integers; it neither allocates nor locks.
    unsafe {
        command.pre_exec(in_child);
    }
}
