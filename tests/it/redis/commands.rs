//! Random commands: few keys, so that they collide; right words and wrong ones; numbers at their
//! limits.

use super::compare::Compare;
use crate::random::Random;

pub type Words = Vec<Vec<u8>>;

pub struct Made {
    pub words: Words,
    pub compare: Compare,
}

pub fn words(line: &str) -> Words {
    line.split_ascii_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

const KEYS: [&[u8]; 9] = [b"a", b"b", b"counter", b"key:1", b"key:2", b"", b"\x00\xff\r\n\x80", b"two words", b"h[a-c]llo*?"];
/// Commands with these are sent in any case, upper or lower.
const INTEGERS: [&str; 30] = [
    "0",
    "1",
    "-1",
    "2",
    "10",
    "-7",
    "100",
    "65536",
    "2147483647",
    "2147483648",
    "-2147483648",
    "4294967296",
    "9223372036854775806",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775807",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "99999999999999999999999",
    "+5",
    " 5",
    "5 ",
    "05",
    "-0",
    "",
    "1e5",
    "1.0",
    "0x10",
    "abc",
];
/// Numbers that Redis's binary floats hold exactly, or so nearly that seventeen decimals do not
/// show it: below 16, or a sum of powers of two.
const DECIMALS: [&str; 32] = [
    "0",
    "1",
    "-1",
    "0.1",
    "-0.1",
    "3.3",
    "1.5",
    "-2.25",
    "0.125",
    "1024.5",
    "1e3",
    "1E3",
    "5e-3",
    "-5.0e3",
    "2.5e+2",
    ".5",
    "5.",
    "-.25",
    "007.5",
    "100000000",
    "+1",
    "1.50",
    "0.000001",
    "-0",
    "0.0",
    "",
    " 1",
    "1 ",
    "1,5",
    "abc",
    "1e",
    "--1",
];
const NOT_FINITE: [&str; 6] = ["nan", "inf", "-inf", "infinity", "1e5000", "-1e5000"];
const OFFSETS: [&str; 22] = [
    "0",
    "0",
    "1",
    "2",
    "3",
    "5",
    "-1",
    "-2",
    "-5",
    "-100",
    "20",
    "100",
    "3000",
    "70000",
    "16777216",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "abc",
    "",
    "1.5",
    "+1",
];

/// How a sequence treats time.
#[derive(Clone, Copy, PartialEq)]
pub enum Times {
    /// Both servers get the same times, and their replies are equal.
    Absolute,
    /// Both count from when they receive a command, and their replies are nearly equal.
    Relative,
}

pub struct Maker<'a> {
    pub random: &'a mut Random,
    pub times: Times,
    pub now_s: i64,
    /// Between MULTI and the command that ends it.
    pub in_multi: bool,
}

impl Maker<'_> {
    /// A command whose reply depends on nothing but data and words.
    pub fn data(&mut self) -> Made {
        let mut made = match self.random.below(100) {
            0..16 => self.set(),
            16..30 => self.strings(),
            30..40 => self.several(),
            40..52 => self.integers(),
            52..57 => self.decimals(),
            57..66 => self.ranges(),
            66..78 => self.expire(),
            78..86 => self.lifetimes(),
            86..95 => self.keys(),
            // A right one among them would be introspection, in which no two servers are the same.
            _ => return self.words_of_connections(),
        };
        self.mistake(&mut made);
        made
    }

    /// Adds, now and then, a word too many or too few, a word without a meaning, or a name in
    /// another case.
    fn mistake(&mut self, made: &mut Made) {
        match self.random.below(60) {
            0 | 1 => {
                made.words.pop();
                if made.words.is_empty() {
                    made.words = words("GET");
                }
            }
            2 => made.words.push(b"extra".to_vec()),
            3 => made.words.truncate(1),
            4 => {
                let word = self.random.bytes(3);
                let index = 1 + self.random.below(made.words.len());
                made.words.insert(index, word);
            }
            5..15 => made.words[0].make_ascii_lowercase(),
            15..18 => made.words[0][0].make_ascii_lowercase(),
            _ => {}
        }
    }

    fn key(&mut self) -> Vec<u8> {
        match self.random.below(40) {
            0 => vec![b'k'; 300],
            1 => self.random.pick(&KEYS).to_ascii_uppercase(),
            // The first few more often.
            2..20 => KEYS[self.random.below(3)].to_vec(),
            _ => self.random.pick(&KEYS).to_vec(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.random.below(20) {
            0 => Vec::new(),
            1 => b"\r\n\x00\xff*3\r\n$".to_vec(),
            2 => {
                let len = self.random.below(100);
                self.random.bytes(len)
            }
            3 if self.random.once_in(4) => {
                let len = self.random.below(70_000);
                self.random.bytes(len)
            }
            4..10 => self.random.pick(&INTEGERS).into(),
            10..14 => self.random.pick(&DECIMALS).into(),
            14 => self.key(),
            _ => format!("value {}", self.random.below(1_000)).into_bytes(),
        }
    }

    fn integer(&mut self) -> Vec<u8> {
        self.random.pick(&INTEGERS).into()
    }

    /// A time that is far away or long over, so that nothing expires between two commands; or no
    /// time at all.
    fn time(&mut self, absolute: bool, milliseconds: bool) -> Vec<u8> {
        if self.random.once_in(6) {
            let mut edges = vec!["0", "-1", "9223372036854775808", "-9223372036854775808", "-9223372036854775807"];
            match (absolute, milliseconds) {
                // For the very last milliseconds, Redis itself gets EXPIRETIME wrong: its sum
                // overflows.
                (true, true) => edges.push("9223372036854775000"),
                // These would be near each other, see below.
                (false, true) => edges.push("9223372036854775807"),
                (_, false) => {
                    edges.extend(["9223372036854775807", "9223372036854775", "9223372036854776", "-9223372036854775", "-9223372036854776"])
                }
            }
            return match self.random.below(3) {
                0 => self.random.pick(&["abc", "", "1.5", "+100", " 100", "0100", "1e3"]).into(),
                _ => self.random.pick(&edges).into(),
            };
        }
        // No two times of a sequence are near each other: GT and LT have to decide the same on both
        // servers.
        let ahead = 1_000 + self.random.below(1_000_000_000) as i64;
        let mut seconds = if absolute { self.now_s + ahead } else { ahead };
        if self.random.once_in(12) {
            seconds = if absolute { self.now_s - ahead } else { -ahead };
        }
        let number = if milliseconds { seconds * 1_000 + self.random.below(1_000) as i64 } else { seconds };
        number.to_string().into_bytes()
    }

    /// Decides whether a time is to be absolute, where a command has both.
    fn absolute(&mut self) -> bool {
        self.times == Times::Absolute || self.random.once_in(2)
    }

    /// SET with any of its options, in any order.
    fn set(&mut self) -> Made {
        let mut command = vec![b"SET".to_vec(), self.key(), self.value()];
        let mut options = Vec::new();
        // Mostly sensible ones; `options.rs` tries all.
        for (name, times) in [("NX", 6), ("XX", 6), ("GET", 5), ("KEEPTTL", 8)] {
            if self.random.once_in(times) {
                options.push(vec![name.as_bytes().to_vec()]);
            }
        }
        while self.random.once_in(3) {
            let option = self.time_option();
            options.push(option);
        }
        self.random.shuffle(&mut options);
        command.extend(options.into_iter().flatten());
        if self.random.once_in(8) {
            command.last_mut().expect("a word").make_ascii_lowercase();
        }
        exact(command)
    }

    /// `EX n` and its kin.
    fn time_option(&mut self) -> Words {
        let absolute = self.absolute();
        let milliseconds = self.random.once_in(2);
        let name = match (absolute, milliseconds) {
            (false, false) => "EX",
            (false, true) => "PX",
            (true, false) => "EXAT",
            (true, true) => "PXAT",
        };
        vec![name.as_bytes().to_vec(), self.time(absolute, milliseconds)]
    }

    fn strings(&mut self) -> Made {
        let (key, value) = (self.key(), self.value());
        match self.random.below(12) {
            0..3 => exact(vec![b"GET".to_vec(), key]),
            3 => exact(vec![b"SETNX".to_vec(), key, value]),
            4 if self.times == Times::Relative => {
                let time = self.time(false, false);
                exact(vec![b"SETEX".to_vec(), key, time, value])
            }
            5 if self.times == Times::Relative => {
                let time = self.time(false, true);
                exact(vec![b"PSETEX".to_vec(), key, time, value])
            }
            6 => exact(vec![b"GETSET".to_vec(), key, value]),
            7 => exact(vec![b"GETDEL".to_vec(), key]),
            8 | 9 => exact(vec![b"APPEND".to_vec(), key, value]),
            10 => exact(vec![b"STRLEN".to_vec(), key]),
            _ => exact(vec![b"GET".to_vec(), key]),
        }
    }

    fn several(&mut self) -> Made {
        let name = self.random.pick(&["MGET", "MSET", "MSETNX", "DEL", "UNLINK", "EXISTS", "TOUCH"]);
        let mut command = words(name);
        for _ in 0..1 + self.random.below(4) {
            command.push(self.key());
            if name.starts_with("MSET") {
                command.push(self.value());
            }
        }
        exact(command)
    }

    fn integers(&mut self) -> Made {
        // Often a counter, so that not all of them are errors.
        let key = if self.random.once_in(2) { b"counter".to_vec() } else { self.key() };
        let number = if self.random.once_in(2) { self.integer() } else { self.random.below(1_000).to_string().into_bytes() };
        match self.random.below(5) {
            0 => exact(vec![b"INCR".to_vec(), key]),
            1 => exact(vec![b"DECR".to_vec(), key]),
            2 => exact(vec![b"INCRBY".to_vec(), key, number]),
            3 => exact(vec![b"DECRBY".to_vec(), key, number]),
            _ => exact(vec![b"SET".to_vec(), key, self.integer()]),
        }
    }

    /// Decimals on a key of their own, which they set before anything else could have grown there:
    /// see `DECIMALS`.
    fn decimals(&mut self) -> Made {
        let key = b"decimal".to_vec();
        match self.random.below(10) {
            0..6 => exact(vec![b"SET".to_vec(), key, self.random.pick(&DECIMALS).into()]),
            6 => exact(vec![b"INCRBYFLOAT".to_vec(), key, self.random.pick(&NOT_FINITE).into()]),
            7 => exact(vec![b"INCRBYFLOAT".to_vec(), self.key(), self.random.pick(&["x", "", "1e", "0.5.5"]).into()]),
            _ => exact(vec![
                b"INCRBYFLOAT".to_vec(),
                key,
                self.random.pick(&["0", "1", "-1", "0.5", "0.25", "-0.125", "3e0", "x", ""]).into(),
            ]),
        }
    }

    fn ranges(&mut self) -> Made {
        let key = self.key();
        let offset = |random: &mut Random| -> Vec<u8> { random.pick(&OFFSETS).into() };
        match self.random.below(5) {
            0 | 1 => exact(vec![b"GETRANGE".to_vec(), key, offset(self.random), offset(self.random)]),
            2 => exact(vec![b"SUBSTR".to_vec(), key, offset(self.random), offset(self.random)]),
            _ => {
                let at = offset(self.random);
                exact(vec![b"SETRANGE".to_vec(), key, at, self.value()])
            }
        }
    }

    fn expire(&mut self) -> Made {
        let absolute = self.absolute();
        let milliseconds = self.random.once_in(2);
        let name = match (absolute, milliseconds) {
            (false, false) => "EXPIRE",
            (false, true) => "PEXPIRE",
            (true, false) => "EXPIREAT",
            (true, true) => "PEXPIREAT",
        };
        let mut command = vec![name.as_bytes().to_vec(), self.key(), self.time(absolute, milliseconds)];
        while self.random.once_in(3) {
            command.push(self.random.pick(&["NX", "XX", "GT", "LT", "nx", "gt", "AB"]).into());
        }
        exact(command)
    }

    fn lifetimes(&mut self) -> Made {
        let key = self.key();
        match self.random.below(8) {
            0 => made(vec![b"TTL".to_vec(), key], Compare::Near(60)),
            1 => made(vec![b"PTTL".to_vec(), key], Compare::Near(60_000)),
            2 => made(vec![b"EXPIRETIME".to_vec(), key], if self.times == Times::Absolute { Compare::Exact } else { Compare::Near(60) }),
            3 => {
                made(vec![b"PEXPIRETIME".to_vec(), key], if self.times == Times::Absolute { Compare::Exact } else { Compare::Near(60_000) })
            }
            4 | 5 => exact(vec![b"PERSIST".to_vec(), key]),
            _ => {
                let mut command = vec![b"GETEX".to_vec(), key];
                while self.random.once_in(2) {
                    if self.random.once_in(4) {
                        command.push(self.random.pick(&["PERSIST", "persist", "KEEPTTL", "NX", "GET"]).into());
                    } else {
                        command.extend(self.time_option());
                    }
                }
                exact(command)
            }
        }
    }

    fn keys(&mut self) -> Made {
        const PATTERNS: [&[u8]; 21] = [
            b"*",
            b"",
            b"a",
            b"key:*",
            b"key:?",
            b"k*1",
            b"*e*",
            b"[ab]",
            b"[^a]",
            b"[a-c]*",
            b"[c-a]",
            b"[a-",
            b"h\\[a-c\\]llo\\*\\?",
            b"h[[]*",
            b"**",
            b"?",
            b"\\",
            b"[]",
            b"\x00*",
            b"*\r\n*",
            b"*words",
        ];
        let key = self.key();
        match self.random.below(12) {
            0 | 1 => exact(vec![b"RENAME".to_vec(), key, self.key()]),
            2 => exact(vec![b"RENAMENX".to_vec(), key, self.key()]),
            3 => exact(vec![b"TYPE".to_vec(), key]),
            4 => exact(words("DBSIZE")),
            5 | 6 => made(vec![b"KEYS".to_vec(), self.random.pick(&PATTERNS).to_vec()], Compare::Unordered),
            7 => made(words("RANDOMKEY"), Compare::AnyKey),
            8 if self.random.once_in(2) => exact(words(self.random.pick(&[
                "FLUSHALL",
                "FLUSHDB",
                "FLUSHALL ASYNC",
                "FLUSHDB sync",
                "FLUSHALL NOW",
                "FLUSHDB ASYNC SYNC",
            ]))),
            9 => {
                let wrong = [
                    "SCAN abc",
                    "SCAN 1x",
                    "SCAN 0 COUNT 0",
                    "SCAN 0 COUNT -1",
                    "SCAN 0 COUNT abc",
                    "SCAN 0 MATCH",
                    "SCAN 0 FOO 1",
                    "SCAN 0 COUNT",
                    "SCAN",
                ];
                made(words(self.random.pick(&wrong)), Compare::ScanStep)
            }
            10 => made(vec![b"SCAN".to_vec(), b"0".to_vec(), b"MATCH".to_vec(), self.random.pick(&PATTERNS).to_vec()], Compare::ScanStep),
            _ => exact(vec![b"EXISTS".to_vec(), key]),
        }
    }

    /// Commands that concern no key: unknown names, and words about the connection.
    fn words_of_connections(&mut self) -> Made {
        const LINES: [&str; 49] = [
            "PING",
            "PING hello",
            "PING two words",
            "ECHO",
            "ECHO hello",
            "ECHO two words",
            "TIME now",
            "SELECT 0",
            "SELECT 1",
            "SELECT -1",
            "SELECT abc",
            "SELECT",
            "SELECT 99999999999999999999",
            "AUTH",
            "AUTH secret",
            "AUTH default secret",
            "AUTH nobody secret",
            "AUTH a b c",
            "HELLO 4",
            "HELLO 1",
            "HELLO abc",
            "HELLO 99999999999999999999",
            "HELLO 2 FOO",
            "HELLO 3 AUTH nobody",
            "HELLO 3 SETNAME",
            "HELLO 3 AUTH nobody secret",
            "CLIENT",
            "CLIENT ID x",
            "CLIENT GETNAME",
            "CLIENT GETNAME x",
            "CLIENT SETNAME me",
            "CLIENT SETNAME",
            "CLIENT NOSUCH",
            "CLIENT KILL",
            "CLIENT KILL 127.0.0.1:1",
            "CLIENT NO-EVICT maybe",
            "COMMAND NOSUCH",
            "COMMAND COUNT x",
            "CONFIG",
            "CONFIG GET",
            "CONFIG NOSUCH x",
            "OBJECT",
            "OBJECT ENCODING",
            "OBJECT NOSUCH a",
            "MEMORY USAGE",
            "MEMORY NOSUCH",
            "WAIT 0 0",
            "WAIT 1 1",
            "UNWATCH x",
        ];
        match self.random.below(12) {
            0 => {
                let mut command = words(self.random.pick(&["FOO", "nosuchcommand", "GETT", "SE", "SETX", "\u{e9}t\u{e9}"]));
                for _ in 0..self.random.below(5) {
                    let word = if self.random.once_in(3) { vec![b'x'; self.random.below(200)] } else { self.key() };
                    command.push(word);
                }
                exact(command)
            }
            1 => exact(vec![self.value(), self.value()]),
            2 => exact(vec![b"ECHO".to_vec(), self.value()]),
            3 => exact(vec![b"CLIENT".to_vec(), b"SETNAME".to_vec(), self.key()]),
            4 => exact(words(self.random.pick(&["WAIT", "WAIT x 1", "WAIT 0 x", "WAIT 0 -1", "WAIT 0 1.5"]))),
            _ => exact(words(self.random.pick(&LINES))),
        }
    }

    /// Commands that begin, end or concern a transaction.
    pub fn transaction(&mut self) -> Made {
        if self.in_multi {
            return match self.random.below(12) {
                0 => exact(words(self.random.pick(&["MULTI", "RESET"]))),
                1 => exact(vec![b"WATCH".to_vec(), self.key()]),
                2 => exact(words("DISCARD")),
                3 => exact(words("UNWATCH")),
                4 => exact(words("EXEC now")),
                _ => made(words("EXEC"), Compare::Queued),
            };
        }
        match self.random.below(16) {
            0 => made(words("EXEC"), Compare::Queued),
            1 => exact(words("DISCARD")),
            2 => exact(words("UNWATCH")),
            3 => exact(words("MULTI x")),
            4 => exact(words("WATCH")),
            5 => exact(words("RESET")),
            6..10 => exact(vec![b"WATCH".to_vec(), self.key(), self.key()]),
            _ => exact(words("MULTI")),
        }
    }
}

/// All keys of the random commands. Naming them makes Redis notice those that have expired.
pub fn all_keys() -> Words {
    let mut keys: Words = KEYS.iter().flat_map(|key| [key.to_vec(), key.to_ascii_uppercase()]).collect();
    keys.extend([vec![b'k'; 300], b"decimal".to_vec(), b"extra".to_vec()]);
    keys
}

pub fn exact(words: Words) -> Made {
    made(words, Compare::Exact)
}

fn made(words: Words, compare: Compare) -> Made {
    Made { words, compare }
}
