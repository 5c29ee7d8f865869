//! What host and agent say to each other over the virtio-serial port.
//!
//! A frame is: length of the rest (u32, little endian), kind (u8), job number
//! (u32, little endian), payload. A longer payload than [`MAX_PAYLOAD`] is
//! refused by whoever reads it.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Name of the virtio-serial port inside the lab.
pub const PORT_NAME: &str = "afterimage.lab";

/// Limit of a frame's payload in bytes. Output comes in pieces of at most a
/// pipe's capacity; a job's arguments and environment fit with room to spare.
pub const MAX_PAYLOAD: usize = 256 * 1024;

const HEAD: usize = 5;

/// Number that ties reports to the job they are about.
pub type JobNumber = u32;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Path of the program inside the lab.
    pub program: String,
    /// Its arguments, without the program's own name.
    pub args: Vec<String>,
    /// Variables added to the lab's small default environment.
    pub env: Vec<(String, String)>,
    /// The folder it starts in.
    pub cwd: String,
}

/// From host to agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Start a job.
    Run(JobNumber, Spec),
    /// Send a signal to a job's whole process group.
    Signal(JobNumber, i32),
    /// Bytes for a job's standard input.
    Input(JobNumber, Vec<u8>),
    /// No more input for this job.
    InputEnd(JobNumber),
    /// Are you alive? Answered by [`Report::Alive`] with the same number.
    Ask(u32),
    /// Switch the machine off.
    PowerOff,
}

/// Which of a job's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a job's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

/// From agent to host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The machine is up and takes jobs.
    Ready,
    /// A piece of a job's output.
    Output(JobNumber, Stream, Vec<u8>),
    /// That output is closed.
    OutputEnd(JobNumber, Stream),
    /// The job's first process ended.
    Ended(JobNumber, Status),
    /// The job could not be started, and why.
    Refused(JobNumber, String),
    /// Answer to [`Request::Ask`].
    Alive(u32),
}

/// Writes one request.
///
/// # Errors
/// A payload over the limit, or the port failing.
pub fn send_request(out: &mut dyn Write, request: &Request) -> io::Result<()> {
    match request {
        Request::Run(job, spec) => send(out, 1, *job, &serde_json::to_vec(spec)?),
        Request::Signal(job, signal) => send(out, 2, *job, &signal.to_le_bytes()),
        Request::Input(job, bytes) => send(out, 3, *job, bytes),
        Request::InputEnd(job) => send(out, 4, *job, &[]),
        Request::Ask(number) => send(out, 5, *number, &[]),
        Request::PowerOff => send(out, 6, 0, &[]),
    }
}

/// Reads one request; `None` when the other side has closed the port.
///
/// # Errors
/// A frame that is not well formed, or the port failing.
pub fn receive_request(input: &mut dyn Read) -> io::Result<Option<Request>> {
    let Some((kind, job, payload)) = receive(input)? else {
        return Ok(None);
    };
    Ok(Some(match kind {
        1 => Request::Run(job, serde_json::from_slice(&payload)?),
        2 => Request::Signal(job, number(&payload)?),
        3 => Request::Input(job, payload),
        4 => Request::InputEnd(job),
        5 => Request::Ask(job),
        6 => Request::PowerOff,
        _ => return Err(malformed("unknown kind of request")),
    }))
}

/// Writes one report.
///
/// # Errors
/// A payload over the limit, or the port failing.
pub fn send_report(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    match report {
        Report::Ready => send(out, 1, 0, &[]),
        Report::Output(job, Stream::Stdout, bytes) => send(out, 2, *job, bytes),
        Report::Output(job, Stream::Stderr, bytes) => send(out, 3, *job, bytes),
        Report::OutputEnd(job, Stream::Stdout) => send(out, 4, *job, &[]),
        Report::OutputEnd(job, Stream::Stderr) => send(out, 5, *job, &[]),
        Report::Ended(job, Status::Exited(code)) => send(out, 6, *job, &code.to_le_bytes()),
        Report::Ended(job, Status::Killed(signal)) => send(out, 7, *job, &signal.to_le_bytes()),
        Report::Refused(job, reason) => send(out, 8, *job, reason.as_bytes()),
        Report::Alive(number) => send(out, 9, *number, &[]),
    }
}

/// Reads one report; `None` when the other side has closed the port.
///
/// # Errors
/// A frame that is not well formed, or the port failing.
pub fn receive_report(input: &mut dyn Read) -> io::Result<Option<Report>> {
    let Some((kind, job, payload)) = receive(input)? else {
        return Ok(None);
    };
    Ok(Some(match kind {
        1 => Report::Ready,
        2 => Report::Output(job, Stream::Stdout, payload),
        3 => Report::Output(job, Stream::Stderr, payload),
        4 => Report::OutputEnd(job, Stream::Stdout),
        5 => Report::OutputEnd(job, Stream::Stderr),
        6 => Report::Ended(job, Status::Exited(number(&payload)?)),
        7 => Report::Ended(job, Status::Killed(number(&payload)?)),
        8 => Report::Refused(job, String::from_utf8_lossy(&payload).into_owned()),
        9 => Report::Alive(job),
        _ => return Err(malformed("unknown kind of report")),
    }))
}

fn send(out: &mut dyn Write, kind: u8, job: u32, payload: &[u8]) -> io::Result<()> {
    if payload.len() > MAX_PAYLOAD {
        return Err(malformed("payload over the limit"));
    }
    let length = u32::try_from(HEAD + payload.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(4 + HEAD + payload.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.push(kind);
    frame.extend_from_slice(&job.to_le_bytes());
    frame.extend_from_slice(payload);
    out.write_all(&frame)
}

fn receive(input: &mut dyn Read) -> io::Result<Option<(u8, u32, Vec<u8>)>> {
    let mut length = [0; 4];
    // The other side may close between two frames, but not inside of one.
    if input.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut length[1..])?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
    if !(HEAD..=HEAD + MAX_PAYLOAD).contains(&length) {
        return Err(malformed("length of a frame out of bounds"));
    }
    let mut head = [0; HEAD];
    input.read_exact(&mut head)?;
    let [kind, job @ ..] = head;
    let mut payload = vec![0; length - HEAD];
    input.read_exact(&mut payload)?;
    Ok(Some((kind, u32::from_le_bytes(job), payload)))
}

fn number(payload: &[u8]) -> io::Result<i32> {
    let bytes = payload
        .try_into()
        .map_err(|_| malformed("a number of four bytes was expected"))?;
    Ok(i32::from_le_bytes(bytes))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_and_reports_survive_the_wire() {
        let spec = Spec {
            program: "/bin/x".into(),
            args: vec!["a b".into(), String::new()],
            env: vec![("K".into(), "ü".into())],
            cwd: "/".into(),
        };
        let requests = [
            Request::Run(7, spec),
            Request::Signal(7, 9),
            Request::Input(7, vec![0, 255]),
            Request::InputEnd(7),
            Request::Ask(3),
            Request::PowerOff,
        ];
        let reports = [
            Report::Ready,
            Report::Output(1, Stream::Stdout, vec![1, 2]),
            Report::Output(1, Stream::Stderr, vec![]),
            Report::OutputEnd(1, Stream::Stdout),
            Report::OutputEnd(1, Stream::Stderr),
            Report::Ended(1, Status::Exited(-1)),
            Report::Ended(1, Status::Killed(9)),
            Report::Refused(1, "no such file".into()),
            Report::Alive(3),
        ];
        let mut wire = Vec::new();
        for request in &requests {
            send_request(&mut wire, request).unwrap();
        }
        let mut input = &wire[..];
        for request in requests {
            assert_eq!(receive_request(&mut input).unwrap(), Some(request));
        }
        assert_eq!(receive_request(&mut input).unwrap(), None);
        let mut wire = Vec::new();
        for report in &reports {
            send_report(&mut wire, report).unwrap();
        }
        let mut input = &wire[..];
        for report in reports {
            assert_eq!(receive_report(&mut input).unwrap(), Some(report));
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_neither_sent_nor_read() {
        let huge = Request::Input(1, vec![0; MAX_PAYLOAD + 1]);
        assert!(send_request(&mut Vec::new(), &huge).is_err());
        let mut wire = u32::MAX.to_le_bytes().to_vec();
        wire.extend([1; 64]);
        assert!(receive_request(&mut &wire[..]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = receive_request(&mut &bytes[..]);
            let _ = receive_report(&mut &bytes[..]);
        }

        #[test]
        fn a_cut_frame_is_an_error_and_never_a_request(cut in 1usize..12) {
            let mut wire = Vec::new();
            send_request(&mut wire, &Request::Signal(1, 9)).unwrap();
            prop_assert!(receive_request(&mut &wire[..cut]).is_err());
        }
    }
}
