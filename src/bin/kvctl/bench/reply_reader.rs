//! Replies, compared where they were read.

use kvmesh::client::{self, Client};

use crate::command_line::{BenchArgs, BenchProtocol};

use super::measurements::ErrorCounts;

/// The result of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyVerdict {
    Done,
    /// The reply was not as expected, and is counted.
    Refused,
    /// The reply was not as expected, and where the next one begins is unknown: the connection is
    /// of no further use.
    Astray,
}

pub struct ReplyReader {
    protocol: BenchProtocol,
    /// The number of replicas that each write waits for.
    wait: Option<u64>,
}

impl ReplyReader {
    pub fn new(args: &BenchArgs) -> ReplyReader {
        ReplyReader { protocol: args.protocol, wait: args.wait.map(|wait| wait.0 as u64) }
    }

    /// Reads all replies of one operation. An operation is counted once, whatever is wrong with it.
    // Called for each operation, from another codegen unit.
    #[inline]
    pub fn read(&self, client: &mut Client, is_read: bool, errors: &mut ErrorCounts) -> Result<ReplyVerdict, client::Error> {
        match (self.protocol, is_read) {
            (BenchProtocol::Text, _) => {
                let line = client.line()?;
                let expected = if is_read { line.starts_with(b"VALUE ") } else { line == b"OK" };
                if expected {
                    return Ok(ReplyVerdict::Done);
                }
                errors.count(error_code(line), 1);
                Ok(ReplyVerdict::Refused)
            }
            (BenchProtocol::Resp, true) => value(client, errors),
            (BenchProtocol::Resp, false) => self.written(client, errors),
        }
    }

    fn written(&self, client: &mut Client, errors: &mut ErrorCounts) -> Result<ReplyVerdict, client::Error> {
        let line = client.line()?;
        let written = if line == b"+OK" { ReplyVerdict::Done } else { refused(line, errors) };
        let Some(wanted) = self.wait.filter(|_| written != ReplyVerdict::Astray) else { return Ok(written) };
        let line = client.line()?;
        let held = line.strip_prefix(b":").and_then(number);
        match (written, held) {
            (ReplyVerdict::Done, Some(held)) if held >= wanted => Ok(ReplyVerdict::Done),
            (ReplyVerdict::Done, Some(_)) => {
                errors.count("SHORT", 1);
                Ok(ReplyVerdict::Refused)
            }
            (ReplyVerdict::Done, None) => Ok(refused(line, errors)),
            _ => Ok(if is_one_line(line) { ReplyVerdict::Refused } else { ReplyVerdict::Astray }),
        }
    }
}

fn value(client: &mut Client, errors: &mut ErrorCounts) -> Result<ReplyVerdict, client::Error> {
    let line = client.line()?;
    if line == b"$-1" {
        errors.count("NOTFOUND", 1);
        return Ok(ReplyVerdict::Refused);
    }
    match line.strip_prefix(b"$").and_then(number) {
        Some(len) => client.bytes((len as usize).saturating_add(b"\r\n".len())).map(|_| ReplyVerdict::Done),
        None => Ok(refused(line, errors)),
    }
}

fn refused(line: &[u8], errors: &mut ErrorCounts) -> ReplyVerdict {
    errors.count(error_code(line), 1);
    if is_one_line(line) { ReplyVerdict::Refused } else { ReplyVerdict::Astray }
}

/// True if this line is a complete reply in RESP: a status, an error, a number or null.
fn is_one_line(line: &[u8]) -> bool {
    matches!(line.first(), Some(b'+' | b'-' | b':' | b'_'))
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The first word of an error, in either protocol.
fn error_code(line: &[u8]) -> &str {
    const CODE_LEN_MAX: usize = 32;
    let reply = line.strip_prefix(b"ERROR ").or_else(|| line.strip_prefix(b"-"));
    let code = reply.and_then(|reply| reply.split(|byte| *byte == b' ').next());
    let code = code.filter(|code| (1..=CODE_LEN_MAX).contains(&code.len()) && code.iter().all(u8::is_ascii_uppercase));
    code.and_then(|code| std::str::from_utf8(code).ok()).unwrap_or("UNEXPECTED")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::default_args;
    use crate::command_line::Bounded;
    use crate::scripted_node::scripted;
    use ReplyVerdict::{Astray, Done, Refused};
    use std::time::Duration;

    /// Reads the replies of as many operations as there are verdicts, and returns the errors.
    fn verdicts(asked: &BenchArgs, reply: &str, is_read: bool, expected: &[ReplyVerdict]) -> Vec<(String, u64)> {
        let addr = scripted(&[("go", reply)]);
        let mut client = Client::connect(&[addr], Duration::from_secs(10)).unwrap();
        client.send(b"go\n").unwrap();
        let (replies, mut errors) = (ReplyReader::new(asked), ErrorCounts::default());
        let found: Vec<_> = expected.iter().map(|_| replies.read(&mut client, is_read, &mut errors).unwrap()).collect();
        assert_eq!(found, expected, "{reply:?}");
        errors.iter().map(|(code, count)| (code.to_string(), count)).collect()
    }

    fn one(code: &str) -> Vec<(String, u64)> {
        vec![(code.to_string(), 1)]
    }

    fn resp(wait: Option<usize>) -> BenchArgs {
        BenchArgs { protocol: BenchProtocol::Resp, wait: wait.map(Bounded), ..default_args() }
    }

    #[test]
    fn text_is_judged_by_the_line() {
        assert_eq!(verdicts(&default_args(), "OK\r\nERROR FULL x\r\nOK\r\n", false, &[Done, Refused, Done]), one("FULL"));
        assert_eq!(verdicts(&default_args(), "VALUE 1\nOK\n", true, &[Done, Refused]), one("UNEXPECTED"));
    }

    #[test]
    fn resp_is_judged_by_the_reply() {
        assert_eq!(verdicts(&resp(None), "+OK\r\n-OOM x\r\n+OK\r\n", false, &[Done, Refused, Done]), one("OOM"));
        assert_eq!(verdicts(&resp(None), "$3\r\na\nb\r\n$-1\r\n$0\r\n\r\n", true, &[Done, Refused, Done]), one("NOTFOUND"));
        assert_eq!(verdicts(&resp(None), "-WRONGTYPE x\r\n$1\r\n2\r\n", true, &[Refused, Done]), one("WRONGTYPE"));
        assert_eq!(verdicts(&resp(None), "+OK\r\n*2\r\n", false, &[Done, Astray]), one("UNEXPECTED"));
        assert_eq!(verdicts(&resp(None), "ERROR BUSY x\r\n", false, &[Astray]), one("BUSY"));
        assert_eq!(verdicts(&resp(None), "$x\r\n", true, &[Astray]), one("UNEXPECTED"));
    }

    #[test]
    fn a_write_and_its_wait_are_one_operation() {
        let all = "+OK\r\n:2\r\n+OK\r\n:3\r\n+OK\r\n:1\r\n+OK\r\n:2\r\n";
        assert_eq!(verdicts(&resp(Some(2)), all, false, &[Done, Done, Refused, Done]), one("SHORT"));
        // Counted once: the write failed, and the next operation is read from where it begins.
        assert_eq!(verdicts(&resp(Some(2)), "-NOREPLICAS x\r\n:0\r\n+OK\r\n:2\r\n", false, &[Refused, Done]), one("NOREPLICAS"));
        assert_eq!(
            verdicts(&resp(Some(2)), "-ERR x\r\n-ERR y\r\n+OK\r\n-ERR z\r\n", false, &[Refused, Refused]),
            vec![("ERR".to_string(), 2)]
        );
        assert_eq!(verdicts(&resp(Some(2)), "+OK\r\n*1\r\n", false, &[Astray]), one("UNEXPECTED"));
    }

    #[test]
    fn errors_are_told_by_their_code() {
        assert_eq!(error_code(b"ERROR NOQUORUM 1 of 3 members counts"), "NOQUORUM");
        assert_eq!(error_code(b"ERROR FULL"), "FULL");
        assert_eq!(error_code(b"-NOREPLICAS x"), "NOREPLICAS");
        for odd in [&b"VALUE 1"[..], b"", b"-", b"ERROR ", b"-1", b"-\xff"] {
            assert_eq!(error_code(odd), "UNEXPECTED", "{odd:?}");
        }
    }
}
