//! The lab's first process.
//!
//! As process 1 it makes a stock kernel usable and then only reaps what is
//! left to it; its one child, the same program, is the agent that runs jobs
//! for the host. Two processes, so that collecting orphans never takes a
//! job's exit status away from the agent.

#![forbid(unsafe_code)]

mod agent;
mod init;
mod port;

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = if std::process::id() == 1 {
        init::run()
    } else {
        agent::run()
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-agent: {error:#}");
            if std::process::id() == 1 {
                // A first process that returns is a kernel panic, which
                // would push the reason off the host's last lines.
                init::power_off();
            }
            ExitCode::FAILURE
        }
    }
}
