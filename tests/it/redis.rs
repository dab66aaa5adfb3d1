//! kvmesh beside a real redis-server: the same commands to both, and the same replies from both,
//! byte for byte, in both versions of RESP.
//!
//! Needs `redis-server` (Debian's package of that name). Where it is missing the tests say SKIPPED
//! on stderr, and `.ci/run` fails on that word. One function, `compare::is_listed_difference`,
//! knows the differences that are meant, and docs/redis.md lists them. The commands come from a
//! seed. `KVMESH_SEED=1` repeats a run, `KVMESH_ROUNDS=2000` makes so many sequences of commands,
//! `KVMESH_REDIS_ADDR=host:port` tests another server than a node.

mod commands;
mod compare;
mod introspection;
mod malformed;
mod mixed;
mod options;
mod refused;
mod scans;
mod servers;
mod transactions;
mod users;
mod wire;

use std::collections::{BTreeSet, VecDeque};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use commands::{Made, Maker, Times, Words, all_keys, exact, words};
use compare::{Compare, equal, is_listed_difference};
pub use servers::Redis;
use servers::{Both, Servers, ask, shown};
pub use wire::request;
use wire::{Answer, Reply};

use crate::client::Client;
use crate::cluster::{DEADLINE, until};
use crate::random::{Random, number_from, seed};

/// Sequences for each version of RESP.
const ROUNDS: u64 = 100;
const SEQUENCE_LEN: usize = 40;

#[test]
fn made_up_commands_in_resp_2() {
    made_up_commands(2);
}

#[test]
fn made_up_commands_in_resp_3() {
    made_up_commands(3);
}

fn made_up_commands(version: u8) {
    let Some(servers) = Servers::start() else { return };
    let seed = seed();
    let mut random = Random::new(seed);
    let mut comparison = Comparison::new(&servers, version, format!("KVMESH_SEED={seed}"));
    for _ in 0..number_from("KVMESH_ROUNDS").unwrap_or(ROUNDS) {
        comparison.sequence(&mut random);
    }
    println!("{} commands in RESP{version}, {} errors among them", comparison.count, comparison.errors);
    // Random commands that are all wrong would prove little.
    assert!(comparison.errors * 2 < comparison.count, "{} of {} commands were errors", comparison.errors, comparison.count);
}

/// Many requests at once, in pieces of any size: the same bytes come back.
#[test]
fn pipelines_in_pieces() {
    const BATCHES: usize = 30;
    let Some(servers) = Servers::start() else { return };
    let seed = seed();
    let mut random = Random::new(seed);
    for version in [2, 3] {
        let mut both = servers.connect(version);
        for _ in 0..BATCHES {
            let mut batch = vec![words("FLUSHALL")];
            let mut maker = Maker { random: &mut random, times: Times::Absolute, now_s: now_s(), in_multi: false };
            while batch.len() < 100 {
                let made = maker.data();
                if made.compare == Compare::Exact && !is_of_the_clock(&made.words) {
                    batch.push(made.words);
                }
            }
            let bytes: Vec<u8> = batch.iter().flat_map(|words| request(words)).collect();
            let answers =
                [&mut both.redis, &mut both.tested].map(|connection| answers_in_pieces(connection, &bytes, batch.len(), &mut random));
            let [redis, tested] = answers;
            for (number, command) in batch.iter().enumerate() {
                let (redis, tested) = (&redis[number], &tested[number]);
                assert!(
                    redis.raw == tested.raw || is_listed_difference(command, redis, tested),
                    "KVMESH_SEED={seed} RESP{version} {}\nredis:  {redis:?}\ntested: {tested:?}",
                    shown(command)
                );
            }
        }
    }
}

/// Returns whether the reply depends on the time, or in Redis on whether it has noticed that a key
/// has expired.
fn is_of_the_clock(words: &Words) -> bool {
    ["dbsize", "wait", "randomkey"].iter().any(|name| words[0].eq_ignore_ascii_case(name.as_bytes()))
}

fn answers_in_pieces(connection: &mut Client, bytes: &[u8], count: usize, random: &mut Random) -> Vec<Answer> {
    let stream = connection.stream().try_clone().expect("a second handle");
    let mut cuts: Vec<usize> = (0..20).map(|_| random.below(bytes.len())).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    thread::scope(|scope| {
        // Beside the reading: neither side has room for everything.
        scope.spawn(move || {
            let mut start = 0;
            for end in cuts {
                std::io::Write::write_all(&mut &stream, &bytes[start..end]).expect("requests are taken");
                start = end;
            }
        });
        (0..count).map(|number| connection.answer().unwrap_or_else(|error| panic!("reply {number}: {error}"))).collect()
    })
}

/// Expiries that are near: over on both servers, and until then the same on both.
#[test]
fn short_lives() {
    let Some(servers) = Servers::start() else { return };
    let mut comparison = Comparison::new(&servers, 3, "short lives".into());
    comparison.step(0, exact(words("FLUSHALL")));
    for (line, left_max) in [("SET a 1 PX 1500", 1_500), ("SET e 5 EX 2", 2_000)] {
        comparison.step(0, exact(words(line)));
        let key = &line[4..5];
        let (redis, tested) = comparison.both[0].ask(&["PTTL", key]);
        for left in [redis, tested] {
            // Over already, on a machine that had other things to do.
            assert!(left.int().is_some_and(|left| left == -2 || (1..=left_max).contains(&left)), "PTTL {key}: {left:?}");
        }
    }
    // None of these asks for a key that may be over already.
    for line in [
        "PSETEX b 300 2",
        "SET c 3",
        "PEXPIRE c 300",
        "SET d 4",
        "GETEX d PX 300",
        "SETEX f 1 6",
        "SET g 7",
        "EXPIRE g 1",
        "SET stays 8 PX 1200000",
        "PERSIST stays",
    ] {
        comparison.step(0, exact(words(line)));
    }
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    until("all that is short is over", DEADLINE, || {
        let both = &mut comparison.both[0];
        let (redis, tested) = both.ask(&["EXISTS"].iter().chain(&names).collect::<Vec<_>>());
        if (redis.int(), tested.int()) == (Some(0), Some(0)) { Ok(()) } else { Err(format!("{redis:?}, {tested:?}")) }
    });
    for name in names {
        for command in ["GET", "TTL", "PTTL", "EXPIRETIME", "TYPE", "STRLEN", "PERSIST", "GETDEL"] {
            comparison.step(0, exact(words(&format!("{command} {name}"))));
        }
    }
    for line in [
        "DBSIZE",
        "GET stays",
        "TTL stays",
        "KEYS *",
        "SETNX a again",
        "APPEND b new",
        "INCR c",
        "TTL a",
        "TTL c",
        "SET d 1 XX",
        "MSETNX e 1 f 2",
        "DBSIZE",
    ] {
        comparison.step(0, exact(words(line)));
    }
}

/// INCRBYFLOAT of any decimals of up to fifteen digits: Redis computes in 80 bits, and prints the
/// result.
#[test]
fn decimals_of_fifteen_digits() {
    const SUMS: usize = 1_000;
    let Some(servers) = Servers::start() else { return };
    let seed = seed();
    let mut random = Random::new(seed);
    let mut comparison = Comparison::new(&servers, 2, format!("KVMESH_SEED={seed}"));
    for _ in 0..SUMS {
        // Fifteen digits in all: cancellation leaves fewer of them.
        let decimals = random.below(8);
        let numbers = [(); 2].map(|()| {
            let digits = 1 + random.below(14 - decimals) + decimals;
            let number = random.below(10_usize.pow(digits as u32));
            let text = format!("{number:0width$}", width = decimals + 1);
            let (whole, fraction) = text.split_at(text.len() - decimals);
            if decimals == 0 { whole.to_owned() } else { format!("{whole}.{fraction}") }
        });
        let sign = if random.once_in(2) { "-" } else { "" };
        comparison.step(0, exact(words(&format!("SET decimal {sign}{}", numbers[0]))));
        let sum = words(&format!("INCRBYFLOAT decimal {sign}{}", numbers[1]));
        comparison.step(0, exact(sum));
    }
}

/// Values at the limit, and one byte beyond it.
#[test]
fn values_at_the_limit() {
    let Some(servers) = Servers::start() else { return };
    let mut comparison = Comparison::new(&servers, 2, "values at the limit".into());
    let max = servers::VALUE_LEN_MAX;
    comparison.step(0, exact(words("FLUSHALL")));
    for line in [
        format!("SETRANGE a {max} x"),
        "EXISTS a".into(),
        format!("SETRANGE a {} x", max - 1),
        "STRLEN a".into(),
        "APPEND a y".into(),
        "APPEND a".into(),
        format!("GETRANGE a {} -1", max - 2),
        format!("SETRANGE a {} xy", max - 1),
        format!("SETRANGE nothing {}", u64::MAX),
        "STRLEN a".into(),
    ] {
        comparison.step(0, exact(words(&line)));
    }
    for command in [vec![b"SET".to_vec(), b"b".to_vec(), vec![7; max]], words("STRLEN b"), words("DEL a b")] {
        comparison.step(0, exact(command));
    }
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs() as i64
}

/// Two pairs of connections, so that one can change what the other watches, and the last commands
/// on them.
struct Comparison {
    version: u8,
    /// Words that repeat the run.
    origin: String,
    both: [Both; 2],
    /// For each pair, how the commands are compared that are queued since MULTI; `None` outside a
    /// transaction.
    queued: [Option<Vec<Compare>>; 2],
    last: VecDeque<String>,
    count: usize,
    errors: usize,
}

impl Comparison {
    fn new(servers: &Servers, version: u8, origin: String) -> Comparison {
        let both = [servers.connect(version), servers.connect(version)];
        Comparison { version, origin, both, queued: [None, None], last: VecDeque::new(), count: 0, errors: 0 }
    }

    /// Runs one sequence, without any data at first.
    fn sequence(&mut self, random: &mut Random) {
        self.step(0, exact(words("FLUSHALL")));
        let times = if random.once_in(2) { Times::Absolute } else { Times::Relative };
        for _ in 1..SEQUENCE_LEN {
            let pair = usize::from(random.once_in(5));
            let in_multi = self.queued[pair].is_some();
            let about_transactions = random.once_in(if in_multi { 5 } else { 10 });
            let mut maker = Maker { random, times, now_s: now_s(), in_multi };
            let made = if about_transactions { maker.transaction() } else { maker.data() };
            let is_size = made.words[0].eq_ignore_ascii_case(b"dbsize") || made.words[0].eq_ignore_ascii_case(b"randomkey");
            if is_size {
                // Redis counts a key that has expired until it meets it.
                if in_multi {
                    continue;
                }
                let named = [b"EXISTS".to_vec()].into_iter().chain(all_keys()).collect();
                self.step(pair, exact(named));
            }
            self.step(pair, made);
        }
        for pair in [0, 1] {
            if self.queued[pair].is_some() {
                self.step(pair, Made { words: words("EXEC"), compare: Compare::Queued });
            }
            self.step(pair, exact(words("UNWATCH")));
        }
        self.whole_scans(random);
        self.everything();
    }

    /// Compares all that is there in the end.
    fn everything(&mut self) {
        let named: Words = [b"MGET".to_vec()].into_iter().chain(all_keys()).collect();
        self.step(0, exact(named));
        self.step(0, Made { words: words("KEYS *"), compare: Compare::Unordered });
        self.step(0, exact(words("DBSIZE")));
        for key in all_keys() {
            self.step(0, Made { words: vec![b"TTL".to_vec(), key], compare: Compare::Near(60) });
        }
    }

    fn whole_scans(&mut self, random: &mut Random) {
        for options in ["", "COUNT 1", "COUNT 1000", "MATCH *e* COUNT 3", "TYPE string", "TYPE hash", "match key:? type STRING"] {
            if !random.once_in(4) {
                continue;
            }
            let options = words(options);
            let both = &mut self.both[0];
            let keys = [&mut both.redis, &mut both.tested].map(|connection| scan(connection, &options));
            self.last.push_back(format!("SCAN … {} until its end", shown(&options)));
            assert_eq!(keys[0], keys[1], "{}; {:#?}", self.origin, self.last);
        }
    }

    /// Sends one command to both of a pair.
    #[track_caller]
    fn step(&mut self, pair: usize, made: Made) -> (Answer, Answer) {
        const LAST: usize = 20;
        let Made { words, compare } = made;
        self.count += 1;
        self.last.push_back(format!("{}> {}", ["A", "B"][pair], shown(&words)));
        if self.last.len() > LAST {
            self.last.pop_front();
        }
        let both = &mut self.both[pair];
        let (redis, tested) = match (both.redis.ask_words(&words), both.tested.ask_words(&words)) {
            (Ok(redis), Ok(tested)) => (redis, tested),
            (redis, tested) => panic!("{}", self.evidence(&format!("redis:  {redis:?}\ntested: {tested:?}"))),
        };
        self.errors += usize::from(redis.is_error());
        let same = match compare {
            Compare::Queued => self.same_results(pair, &redis, &tested),
            _ if redis.reply == Reply::Simple("QUEUED".into()) => redis.raw == tested.raw,
            _ => equal(compare, &redis, &tested),
        };
        if !same && !is_listed_difference(&words, &redis, &tested) {
            panic!("{}", self.evidence(&format!("compared: {compare:?}\nredis:  {redis:?}\ntested: {tested:?}")));
        }
        self.note(pair, &words, compare, &redis);
        (redis, tested)
    }

    /// Notes what the reply of Redis means for the commands that follow.
    fn note(&mut self, pair: usize, words: &Words, compare: Compare, redis: &Answer) {
        let name = words[0].to_ascii_lowercase();
        let is = |text: &str| redis.reply == Reply::Simple(text.into());
        match name.as_slice() {
            b"multi" if is("OK") => self.queued[pair] = Some(Vec::new()),
            // After an EXECABORT, too; but not after a wrong number of words.
            b"exec" | b"discard" if words.len() == 1 => self.queued[pair] = None,
            b"reset" if is("RESET") => {
                self.queued[pair] = None;
                self.both[pair].speak(self.version);
            }
            _ if is("QUEUED") => self.queued[pair].as_mut().expect("a reply QUEUED comes after MULTI").push(compare),
            _ => {}
        }
    }

    fn same_results(&self, pair: usize, redis: &Answer, tested: &Answer) -> bool {
        let (Reply::Array(a), Reply::Array(b), Some(queued)) = (&redis.reply, &tested.reply, &self.queued[pair]) else {
            return redis.raw == tested.raw;
        };
        a.len() == b.len() && a.len() == queued.len() && queued.iter().zip(a.iter().zip(b)).all(|(compare, (a, b))| equal(*compare, a, b))
    }

    fn evidence(&self, what: &str) -> String {
        let last: Vec<&str> = self.last.iter().map(String::as_str).collect();
        format!("{} RESP{}, command {}; the last of them:\n{}\n{what}", self.origin, self.version, self.count, last.join("\n"))
    }
}

/// Every key of a whole scan.
fn scan(connection: &mut Client, options: &Words) -> BTreeSet<Vec<u8>> {
    const STEPS_MAX: usize = 10_000;
    let mut keys = BTreeSet::new();
    let mut cursor = b"0".to_vec();
    for _ in 0..STEPS_MAX {
        let command: Words = [b"SCAN".to_vec(), cursor].into_iter().chain(options.iter().cloned()).collect();
        let answer = ask(connection, &command);
        let Some([next, found]) = answer.elements().and_then(|parts| <[Answer; 2]>::try_from(parts).ok()) else {
            panic!("{}: {answer:?}", shown(&command));
        };
        for key in found.elements().unwrap_or_else(|| panic!("{}: {answer:?}", shown(&command))) {
            keys.insert(key.bytes().unwrap_or_else(|| panic!("{}: {answer:?}", shown(&command))).to_vec());
        }
        cursor = next.bytes().unwrap_or_else(|| panic!("{}: {answer:?}", shown(&command))).to_vec();
        if cursor == b"0" {
            return keys;
        }
    }
    panic!("SCAN has not come to its end in {STEPS_MAX} steps");
}
