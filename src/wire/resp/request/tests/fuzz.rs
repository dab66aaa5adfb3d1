//! Parsers on what no client should send: valid requests, spoilt at random.
//!
//! `KVMESH_FUZZ_SECONDS=600 cargo test --release --lib parsers_survive_anything -- --nocapture`
//! goes on for longer; `KVMESH_SEED` repeats the inputs of an earlier run, in their order.

use std::time::{Duration, Instant};

use super::*;
use crate::wire::text;

/// The parsers that are given every input.
const PARSERS: [(&str, Feed); 2] = [("RESP", feed_resp), ("text", feed_text)];

/// Gives a parser an input up to each of these ends, one after the other, the last of which is the
/// input's, and tells what it made of it.
type Feed = fn(input: &[u8], ends: &[usize], limits: &Limits) -> Vec<Outcome>;

/// The result of parsing some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Taken {
        words: Owned,
        consumed: usize,
    },
    Fatal {
        sentence: String,
    },
    /// So many bytes remain, for more to come or for another protocol.
    Left(usize),
}

/// Has a parser take all requests of its protocol, while the input comes in pieces. It returns
/// `None` where one is incomplete.
fn feed(input: &[u8], ends: &[usize], is_resp: bool, mut parse: impl FnMut(&[u8]) -> Option<Outcome>) -> Vec<Outcome> {
    let (mut start, mut outcomes) = (0, Vec::new());
    for end in ends {
        // The first byte of each request tells its protocol.
        while start < *end && (input[start] == b'*') == is_resp {
            let Some(outcome) = parse(&input[start..*end]) else { break };
            let Outcome::Taken { consumed, .. } = outcome else {
                outcomes.push(outcome);
                return outcomes;
            };
            assert!(consumed > 0, "nothing was taken");
            start += consumed;
            outcomes.push(outcome);
        }
    }
    outcomes.push(Outcome::Left(input.len() - start));
    outcomes
}

fn feed_resp(input: &[u8], ends: &[usize], limits: &Limits) -> Vec<Outcome> {
    let mut partial = Partial::default();
    feed(input, ends, true, |bytes| {
        let outcome = match parse(bytes, &mut partial, limits) {
            ParsedWords::Incomplete => None,
            ParsedWords::Empty { consumed } => Some(Outcome::Taken { words: Vec::new(), consumed }),
            ParsedWords::Request { words, consumed } => {
                Some(Outcome::Taken { words: words.iter().map(<[u8]>::to_vec).collect(), consumed })
            }
            ParsedWords::Fatal { wrong } => Some(Outcome::Fatal { sentence: wrong.sentence }),
        };
        // What is seen early is what the parser finds.
        if let Some((key, len)) = peek_key(bytes) {
            assert!(matches!(&outcome, Some(Outcome::Taken { words, consumed }) if words[1] == key && *consumed == len), "{outcome:?}");
        }
        outcome
    })
}

fn feed_text(input: &[u8], ends: &[usize], limits: &Limits) -> Vec<Outcome> {
    let mut scanned = 0;
    feed(input, ends, false, |bytes| {
        let (words, consumed) = match text::parse(bytes, std::mem::take(&mut scanned), limits, || 0) {
            text::ParsedLine::Incomplete { scanned: so_far } => {
                scanned = so_far;
                return None;
            }
            text::ParsedLine::Empty { consumed } => (Vec::new(), consumed),
            text::ParsedLine::Request { request, consumed, .. } => (vec![format!("{request:?}").into_bytes()], consumed),
            text::ParsedLine::Wrong { wrong, consumed } => (vec![wrong.sentence.into_bytes()], consumed),
            text::ParsedLine::Fatal { wrong } => return Some(Outcome::Fatal { sentence: wrong.code.to_string() }),
        };
        Some(Outcome::Taken { words, consumed })
    })
}

#[test]
fn parsers_survive_anything() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")));
    let seed = number("KVMESH_SEED").unwrap_or_else(|| fastrand::u64(..));
    let time = Duration::from_secs(number("KVMESH_FUZZ_SECONDS").unwrap_or(2));
    println!("KVMESH_SEED={seed}");
    let (mut random, begin) = (Random(fastrand::Rng::with_seed(seed)), Instant::now());
    let (mut inputs, mut taken, mut fatal, mut left) = (0_u64, 0_u64, 0_u64, 0_u64);
    while begin.elapsed() < time {
        let input = random.input();
        let ends = random.ends(input.len());
        let limits = [LIMITS, Limits { key_len_max: 10, value_len_max: 20 }][random.below(2)];
        inputs += 1;
        for (name, feed) in PARSERS {
            let whole = feed(&input, &[input.len()], &limits);
            let pieces = feed(&input, &ends, &limits);
            assert!(whole == pieces, "{name}, input {inputs}, {} split at {ends:?}: {pieces:?}, but whole {whole:?}", input.escape_ascii());
            for outcome in &whole {
                match outcome {
                    Outcome::Taken { .. } => taken += 1,
                    Outcome::Fatal { .. } => fatal += 1,
                    Outcome::Left(_) => left += 1,
                }
            }
        }
    }
    println!("{inputs} inputs: {taken} requests taken, {fatal} inputs refused, {left} not");
    assert!(taken > 0 && fatal > 0 && left > 0, "the inputs are all of one kind");
}

/// Inputs that random ones seldom come near.
#[test]
fn bounds_do_not_move_with_the_pieces() {
    let tight = Limits { key_len_max: 10, value_len_max: 20 };
    let lines =
        [65_533, 65_534, 65_535, 65_536, 65_537, 65_538, 80_000].map(|digits| format!("*1\r\n${}\r\n", "1".repeat(digits)).into_bytes());
    let long = encoded(&vec![vec![b'x'; 60_000]; 20]);
    for input in lines.iter().chain([&long]) {
        let whole = feed_resp(input, &[input.len()], &tight);
        assert!(matches!(whole[..], [Outcome::Fatal { .. }]));
        for split in (0..input.len()).step_by(30_000).chain(input.len() - 8..input.len()) {
            assert_eq!(feed_resp(input, &[split, input.len()], &tight), whole, "{} bytes split at {split}", input.len());
        }
    }
}

/// Makes inputs, the same ones from the same seed.
struct Random(fastrand::Rng);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0.usize(..bound)
    }

    fn one_of<'a>(&mut self, choices: &[&'a [u8]]) -> &'a [u8] {
        choices[self.below(choices.len())]
    }

    /// Some requests, as often as not spoilt.
    fn input(&mut self) -> Vec<u8> {
        let mut input = Vec::new();
        for _ in 0..=self.below(4) {
            self.add_request(&mut input);
        }
        for _ in 0..self.below(8) / 2 {
            self.spoil(&mut input);
        }
        input
    }

    /// Parses bytes in either protocol.
    fn add_request(&mut self, out: &mut Vec<u8>) {
        const VERBS: [&[u8]; 12] =
            [b"GET", b"set", b"DEL", b"PING", b"MSET", b"HELLO", b"EXPIRE", b"CLIENT", b"KEYS", b"DIGEST", b"", b"\xff"];
        let mut words = vec![self.one_of(&VERBS).to_vec()];
        for _ in 0..self.below(5) {
            words.push(self.word());
        }
        match self.below(4000) {
            // Too long as a whole, with the tighter limits.
            0 => encoding::request(&vec![vec![b'x'; 60_000]; 20], out),
            1 => encoding::request(&vec![b"x"; 5000], out),
            2..1600 => {
                out.extend(words.join(&b' '));
                out.extend_from_slice(b"\r\n");
            }
            _ => encoding::request(&words, out),
        }
    }

    fn word(&mut self) -> Vec<u8> {
        let len = match self.below(2000) {
            // About the least bound of a bulk, and of a line.
            0 => 65_530 + self.below(20),
            1..100 => self.below(1000),
            _ => self.below(12),
        };
        let alphabet: &[u8] = self.one_of(&[b"abc", b"\r\n", b"$*1\r\n", b"0123456789", b"\" \\x\n", b"\0\x7f\x80\xff"]);
        (0..len).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }

    fn spoil(&mut self, input: &mut Vec<u8>) {
        const PIECES: [&[u8]; 14] =
            [b"\r", b"\n", b"\r\n", b"*", b"$", b"*0\r\n", b"*-1\r\n", b"*1\r\n", b"$0\r\n\r\n", b"$-1\r\n", b"-", b"0", b" ", b"\0"];
        let at = self.below(input.len() + 1);
        let end = input.len().min(at + 1 + self.below(8));
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 => input.truncate(at),
            2 => drop(input.drain(at..end)),
            3 => {
                let copy = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            4 => {
                let mut other = Vec::new();
                self.add_request(&mut other);
                let from = self.below(other.len());
                input.splice(at..end, other.drain(from..));
            }
            5 => drop(input.splice(at..at, self.one_of(&PIECES).iter().copied())),
            _ => self.spoil_length(input, at),
        }
    }

    /// Puts another number behind the first `*` or `$` from there on.
    fn spoil_length(&mut self, input: &mut Vec<u8>, from: usize) {
        const NUMBERS: [&[u8]; 16] = [
            b"",
            b"0",
            b"1",
            b"2",
            b"3",
            b"5",
            b"12",
            b"-1",
            b"-2",
            b"+1",
            b"01",
            b"65536",
            b"65537",
            b"2147483648",
            b"9223372036854775807",
            b"18446744073709551616",
        ];
        let Some(mark) = input[from..].iter().position(|byte| matches!(byte, b'*' | b'$')) else { return };
        let start = from + mark + 1;
        let len = input[start..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'-').count();
        let number = match self.below(40) {
            0 => vec![b'1'; 65_530 + self.below(10)],
            _ => self.one_of(&NUMBERS).to_vec(),
        };
        input.splice(start..start + len, number);
    }

    /// The ends of the pieces of an input, the last with it.
    fn ends(&mut self, len: usize) -> Vec<usize> {
        let mut ends: Vec<usize> = match self.below(4) {
            0 if len < 2000 => (0..len).collect(),
            _ => (0..self.below(12)).map(|_| self.below(len + 1)).collect(),
        };
        ends.sort_unstable();
        ends.push(len);
        ends
    }
}
