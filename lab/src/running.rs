//! A job while it runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Evidence, Result};
use crate::frame::{JobNumber, MAX_PAYLOAD, Request, Stream};
use crate::job::{Done, Job, Line, output_tail};
use crate::link::{Captured, JobState, Link, State};

/// How long a killed job may take to be gone.
const KILLED: Duration = Duration::from_secs(30);

const SIGKILL: i32 = 9;

/// A job that runs. Dropping it kills the job.
pub struct Running {
    link: Arc<Link>,
    number: JobNumber,
    program: String,
    timeout: Duration,
    stdout: Cursor,
    stderr: Cursor,
    over: bool,
}

/// How much of one output has been handed out.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    /// Bytes handed out as lines.
    seen: usize,
    /// Bytes known to hold no further end of a line.
    searched: usize,
}

/// A line of one output, and the offset after it.
struct Fresh {
    stream: Stream,
    text: String,
    end: usize,
}

impl Fresh {
    fn line(&self) -> Line<'_> {
        Line {
            stream: self.stream,
            text: &self.text,
        }
    }
}

impl Running {
    pub(crate) fn start(link: &Arc<Link>, job: &Job) -> Result<Self> {
        let number = link.open_job();
        let running = Self {
            link: Arc::clone(link),
            number,
            program: job.spec.program.clone(),
            timeout: job.timeout,
            stdout: Cursor::default(),
            stderr: Cursor::default(),
            over: false,
        };
        link.send(&Request::Run(number, job.spec.clone()))?;
        for piece in job.input.chunks(MAX_PAYLOAD) {
            link.send(&Request::Input(number, piece.to_vec()))?;
        }
        link.send(&Request::InputEnd(number))?;
        Ok(running)
    }

    /// Sends a signal to the job and all its descendants that have not left
    /// its process group.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.link.send(&Request::Signal(self.number, signal))
    }

    /// Kills the job (SIGKILL) and all its descendants.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn kill(&self) -> Result<()> {
        self.signal(SIGKILL)
    }

    /// Waits for a line, from the last one seen on, that `wanted` accepts,
    /// and returns it.
    ///
    /// # Errors
    /// The job ended without such a line, or `timeout` passed, or the lab is
    /// gone.
    pub fn wait_for_line(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(Line<'_>) -> bool,
    ) -> Result<String> {
        let until = Instant::now() + timeout;
        loop {
            let (lines, over) = self.more(Some(until), timeout, "a line it should have printed")?;
            for fresh in lines {
                // What comes after stays unseen, for the next one who waits.
                self.cursor(fresh.stream).see(fresh.end);
                if wanted(fresh.line()) {
                    return Ok(fresh.text);
                }
            }
            if over {
                return Err(self.failed("ended without printing the line waited for"));
            }
        }
    }

    /// Waits for the job's end, calling `on_line` with each line as it
    /// comes. A job has ended when its first process has: what is left of
    /// its process group is killed then.
    ///
    /// # Errors
    /// [`Error::JobTimeout`] when the job's time is over (it is killed),
    /// [`Error::JobFailed`] when it could not be started,
    /// [`Error::LabHang`] and [`Error::LabDied`] when the lab is to blame.
    /// A program that fails is no error: see [`Done::status`].
    pub fn wait(mut self, mut on_line: impl FnMut(Line<'_>)) -> Result<Done> {
        let until = Instant::now() + self.timeout;
        let timeout = self.timeout;
        loop {
            let (lines, over) = match self.more(Some(until), timeout, "it did not end") {
                Ok(more) => more,
                Err(error) => {
                    if !error.is_lab_fault() {
                        self.end_after_timeout();
                    }
                    return Err(error);
                }
            };
            for fresh in lines {
                self.cursor(fresh.stream).see(fresh.end);
                on_line(fresh.line());
            }
            if over {
                return self.finish();
            }
        }
    }

    /// Complete lines that were not seen yet (the rest too once an output
    /// has ended), and whether the job is over. Waits for one or the other.
    fn more(
        &mut self,
        until: Option<Instant>,
        waited: Duration,
        what: &str,
    ) -> Result<(Vec<Fresh>, bool)> {
        let during = format!("{} ran in it", self.program);
        let (number, stdout, stderr) = (self.number, &mut self.stdout, &mut self.stderr);
        let found = self.link.wait(&during, until, |state| {
            let job = state.job(number)?;
            let mut lines = stdout.unseen(&job.stdout, Stream::Stdout);
            lines.extend(stderr.unseen(&job.stderr, Stream::Stderr));
            (!lines.is_empty() || job.is_over()).then(|| (lines, job.is_over()))
        })?;
        if let Some(found) = found {
            return Ok(found);
        }
        self.link.check_alive(&during)?;
        Err(Error::JobTimeout {
            program: self.program.clone(),
            what: what.to_owned(),
            waited,
            evidence: self.evidence(),
        })
    }

    fn end_after_timeout(&mut self) {
        if self.kill().is_ok() {
            let until = Instant::now() + KILLED;
            // Only so that nothing of it is left; its error is known already.
            let _ = self.link.wait("a job was killed", Some(until), |state| {
                self.state(state)?.is_over().then_some(())
            });
        }
    }

    fn finish(mut self) -> Result<Done> {
        self.over = true;
        let console = self.link.console_tail();
        let job = self.link.close_job(self.number).unwrap_or_default();
        match (job.ended, job.refused) {
            (Some(status), _) => Ok(Done {
                program: self.program.clone(),
                console,
                status,
                dropped: job.stdout.dropped + job.stderr.dropped,
                stdout: job.stdout.bytes,
                stderr: job.stderr.bytes,
            }),
            (None, refused) => Err(Error::JobFailed {
                program: self.program.clone(),
                what: refused.unwrap_or_default(),
                evidence: Evidence(vec![console]),
            }),
        }
    }

    fn failed(&self, what: &str) -> Error {
        Error::JobFailed {
            program: self.program.clone(),
            what: what.to_owned(),
            evidence: self.evidence(),
        }
    }

    fn evidence(&self) -> Evidence {
        let output = self.link.wait("", Some(Instant::now()), |state| {
            let job = self.state(state)?;
            Some(output_tail(&job.stdout.bytes, &job.stderr.bytes))
        });
        let mut tails = vec![self.link.console_tail()];
        if let Ok(Some(output)) = output {
            tails.insert(0, output);
        }
        Evidence(tails)
    }

    fn cursor(&mut self, stream: Stream) -> &mut Cursor {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn state<'a>(&self, state: &'a State) -> Option<&'a JobState> {
        state.job(self.number)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            // The lab may be gone, and the job with it.
            let _ = self.kill();
            self.link.close_job(self.number);
        }
    }
}

impl Cursor {
    /// The complete lines not seen yet, each with where it ends.
    fn unseen(&mut self, captured: &Captured, stream: Stream) -> Vec<Fresh> {
        // A long line that grows is not searched again from its start.
        let fresh = &captured.bytes[self.searched.max(self.seen)..];
        if !captured.ended && !fresh.contains(&b'\n') {
            self.searched = captured.bytes.len();
            return Vec::new();
        }
        let mut lines = Vec::new();
        let mut at = self.seen;
        for line in captured.bytes[self.seen..].split_inclusive(|byte| *byte == b'\n') {
            let complete = line.strip_suffix(b"\n");
            if complete.is_none() && !captured.ended {
                break;
            }
            at += line.len();
            let text = String::from_utf8_lossy(complete.unwrap_or(line)).into_owned();
            lines.push(Fresh {
                stream,
                text,
                end: at,
            });
        }
        lines
    }

    fn see(&mut self, end: usize) {
        self.seen = end;
        self.searched = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(cursor: &mut Cursor, captured: &Captured) -> Vec<String> {
        let lines = cursor.unseen(captured, Stream::Stdout);
        if let Some(last) = lines.last() {
            cursor.see(last.end);
        }
        lines.into_iter().map(|fresh| fresh.text).collect()
    }

    #[test]
    fn only_whole_lines_are_seen_until_the_output_ends() {
        let mut captured = Captured::default();
        let mut cursor = Cursor::default();
        captured.bytes.extend(b"one\ntwo\nthr");
        assert_eq!(texts(&mut cursor, &captured), ["one", "two"]);
        assert_eq!(texts(&mut cursor, &captured), [""; 0]);
        captured.bytes.extend(b"ee\nfo");
        assert_eq!(texts(&mut cursor, &captured), ["three"]);
        captured.ended = true;
        assert_eq!(texts(&mut cursor, &captured), ["fo"]);
        assert_eq!(texts(&mut cursor, &captured), [""; 0]);
    }
}
