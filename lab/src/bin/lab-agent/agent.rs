//! The agent: runs jobs that the host asks for, any number at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use afterimage_lab::frame::{self, JobNumber, Report, Request, Spec, Status, Stream};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// A piece of output is at most this big, so one job cannot hold the port.
const PIECE: usize = 64 * 1024;

const ENVIRONMENT: [(&str, &str); 2] = [("PATH", "/bin:/usr/bin:/sbin"), ("HOME", "/")];

/// One running job.
struct Job {
    group: Pid,
    input: Option<Sender<Vec<u8>>>,
}

/// What the threads share.
struct Agent {
    port: Mutex<File>,
    jobs: Mutex<HashMap<JobNumber, Job>>,
}

pub(crate) fn run() -> Result<()> {
    let mut requests = crate::port::open()?;
    let port = requests.try_clone().context("cannot share the port")?;
    let agent = Arc::new(Agent {
        port: Mutex::new(port),
        jobs: Mutex::new(HashMap::new()),
    });
    agent.report(&Report::Ready);
    while let Some(request) = frame::receive_request(&mut requests).context("the host's port")? {
        match request {
            Request::Run(number, spec) => agent.start(number, &spec),
            Request::Signal(number, signal) => agent.signal(number, signal),
            Request::Input(number, bytes) => agent.input(number, bytes),
            Request::InputEnd(number) => {
                if let Some(job) = lock(&agent.jobs).get_mut(&number) {
                    job.input = None;
                }
            }
            Request::Ask(number) => agent.report(&Report::Alive(number)),
            Request::PowerOff => return Ok(()),
        }
    }
    Ok(())
}

impl Agent {
    fn report(&self, report: &Report) {
        // A host that is gone hears nothing; the read side will see it too.
        if let Err(error) = frame::send_report(&mut *lock(&self.port), report) {
            eprintln!("lab-agent: cannot report to the host: {error}");
        }
    }

    fn start(self: &Arc<Self>, number: JobNumber, spec: &Spec) {
        if let Err(error) = self.try_start(number, spec) {
            self.report(&Report::Refused(number, format!("{error:#}")));
        }
    }

    fn try_start(self: &Arc<Self>, number: JobNumber, spec: &Spec) -> Result<()> {
        let mut child = Command::new(&spec.program)
            .args(&spec.args)
            .env_clear()
            .envs(ENVIRONMENT)
            .envs(spec.env.iter().map(|(key, value)| (key, value)))
            .current_dir(&spec.cwd)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} in {}", spec.program, spec.cwd))?;
        let group = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("the kernel gave an impossible process number")?;
        let (input, pieces) = channel();
        if let Some(stdin) = child.stdin.take() {
            thread::spawn(move || feed(stdin, &pieces));
        }
        let outputs = (child.stdout.take(), child.stderr.take());
        if let Some(stdout) = outputs.0 {
            self.pump(number, Stream::Stdout, stdout);
        }
        if let Some(stderr) = outputs.1 {
            self.pump(number, Stream::Stderr, stderr);
        }
        let input = Some(input);
        lock(&self.jobs).insert(number, Job { group, input });
        let agent = Arc::clone(self);
        thread::spawn(move || agent.wait(number, group, child));
        Ok(())
    }

    fn pump(
        self: &Arc<Self>,
        number: JobNumber,
        stream: Stream,
        mut from: impl Read + Send + 'static,
    ) {
        let agent = Arc::clone(self);
        thread::spawn(move || {
            let mut piece = vec![0; PIECE];
            while let Ok(size @ 1..) = from.read(&mut piece) {
                agent.report(&Report::Output(number, stream, piece[..size].to_vec()));
            }
            agent.report(&Report::OutputEnd(number, stream));
        });
    }

    fn wait(&self, number: JobNumber, group: Pid, mut child: Child) {
        // Seen but not yet reaped, so that the group's number cannot have
        // been given to anyone else when the rest of the group is killed.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(group), options) {}
        let mut jobs = lock(&self.jobs);
        jobs.remove(&number);
        // Nobody left in the group is the usual case and no error.
        let _ = kill_process_group(group, Signal::KILL);
        let status = child.wait();
        drop(jobs);
        match status {
            Ok(status) => self.report(&Report::Ended(number, in_words(status))),
            Err(error) => self.report(&Report::Refused(number, format!("lost: {error}"))),
        }
    }

    fn signal(&self, number: JobNumber, signal: i32) {
        if let (Some(job), Some(signal)) = (
            lock(&self.jobs).get(&number),
            Signal::from_named_raw(signal),
        ) {
            // The job may be ending at this moment.
            let _ = kill_process_group(job.group, signal);
        }
    }

    fn input(&self, number: JobNumber, bytes: Vec<u8>) {
        if let Some(job) = lock(&self.jobs).get(&number)
            && let Some(input) = &job.input
        {
            // A job that closed its input gets no more of it.
            let _ = input.send(bytes);
        }
    }
}

fn feed(mut stdin: ChildStdin, pieces: &Receiver<Vec<u8>>) {
    while let Ok(piece) = pieces.recv() {
        if stdin.write_all(&piece).is_err() {
            return;
        }
    }
}

fn in_words(status: ExitStatus) -> Status {
    match status.signal() {
        Some(signal) => Status::Killed(signal),
        None => Status::Exited(status.code().unwrap_or(-1)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
