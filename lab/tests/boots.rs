//! The lab itself, booted. Whatever can share a boot does.

// clippy.toml allows it in test functions only, not in what they call.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use afterimage_lab::{Cache, Error, GuestImage, Job, Kernel, Lab, Set, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const AGENT: &str = env!("CARGO_BIN_EXE_lab-agent");
const LAB: &str = env!("CARGO_BIN_EXE_lab");

const SECOND: Duration = Duration::from_secs(1);

fn cache() -> Cache {
    let print = &mut |progress: afterimage_lab::Progress<'_>| eprintln!("{}", progress.step);
    Cache::prepare(&Cache::default_dir(), print).unwrap()
}

fn text(lab: &Lab, line: &str) -> String {
    lab.run(&Job::shell(line), |_| ())
        .and_then(afterimage_lab::Done::expect_success)
        .unwrap()
        .text()
}

#[test]
fn jobs_run_in_a_booted_lab_and_their_results_come_back() {
    let cache = cache();
    let lab = Lab::builder(&cache)
        .agent(AGENT)
        .file("/bin/lab", LAB)
        .program(Set::Redis, "redis-cli")
        .port_forward(7777)
        .boot()
        .unwrap();
    kernel_and_kvm_are_the_stock_ones(&lab);
    exit_statuses_and_signals_are_passed_on(&lab);
    ten_megabytes_of_output_arrive_whole(&lab);
    arguments_environment_folder_and_input_reach_the_program(&lab);
    lines_come_while_the_job_runs_and_a_kill_ends_it(&lab);
    a_program_that_is_not_there_is_an_error_that_names_it(&lab);
    a_job_over_its_time_is_killed_and_the_lab_goes_on(&lab);
    what_a_job_leaves_behind_is_killed_and_reaped(&lab);
    two_jobs_run_side_by_side(&lab);
    the_host_reaches_a_forwarded_port(&lab);
    programs_were_put_in_with_their_libraries(&lab);
    kvm_in_the_lab_is_fast_enough_for_a_stock_kernel(&lab);
    assert!(lab.power_off().unwrap(), "the machine switches itself off");
}

fn kernel_and_kvm_are_the_stock_ones(lab: &Lab) {
    let release = text(lab, "uname -a");
    assert!(
        release.contains("6.1.") && release.contains("cloud-amd64"),
        "{release}"
    );
    assert!(text(lab, "ls -l /dev/kvm").starts_with('c'));
    assert_eq!(
        text(lab, "cat /sys/module/kvm_amd/parameters/npt").trim(),
        "Y"
    );
    // The one VM that stays open holds the module.
    assert!(text(lab, "lsmod").contains("kvm_amd"));
    assert!(text(lab, "ls /dev/net/tun").contains("tun"));
}

fn exit_statuses_and_signals_are_passed_on(lab: &Lab) {
    let status = |line| lab.run(&Job::shell(line), |_| ()).unwrap().status;
    assert_eq!(status("exit 0"), Status::Exited(0));
    assert_eq!(status("exit 7"), Status::Exited(7));
    assert_eq!(status("kill -9 $$"), Status::Killed(9));
    let failed = lab
        .run(&Job::shell("echo why >&2; exit 7"), |_| ())
        .unwrap();
    let error = failed.expect_success().unwrap_err().to_string();
    assert!(
        error.contains("status 7") && error.contains("stderr: why"),
        "{error}"
    );
}

fn ten_megabytes_of_output_arrive_whole(lab: &Lab) {
    let job = Job::new("/bin/seq").args(["1", "1400000"]);
    let mut next = 1;
    let done = lab
        .run(&job, |line| {
            assert_eq!(line.text.parse(), Ok(next));
            next += 1;
        })
        .unwrap();
    assert_eq!(next, 1_400_001);
    assert!(done.stdout.len() > 10_000_000);
    assert_eq!(done.dropped, 0);
}

fn arguments_environment_folder_and_input_reach_the_program(lab: &Lab) {
    let job = Job::shell("echo \"$0|$1|$K|$(pwd)\"; cat")
        .args(["a b", "ü*"])
        .env("K", "v w")
        .cwd("/tmp")
        .input(vec![b'x'; 1 << 20]);
    let done = lab.run(&job, |_| ()).unwrap().expect_success().unwrap();
    let (head, rest) = done.stdout.split_at(done.stdout.len() - (1 << 20));
    assert_eq!(String::from_utf8_lossy(head), "a b|ü*|v w|/tmp\n");
    assert!(rest.iter().all(|byte| *byte == b'x'));
}

fn lines_come_while_the_job_runs_and_a_kill_ends_it(lab: &Lab) {
    let job = Job::shell("echo one; echo two >&2; echo three; exec sleep 1000");
    let mut job = lab.spawn(&job).unwrap();
    // The last of them: once it is here, all three were written.
    job.wait_for_line(30 * SECOND, |line| line.text == "three")
        .unwrap();
    job.kill().unwrap();
    let mut left = Vec::new();
    let done = job.wait(|line| left.push(line.text.to_owned())).unwrap();
    assert_eq!(done.status, Status::Killed(9));
    assert_eq!(done.stdout, b"one\nthree\n");
    assert_eq!(done.stderr, b"two\n");

    let mut job = lab.spawn(&Job::shell("echo one")).unwrap();
    let error = job.wait_for_line(30 * SECOND, |_| false).unwrap_err();
    assert!(matches!(error, Error::JobFailed { .. }), "{error}");
}

fn a_program_that_is_not_there_is_an_error_that_names_it(lab: &Lab) {
    let error = lab.run(&Job::new("/bin/nothing"), |_| ()).unwrap_err();
    assert!(matches!(error, Error::JobFailed { .. }));
    let error = error.to_string();
    assert!(
        error.contains("/bin/nothing") && error.contains("No such file"),
        "{error}"
    );
}

fn a_job_over_its_time_is_killed_and_the_lab_goes_on(lab: &Lab) {
    let job = Job::shell("echo started; sleep 1234").timeout(SECOND);
    let error = lab.run(&job, |_| ()).unwrap_err();
    assert!(matches!(error, Error::JobTimeout { .. }), "{error}");
    assert!(!error.is_lab_fault());
    assert!(error.to_string().contains("stdout: started"), "{error}");
    assert!(!text(lab, "ps").contains("sleep 1234"));
}

fn what_a_job_leaves_behind_is_killed_and_reaped(lab: &Lab) {
    text(lab, "sleep 4321 & true");
    let left = text(lab, "ps -o stat,args");
    assert!(!left.contains("sleep 4321"), "{left}");
    // Out of the job's group and its parent gone: process 1 inherits it.
    text(lab, "setsid sh -c 'sleep 0.01' >/dev/null 2>&1 &");
    let started = Instant::now();
    while text(lab, "ps -o stat,args").contains("sleep 0.01") {
        assert!(started.elapsed() < 30 * SECOND, "an orphan was not reaped");
    }
}

fn two_jobs_run_side_by_side(lab: &Lab) {
    text(lab, "mkfifo /tmp/fifo");
    let reader = lab.spawn(&Job::shell("cat /tmp/fifo")).unwrap();
    text(lab, "echo through > /tmp/fifo");
    assert_eq!(reader.wait(|_| ()).unwrap().text(), "through\n");
    assert_eq!(
        lab.read_file("/etc/hosts").unwrap(),
        b"127.0.0.1 localhost\n"
    );
}

fn the_host_reaches_a_forwarded_port(lab: &Lab) {
    let _server = lab
        .spawn(&Job::new("/bin/nc").args(["-ll", "-p", "7777", "-e", "/bin/cat"]))
        .unwrap();
    text(lab, "until nc 127.0.0.1 7777 </dev/null; do :; done");
    let mut stream = TcpStream::connect(lab.forwarded(7777).unwrap()).unwrap();
    stream.set_read_timeout(Some(30 * SECOND)).unwrap();
    stream.write_all(b"hello\n").unwrap();
    let mut reply = [0; 6];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"hello\n");
}

fn programs_were_put_in_with_their_libraries(lab: &Lab) {
    assert!(text(lab, "redis-cli --version").starts_with("redis-cli"));
}

fn kvm_in_the_lab_is_fast_enough_for_a_stock_kernel(lab: &Lab) {
    let verdict = text(lab, "lab host");
    assert!(verdict.contains("is usable"), "{verdict}");
}

#[test]
fn a_guest_image_is_the_same_each_time_and_holds_what_its_first_process_needs() {
    let cache = cache();
    let app = std::path::Path::new(AGENT);
    let image = || GuestImage::new(&cache, Kernel::V6_1, &[("/bin/app", app)]).unwrap();
    let image = [image(), image()];
    assert!(image[0].initrd() == image[1].initrd());
    let mut names = Vec::new();
    let mut input = image[0].initrd();
    loop {
        let reader = cpio::NewcReader::new(input).unwrap();
        if reader.entry().is_trailer() {
            break;
        }
        names.push(format!(
            "{} {:o}",
            reader.entry().name(),
            reader.entry().mode()
        ));
        input = reader.finish().unwrap();
    }
    for wanted in [
        "init 100755",
        "bin/app 100755",
        "bin/sh 120777",
        "lib/lab/virtio_net.ko 100644",
        "lib/lab/dax_hmem.ko 100644",
        "dev/console 20600",
    ] {
        assert!(
            names.iter().any(|name| name == wanted),
            "{wanted}: {names:?}"
        );
    }
}

#[test]
fn a_machine_that_panics_is_told_from_a_failing_job_and_shows_its_console() {
    let cache = cache();
    let lab = Lab::builder(&cache).agent(AGENT).boot().unwrap();
    let job = Job::shell("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger");
    let error = lab.run(&job, |_| ()).unwrap_err();
    assert!(matches!(error, Error::LabDied { .. }), "{error}");
    assert!(error.is_lab_fault());
    assert!(
        error.to_string().contains("sysrq triggered crash"),
        "{error}"
    );
    assert!(lab.spawn(&job).is_err(), "nothing more is taken");
}

#[test]
fn a_machine_that_never_answers_is_a_hang() {
    let cache = cache();
    let error = Lab::builder(&cache)
        .agent("/bin/true")
        .boot_timeout(Duration::from_millis(300))
        .boot()
        .err()
        .unwrap();
    assert!(matches!(error, Error::LabHang { .. }), "{error}");
}

#[test]
fn a_machine_that_stops_answering_is_a_hang_and_no_failing_job() {
    let cache = cache();
    let lab = Lab::builder(&cache)
        .agent(AGENT)
        .answer_timeout(SECOND)
        .boot()
        .unwrap();
    // The job's parent is the agent.
    let job = Job::shell("kill -STOP $PPID; sleep 1000").timeout(SECOND);
    let error = lab.run(&job, |_| ()).unwrap_err();
    assert!(matches!(error, Error::LabHang { .. }), "{error}");
    assert!(error.is_lab_fault());
}

#[test]
fn the_newer_kernel_boots_with_its_compressed_modules() {
    let sets = [Set::Qemu, Set::Busybox, Set::Kernel(Kernel::V6_12)];
    let cache = Cache::prepare_sets(&Cache::default_dir(), &sets, &mut |_| ()).unwrap();
    let lab = Lab::builder(&cache)
        .agent(AGENT)
        .kernel(Kernel::V6_12)
        .module("bridge")
        .boot()
        .unwrap();
    assert!(text(&lab, "uname -r").starts_with("6.12."));
    assert!(text(&lab, "lsmod").contains("kvm_amd"));
    text(&lab, "ip link add name br0 type bridge");
}

#[test]
fn a_killed_parent_leaves_no_machine_behind() {
    cache();
    let mut lab = Command::new(LAB)
        .args([
            "run",
            "--",
            "/bin/sh",
            "-c",
            "echo running; exec sleep 1000",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = lab.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "running\n");
    let threads = std::fs::read_dir(format!("/proc/{}/task", lab.id())).unwrap();
    let qemu = threads
        .map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap())
        .find_map(|children| children.trim().parse::<i32>().ok())
        .expect("the command has started QEMU");
    let qemu = pidfd_open(Pid::from_raw(qemu).unwrap(), PidfdFlags::empty()).unwrap();
    lab.kill().unwrap();
    lab.wait().unwrap();
    let mut ended = [PollFd::new(&qemu, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut ended, Some(&patience)), Ok(1), "QEMU lives on");
}

#[test]
fn the_command_passes_on_output_and_status() {
    cache();
    let output = Command::new(LAB)
        .args(["run", "--env", "K=v", "--with-guest", "--", "/bin/sh", "-c"])
        .arg("echo $K; echo err >&2; ls /guest; exit 9")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(9));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "v\ninitrd\nvmlinuz\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
}
