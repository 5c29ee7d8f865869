//! The stock `redis-cli` and `redis-benchmark` drive the server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use afterimage_lab::{Cache, Set};
use afterimage_trials::deployment::Deployment;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// One of the tools, from the lab's cache, which is filled if it has to be.
fn tool(name: &str, server: SocketAddr) -> Command {
    let dir = Cache::default_dir();
    let cache = Cache::prepare_sets(&dir, &[Set::Redis], &mut |_| {}).unwrap_or_else(|error| {
        panic!(
            "no {name}: {error}; `cargo run --release -p afterimage-lab --bin lab -- fetch` gets it"
        )
    });
    let mut command = cache.command(Set::Redis, name).unwrap();
    command
        .args(["-h", &server.ip().to_string()])
        .args(["-p", &server.port().to_string()]);
    command
}

#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Requests per second by test, as `redis-benchmark --csv` reports.
fn benchmark(server: SocketAddr, arguments: &[&str]) -> Vec<(String, f64)> {
    let text = output(tool("redis-benchmark", server).args(arguments).arg("--csv"));
    assert!(!text.to_lowercase().contains("error"), "{text}");
    text.lines()
        .filter(|line| line.starts_with('"') && !line.starts_with("\"test\""))
        .map(|line| {
            let mut fields = line.split(',').map(|field| field.trim_matches('"'));
            let name = fields.next().unwrap().to_owned();
            (name, fields.next().unwrap().parse().unwrap())
        })
        .collect()
}

fn drive_with_benchmark(deployment: &Deployment) {
    let address = deployment.address().unwrap();
    for arguments in [
        &["-n", "5000", "-c", "50"][..],
        &["-n", "20000", "-c", "20", "-P", "16", "-r", "1000"],
        &["-n", "2000", "-c", "500"],
    ] {
        let results = benchmark(
            address,
            &[arguments, &["-t", "ping,set,get,incr,mset"]].concat(),
        );
        for (name, rate) in &results {
            println!("redis-benchmark {arguments:?}: {name}: {rate} requests/s");
            assert!(*rate > 0.0);
        }
        assert_eq!(results.len(), 6, "{results:?}");
    }
}

#[test]
fn redis_benchmark_drives_an_embedded_server() {
    drive_with_benchmark(&Deployment::embedded(&[]).unwrap());
}

#[test]
fn redis_benchmark_drives_a_replicated_server() {
    drive_with_benchmark(&Deployment::replicated(&[]).unwrap());
}

#[test]
fn what_redis_cli_wrote_is_there_after_a_kill() {
    let mut deployment = Deployment::embedded(&[]).unwrap();
    let cli = |deployment: &Deployment, words: &[&str]| {
        output(tool("redis-cli", deployment.address().unwrap()).args(words))
    };
    assert_eq!(
        cli(&deployment, &["SET", "greeting", "hello world"]),
        "OK\n"
    );
    assert_eq!(cli(&deployment, &["INCR", "visits"]), "1\n");
    let mut pipe = tool("redis-cli", deployment.address().unwrap())
        .arg("--pipe")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = pipe.stdin.take().unwrap();
    for i in 0..1000 {
        input
            .write_all(format!("SET bulk:{i} {i}\r\n").as_bytes())
            .unwrap();
    }
    drop(input);
    let piped = pipe.wait_with_output().unwrap();
    let piped = String::from_utf8_lossy(&piped.stdout);
    assert!(piped.contains("errors: 0, replies: 1000"), "{piped}");

    deployment.kill_server().unwrap();
    deployment.take_over().unwrap();
    assert_eq!(cli(&deployment, &["GET", "greeting"]), "hello world\n");
    assert_eq!(cli(&deployment, &["INCR", "visits"]), "2\n");
    assert_eq!(cli(&deployment, &["DBSIZE"]), "1002\n");
    let scanned = cli(&deployment, &["--scan", "--pattern", "bulk:*"]);
    assert_eq!(scanned.lines().count(), 1000);
    assert!(cli(&deployment, &["INFO"]).contains("area:kv"));
    let refused = cli(&deployment, &["SET", "k", "v", "EX", "5"]);
    assert!(refused.contains("expiry is not supported"), "{refused}");
}
