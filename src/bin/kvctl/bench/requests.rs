//! Rounds of requests, copied from templates into one buffer that is reused.

use crate::usage::Bench;

/// All keys have this many digits, so that a request's length does not depend on its key.
const KEY_DIGITS: usize = 10;
/// What the keys are written with before any is read: rounds of at most so many bytes.
const FILL_ROUND_LEN: usize = 64 << 10;

/// Makes rounds of requests, in one buffer.
pub struct Requests {
    put: Vec<u8>,
    get: Vec<u8>,
    keys: u64,
    /// Of a hundred.
    reads_percent: u64,
    /// xorshift64*: which key is next.
    random: u64,
    pub round: Vec<u8>,
    /// Of each command of the round, whether it reads.
    pub reads: Vec<bool>,
}

/// Where the digits of the key begin, in both templates.
const DIGITS_AT: usize = "PUT key:".len();

impl Requests {
    pub fn new(bench: &Bench, index: usize) -> Requests {
        let zeros = "0".repeat(KEY_DIGITS);
        // The empty value must be quoted.
        let value = if bench.value_size.0 == 0 { "\"\"".to_string() } else { "v".repeat(bench.value_size.0) };
        Requests {
            put: format!("PUT key:{zeros} {value}\n").into_bytes(),
            get: format!("GET key:{zeros}\n").into_bytes(),
            keys: bench.keys.0 as u64,
            reads_percent: bench.reads.0 as u64,
            // Never 0, and far apart for neighbours.
            random: (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            round: Vec::new(),
            reads: vec![false; bench.depth.0],
        }
    }

    pub fn next_round(&mut self) {
        self.round.clear();
        for place in 0..self.reads.len() {
            let is_read = self.next_random() % 100 < self.reads_percent;
            let key = self.next_random() % self.keys;
            self.reads[place] = is_read;
            self.push(is_read, key);
        }
    }

    /// A round that writes the next of `keys`; returns how many.
    pub fn fill(&mut self, keys: &mut impl Iterator<Item = u64>) -> usize {
        self.round.clear();
        let len = (FILL_ROUND_LEN / self.put.len()).max(1);
        keys.take(len).map(|key| self.push(false, key)).count()
    }

    fn push(&mut self, is_read: bool, mut key: u64) {
        let begin = self.round.len() + DIGITS_AT;
        self.round.extend_from_slice(if is_read { &self.get } else { &self.put });
        for digit in self.round[begin..begin + KEY_DIGITS].iter_mut().rev() {
            *digit = b'0' + (key % 10) as u8;
            key /= 10;
        }
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::{Bounded, Seconds};
    use std::time::Duration;

    fn bench(reads: usize, keys: usize) -> Bench {
        Bench {
            clients: Bounded(1),
            depth: Bounded(1000),
            seconds: Seconds(Duration::from_secs(1)),
            keys: Bounded(keys),
            value_size: Bounded(3),
            reads: Bounded(reads),
        }
    }

    #[test]
    fn a_round_holds_what_it_says() {
        let mut requests = Requests::new(&bench(30, 7), 0);
        requests.next_round();
        let text = String::from_utf8(requests.round.clone()).unwrap();
        assert_eq!(text.lines().count(), 1000);
        for (line, is_read) in text.lines().zip(&requests.reads) {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words[0] == "GET", *is_read);
            assert!(words[1].strip_prefix("key:").unwrap().parse::<u64>().unwrap() < 7);
            assert_eq!(words.get(2).copied(), (!is_read).then_some("vvv"));
        }
        let reads = requests.reads.iter().filter(|is_read| **is_read).count();
        assert!((200..400).contains(&reads), "{reads}");
    }

    #[test]
    fn filling_writes_every_key_once() {
        let mut requests = Requests::new(&bench(1, 10_000), 0);
        let mut keys = (0..10_000).peekable();
        let mut written = Vec::new();
        while keys.peek().is_some() {
            let len = requests.fill(&mut keys);
            let text = String::from_utf8(requests.round.clone()).unwrap();
            assert_eq!(text.lines().count(), len);
            assert!(text.len() <= FILL_ROUND_LEN);
            written.extend(text.lines().map(|line| line["PUT key:".len()..][..KEY_DIGITS].parse::<u64>().unwrap()));
        }
        assert_eq!(written, (0..10_000).collect::<Vec<_>>());
    }
}
