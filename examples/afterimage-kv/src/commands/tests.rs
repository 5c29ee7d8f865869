use super::*;
use crate::request::RequestBuffer;
use allocator_api2::alloc::Global;
use proptest::collection::vec;
use proptest::prelude::*;
use std::convert::Infallible;
use std::time::Instant;

struct Memory(Store<Global>);

impl Data for Memory {
    type Heap = Global;
    type Error = Infallible;

    fn read(&self) -> &Store<Global> {
        &self.0
    }

    fn write(mut self, change: impl FnOnce(&mut Store<Global>)) -> Result<Self, Infallible> {
        change(&mut self.0);
        Ok(self)
    }
}

fn facts(debug_allowed: bool) -> Facts {
    Facts {
        started: Instant::now(),
        debug_allowed,
        max_clients: 10,
        area: "kv".to_owned(),
        area_len: 1 << 20,
        engine: "process".to_owned(),
        tracker: "none".to_owned(),
        term: 1,
        epoch: 0,
        outcome: "none".to_owned(),
        clients: 1,
        connections: 1,
        refused: 0,
        commands: 0,
        commits: 0,
        degraded: 0,
    }
}

/// A client, its connection and the server's data in one.
struct Bench {
    data: Option<Memory>,
    session: Session,
    facts: Facts,
    demand: Option<Demand>,
}

impl Bench {
    fn new() -> Self {
        Self {
            data: Some(Memory(Store::new(Global))),
            session: Session::default(),
            facts: facts(false),
            demand: None,
        }
    }

    fn bytes(&mut self, requests: &[u8]) -> String {
        let mut input = RequestBuffer::new();
        input.push(requests);
        let mut reply = Reply::default();
        while let Ok(Some(request)) = input.next() {
            let call = Call {
                request,
                reply: &mut reply,
                session: &mut self.session,
                facts: &self.facts,
                demand: &mut self.demand,
            };
            let Ok(data) = execute(call, self.data.take().unwrap());
            self.data = Some(data);
        }
        String::from_utf8_lossy(reply.bytes()).into_owned()
    }

    /// The reply to one inline command.
    fn ask(&mut self, line: &str) -> String {
        self.bytes(format!("{line}\r\n").as_bytes())
    }
}

#[track_caller]
fn conversation(lines: &[(&str, &str)]) {
    let mut bench = Bench::new();
    for (line, answer) in lines {
        let expected: String = answer
            .split('|')
            .map(|part| format!("{part}\r\n"))
            .collect();
        assert_eq!(bench.ask(line), expected, "{line}");
    }
}

#[test]
fn the_table_is_sorted_so_that_every_command_is_found() {
    let names: Vec<_> = Table::<Global>::COMMANDS.iter().map(|c| c.name).collect();
    assert!(names.is_sorted());
    for name in names {
        let reply = Bench::new().ask(name);
        assert!(!reply.contains("unknown command"), "{name}");
    }
}

#[test]
fn values_are_set_and_read() {
    conversation(&[
        ("get k", "$-1"),
        ("SET k v", "+OK"),
        ("GET k", "$1|v"),
        ("SET k w GET", "$1|v"),
        ("SET k x NX", "$-1"),
        ("SET n x XX", "$-1"),
        ("SET n x NX", "+OK"),
        ("SETNX n y", ":0"),
        ("SETNX m y", ":1"),
        ("GETSET k z", "$1|w"),
        ("STRLEN k", ":1"),
        ("APPEND k zz", ":3"),
        ("MGET k n nothing", "*3|$3|zzz|$1|x|$-1"),
        ("MSET a 1 b 2", "+OK"),
        ("MSETNX b 3 c 3", ":0"),
        ("MSETNX c 3 d 4", ":1"),
        ("EXISTS a b c d e a", ":5"),
        ("DEL a b nothing", ":2"),
        ("UNLINK c", ":1"),
        ("GETDEL d", "$1|4"),
        ("DBSIZE", ":3"),
        ("TYPE k", "+string"),
        ("TYPE nothing", "+none"),
        ("TTL k", ":-1"),
        ("TTL nothing", ":-2"),
        ("FLUSHALL", "+OK"),
        ("DBSIZE", ":0"),
        ("FLUSHDB ASYNC", "+OK"),
    ]);
}

#[test]
fn numbers_are_counted() {
    conversation(&[
        ("INCR n", ":1"),
        ("INCRBY n 41", ":42"),
        ("DECR n", ":41"),
        ("DECRBY n 50", ":-9"),
        ("GET n", "$2|-9"),
        (
            "DECRBY n -9223372036854775808",
            "-ERR value is not an integer or out of range",
        ),
        ("INCRBY n 9223372036854775807", ":9223372036854775798"),
        ("INCRBY n 100", "-ERR increment or decrement would overflow"),
        ("SET n text", "+OK"),
        ("INCR n", "-ERR value is not an integer or out of range"),
    ]);
}

#[test]
fn what_is_not_supported_is_refused_in_words() {
    conversation(&[
        ("NOSUCH a", "-ERR unknown command 'NOSUCH'"),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        (
            "MSET a",
            "-ERR wrong number of arguments for 'mset' command",
        ),
        (
            "MSET a 1 b",
            "-ERR wrong number of arguments for 'mset' command",
        ),
        (
            "SET k v EX 10",
            "-ERR expiry is not supported: a value stays until it is deleted",
        ),
        ("GET k", "$-1"),
        ("SET k v NX XX", "-ERR syntax error"),
        ("SELECT 0", "+OK"),
        ("SELECT 1", "-ERR DB index is out of range"),
        (
            "HELLO 3",
            "-NOPROTO unsupported protocol version: this server speaks version 2",
        ),
        (
            "CONFIG SET save x",
            "-ERR settings are given on the command line when the server starts",
        ),
        (
            "DEBUG SEGFAULT",
            "-ERR DEBUG command not allowed: start the server with --enable-debug-command",
        ),
    ]);
}

#[test]
fn a_failed_command_leaves_only_its_error_as_reply() {
    let mut bench = Bench::new();
    bench.ask("SET k old");
    let long = "x".repeat(crate::limits::MAX_BULK);
    let request = format!(
        "*3\r\n$6\r\nAPPEND\r\n$1\r\nk\r\n${}\r\n{long}\r\n",
        long.len()
    );
    assert!(
        bench
            .bytes(request.as_bytes())
            .starts_with("-ERR string exceeds")
    );
    assert_eq!(bench.ask("GET k"), "$3\r\nold\r\n");
}

#[test]
fn a_reply_beyond_the_limit_is_refused_whole() {
    let mut bench = Bench::new();
    let long = "x".repeat(crate::limits::MAX_BULK);
    let request = format!(
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{long}\r\n",
        long.len()
    );
    bench.bytes(request.as_bytes());
    let reply = bench.ask(&format!("MGET {}", "k ".repeat(MAX_REPLY / long.len() + 1)));
    assert!(
        reply.starts_with("-ERR the reply would be longer"),
        "{:.80}",
        reply
    );
}

#[test]
fn clients_say_who_they_are() {
    conversation(&[
        ("PING", "+PONG"),
        ("PING hello", "$5|hello"),
        ("ECHO \"a b\"", "$3|a b"),
        ("CLIENT GETNAME", "$-1"),
        ("CLIENT SETNAME me", "+OK"),
        ("CLIENT GETNAME", "$2|me"),
        ("CLIENT ID", ":0"),
        ("CLIENT SETINFO LIB-NAME x", "+OK"),
        ("COMMAND DOCS", "*0"),
        ("CONFIG GET save", "*2|$4|save|$0|"),
        ("CONFIG GET append*", "*2|$10|appendonly|$2|no"),
        ("CONFIG GET nothing", "*0"),
    ]);
    let mut bench = Bench::new();
    assert!(bench.ask("HELLO 2 SETNAME me").starts_with("*14\r\n"));
    assert_eq!(bench.ask("QUIT"), "+OK\r\n");
    assert!(bench.session.closing);
}

#[test]
fn shutdown_and_crash_are_asked_of_the_server() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask("SHUTDOWN NOSAVE"), "");
    assert_eq!(bench.demand, Some(Demand::Stop));
    bench.facts = facts(true);
    assert_eq!(bench.ask("DEBUG SEGFAULT"), "");
    assert_eq!(bench.demand, Some(Demand::Crash));
}

#[test]
fn info_has_the_sections_asked_for() {
    let mut bench = Bench::new();
    bench.ask("SET k v");
    let all = bench.ask("INFO");
    assert!(all.contains("# Afterimage\r\narea:kv\r\n"), "{all}");
    assert!(all.contains("db0:keys=1,"), "{all}");
    let one = bench.ask("INFO keyspace");
    assert!(
        one.contains("# Keyspace") && !one.contains("# Server"),
        "{one}"
    );
}

#[test]
fn keys_and_scan_find_by_pattern() {
    let mut bench = Bench::new();
    bench.ask("MSET one 1 two 2");
    assert_eq!(bench.ask("KEYS t*"), "*1\r\n$3\r\ntwo\r\n");
    assert_eq!(
        bench.ask("SCAN 0 MATCH o* COUNT 10"),
        "*2\r\n$1\r\n0\r\n*1\r\n$3\r\none\r\n"
    );
    assert_eq!(bench.ask("SCAN 0 TYPE list"), "*2\r\n$1\r\n0\r\n*0\r\n");
    assert_eq!(bench.ask("SCAN x"), "-ERR invalid cursor\r\n");
}

/// How many whole replies `bytes` holds; None if they are no replies.
fn replies(mut bytes: &[u8]) -> Option<usize> {
    fn one(bytes: &mut &[u8]) -> Option<()> {
        let end = bytes.windows(2).position(|w| w == b"\r\n")?;
        let (line, rest) = (&bytes[..end], &bytes[end + 2..]);
        *bytes = rest;
        let number = || std::str::from_utf8(&line[1..]).ok()?.parse::<i64>().ok();
        match line.first()? {
            b'+' | b'-' => Some(()),
            b':' => number().map(|_| ()),
            b'$' => match number()? {
                -1 => Some(()),
                len => {
                    let len = usize::try_from(len).ok()?;
                    let after = bytes.get(len..)?.strip_prefix(b"\r\n")?;
                    *bytes = after;
                    Some(())
                }
            },
            b'*' => (0..number()?).try_for_each(|_| one(bytes)),
            _ => None,
        }
    }
    let mut count = 0;
    while !bytes.is_empty() {
        one(&mut bytes)?;
        count += 1;
    }
    Some(count)
}

/// Mostly real commands with arguments of any kind and number.
fn any_request() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let name = prop_oneof![
        9 => (0..Table::<Global>::COMMANDS.len())
            .prop_map(|i| Table::<Global>::COMMANDS[i].name.as_bytes().to_vec())
            .prop_filter("answers nothing", |name| name != b"SHUTDOWN"),
        1 => vec(any::<u8>(), 0..20),
    ];
    let arg = prop_oneof![
        Just(b"k".to_vec()),
        Just(b"GET".to_vec()),
        Just(b"MATCH".to_vec()),
        any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        vec(any::<u8>(), 0..12),
    ];
    (name, vec(arg, 0..5)).prop_map(|(name, mut args)| {
        args.insert(0, name);
        args
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_request_gets_exactly_one_reply(requests in vec(any_request(), 1..8)) {
        let mut bench = Bench::new();
        for request in requests {
            let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
            for arg in &request {
                bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
                bytes.extend_from_slice(arg);
                bytes.extend_from_slice(b"\r\n");
            }
            let mut input = RequestBuffer::new();
            input.push(&bytes);
            let mut reply = Reply::default();
            let call = Call {
                request: input.next().unwrap().unwrap(),
                reply: &mut reply,
                session: &mut bench.session,
                facts: &bench.facts,
                demand: &mut bench.demand,
            };
            let Ok(data) = execute(call, bench.data.take().unwrap());
            bench.data = Some(data);
            prop_assert_eq!(replies(reply.bytes()), Some(1), "{:?}", reply);
        }
    }
}
