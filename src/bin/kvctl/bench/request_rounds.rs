//! Rounds of requests in either protocol, copied from templates into one buffer that is reused.

use kvmesh::wire::resp::encoding::request;

use crate::command_line::{BenchArgs, BenchProtocol};

/// All keys have so many digits, so that a request's length does not depend on its key.
const KEY_DIGITS: usize = 10;
/// Bytes of a round that fills keys, before any is read.
const FILL_ROUND_LEN: usize = 64 << 10;
/// The time-out of each WAIT, in milliseconds.
pub const WAIT_MS: u64 = 1_000;

/// One request, complete but for the digits of its key.
struct Template {
    bytes: Vec<u8>,
    digits_at: usize,
}

impl Template {
    /// `verb key` or `verb key value`, in words that need no quotes.
    fn new(protocol: BenchProtocol, verb: &str, key: &str, value: Option<&str>) -> Template {
        let words: Vec<&str> = [verb, key].into_iter().chain(value).collect();
        let mut bytes = Vec::new();
        // The digits are the last bytes of the key. Behind them come the value and the end of the
        // request.
        let behind = match protocol {
            BenchProtocol::Text => {
                bytes.extend_from_slice(words.join(" ").as_bytes());
                bytes.push(b'\n');
                value.map_or(0, |value| value.len() + " ".len()) + "\n".len()
            }
            BenchProtocol::Resp => {
                request(&words, &mut bytes);
                let value = value.map_or(0, |value| format!("${}\r\n{value}\r\n", value.len()).len());
                value + "\r\n".len()
            }
        };
        Template { digits_at: bytes.len() - behind - KEY_DIGITS, bytes }
    }
}

/// Makes rounds of requests, in one buffer.
pub struct RequestRounds {
    write: Template,
    read: Template,
    /// The bytes behind every write of a round: none, or a WAIT.
    behind_write: Vec<u8>,
    keys: u64,
    /// How many of a hundred commands are reads.
    reads_percent: u64,
    /// Draws the next key.
    random: fastrand::Rng,
    pub round: Vec<u8>,
    /// For each operation of the round, true if it reads.
    pub reads: Vec<bool>,
}

impl RequestRounds {
    pub fn new(args: &BenchArgs, index: usize) -> RequestRounds {
        let key = format!("key:{}", "0".repeat(KEY_DIGITS));
        let value = "v".repeat(args.value_size.0);
        let put = match args.protocol {
            BenchProtocol::Text => "PUT",
            BenchProtocol::Resp => "SET",
        };
        let mut behind_write = Vec::new();
        if let Some(replicas) = args.wait {
            request(&["WAIT", &replicas.0.to_string(), &WAIT_MS.to_string()], &mut behind_write);
        }
        RequestRounds {
            write: Template::new(args.protocol, put, &key, Some(&value)),
            read: Template::new(args.protocol, "GET", &key, None),
            behind_write,
            keys: args.keys.0 as u64,
            reads_percent: args.reads.0 as u64,
            random: fastrand::Rng::with_seed(index as u64),
            round: Vec::new(),
            reads: vec![false; args.depth.0],
        }
    }

    pub fn next_round(&mut self) {
        self.round.clear();
        for place in 0..self.reads.len() {
            let is_read = self.random.u64(..100) < self.reads_percent;
            let key = self.random.u64(..self.keys);
            self.reads[place] = is_read;
            self.push(is_read, key);
            if !is_read {
                self.round.extend_from_slice(&self.behind_write);
            }
        }
    }

    /// Makes a round that writes the next of `keys`. Returns how many.
    pub fn fill(&mut self, keys: &mut impl Iterator<Item = u64>) -> usize {
        self.round.clear();
        let len = (FILL_ROUND_LEN / self.write.bytes.len()).max(1);
        keys.take(len).map(|key| self.push(false, key)).count()
    }

    fn push(&mut self, is_read: bool, mut key: u64) {
        let template = if is_read { &self.read } else { &self.write };
        let begin = self.round.len() + template.digits_at;
        self.round.extend_from_slice(&template.bytes);
        let digits = &mut self.round[begin..begin + KEY_DIGITS];
        // The digits in front of the first that is not 0 are correct already.
        for digit in digits.iter_mut().rev() {
            if key == 0 {
                break;
            }
            *digit = b'0' + (key % 10) as u8;
            key /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::default_args;
    use crate::command_line::Bounded;

    fn asked(protocol: BenchProtocol, reads: usize, keys: usize) -> BenchArgs {
        BenchArgs { protocol, reads: Bounded(reads), keys: Bounded(keys), depth: Bounded(1000), value_size: Bounded(3), ..default_args() }
    }

    /// The words of each request.
    fn requests_in(protocol: BenchProtocol, bytes: &[u8]) -> Vec<Vec<String>> {
        let text = std::str::from_utf8(bytes).unwrap();
        if protocol == BenchProtocol::Text {
            return text.lines().map(|line| line.split(' ').map(str::to_string).collect()).collect();
        }
        let mut lines = text.split_terminator("\r\n");
        let mut found = Vec::new();
        while let Some(head) = lines.next() {
            let words = head.strip_prefix('*').unwrap().parse().unwrap();
            let mut word = || {
                let len = lines.next().unwrap().strip_prefix('$').unwrap().parse::<usize>().unwrap();
                lines.next().filter(|word| word.len() == len).unwrap().to_string()
            };
            found.push((0..words).map(|_| word()).collect());
        }
        found
    }

    #[test]
    fn a_round_holds_what_it_says_in_both_protocols() {
        for (protocol, write) in [(BenchProtocol::Text, "PUT"), (BenchProtocol::Resp, "SET")] {
            let mut requests = RequestRounds::new(&asked(protocol, 30, 7), 0);
            requests.next_round();
            let found = requests_in(protocol, &requests.round);
            assert_eq!(found.len(), 1000);
            for (words, is_read) in found.iter().zip(&requests.reads) {
                assert_eq!(words[0], if *is_read { "GET" } else { write });
                let digits = words[1].strip_prefix("key:").unwrap();
                assert!(digits.len() == KEY_DIGITS && digits.parse::<u64>().unwrap() < 7, "{digits}");
                assert_eq!(words.get(2).map(String::as_str), (!is_read).then_some("vvv"));
            }
        }
    }

    #[test]
    fn so_many_of_a_hundred_read() {
        for percent in [0, 1, 50, 90, 100] {
            let mut requests = RequestRounds::new(&asked(BenchProtocol::Resp, percent, 100), 3);
            let mut reads = 0;
            for _ in 0..100 {
                requests.next_round();
                reads += requests.reads.iter().filter(|is_read| **is_read).count();
            }
            // In 100 000 draws; the widest standard deviation is 158.
            let expected = percent * 1000;
            let allowed = if percent % 100 == 0 { 0 } else { 1_000 };
            assert!(reads.abs_diff(expected) <= allowed, "{percent} %: {reads}");
        }
    }

    #[test]
    fn every_write_of_a_round_is_followed_by_its_wait_and_no_read_is() {
        let mut requests = RequestRounds::new(&BenchArgs { wait: Some(Bounded(2)), ..asked(BenchProtocol::Resp, 50, 7) }, 0);
        requests.next_round();
        let found = requests_in(BenchProtocol::Resp, &requests.round);
        let mut found = found.iter();
        for is_read in &requests.reads {
            assert_eq!(found.next().unwrap()[0], if *is_read { "GET" } else { "SET" });
            if !is_read {
                assert_eq!(found.next().unwrap(), &["WAIT", "2", "1000"]);
            }
        }
        assert_eq!(found.next(), None);
        // A write that fills a key is followed by no WAIT.
        assert_eq!(requests.fill(&mut (0..3)), 3);
        assert_eq!(requests_in(BenchProtocol::Resp, &requests.round).len(), 3);
    }

    #[test]
    fn filling_writes_every_key_once() {
        for protocol in [BenchProtocol::Text, BenchProtocol::Resp] {
            let mut requests = RequestRounds::new(&asked(protocol, 1, 10_000), 0);
            let mut keys = (0..10_000).peekable();
            let mut written = Vec::new();
            while keys.peek().is_some() {
                let len = requests.fill(&mut keys);
                let found = requests_in(protocol, &requests.round);
                assert_eq!(found.len(), len);
                assert!(requests.round.len() <= FILL_ROUND_LEN);
                written.extend(found.iter().map(|words| words[1].strip_prefix("key:").unwrap().parse::<u64>().unwrap()));
            }
            assert_eq!(written, (0..10_000).collect::<Vec<_>>());
        }
    }
}
