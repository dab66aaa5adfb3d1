//! Subcommands that send one request and print its reply: `kvctl get`, `set`, `keys`, … The next
//! node is tried only where that cannot write twice.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use kvmesh::client::{self, Client, as_digest, as_key, as_value, unexpected};
use kvmesh::config::VALUE_LEN_MAX;
use kvmesh::wire::dump::DumpReader;
use kvmesh::wire::text::{RequestLine, Verb};

use crate::atomic_file::AtomicFile;
use crate::command_line::{BackupArgs, DelArgs, ExistsArgs, GetArgs, KeysArgs};
use crate::json::{peer, put_bytes, report as report_as_json};
use crate::progress_line::ProgressLine;
use crate::terminal::{Stdout, TerminalOut, print_lines};
use crate::{Code, Failure, Options, after};

/// Bytes of a value on stdin; a longer one is not read, since no server takes it.
const STDIN_LEN_MAX: u64 = VALUE_LEN_MAX;

pub fn get(options: &Options, args: &GetArgs) -> Result<(), Failure> {
    printing(options.json, |out| print_value(options, out, &args.key, args.raw))
}

/// Sends a command of a key and a value.
pub fn write_value(options: &Options, verb: Verb, key: &str, value: &str) -> Result<(), Failure> {
    let request = RequestLine::new(verb).key(key.as_bytes()).value(&bytes_of(value)?);
    write_and_say_so(options, &request)
}

pub fn del(options: &Options, args: &DelArgs) -> Result<(), Failure> {
    write_and_say_so(options, &RequestLine::new(Verb::Del).key(args.key.as_bytes()))
}

pub fn exists(options: &Options, args: &ExistsArgs) -> Result<(), Failure> {
    let reply = read(options, &RequestLine::new(Verb::Exists).key(args.key.as_bytes()))?;
    let exists = match &*reply {
        b"1" => true,
        b"0" => false,
        _ => return Err(unexpected(&reply, "1 or 0").into()),
    };
    Ok(print_lines(options.json, &[reply], &json!({ "exists": exists }))?)
}

pub fn keys(options: &Options, args: &KeysArgs) -> Result<(), Failure> {
    let prefix = args.prefix.as_deref().unwrap_or("").as_bytes();
    let request = args.limit.into_iter().fold(RequestLine::new(Verb::Keys).key(prefix), RequestLine::word);
    printing(options.json, |out| read_lines(options, &request, |line| print_key(options, out, line)))
}

pub fn count(options: &Options) -> Result<(), Failure> {
    let reply = read(options, &RequestLine::new(Verb::Count))?;
    let count: u64 = number(&reply, &reply)?;
    Ok(print_lines(options.json, &[reply], &json!({ "count": count }))?)
}

/// Sends a command whose reply consists of lines of a name and a value each.
pub fn report(options: &Options, verb: Verb) -> Result<(), Failure> {
    let lines = read_report(options, verb)?;
    Ok(print_lines(options.json, &lines, &report_as_json(&lines))?)
}

pub fn peers(options: &Options) -> Result<(), Failure> {
    let lines = read_report(options, Verb::Peers)?;
    let peers: Vec<Value> = lines.iter().map(|line| peer(line).unwrap_or_else(|| line.as_str().into())).collect();
    Ok(print_lines(options.json, &lines, &json!({ "peers": peers }))?)
}

pub fn digest(options: &Options) -> Result<(), Failure> {
    let (sum, keys) = as_digest(&read(options, &RequestLine::new(Verb::Digest))?)?;
    Ok(print_lines(options.json, &[format!("{sum} {keys}")], &json!({ "digest": sum, "keys": keys }))?)
}

/// Prints a dump, which is JSON with and without `--json`.
pub fn dump(options: &Options) -> Result<(), Failure> {
    printing(true, |out| print_dump(options, out))
}

pub fn ping(options: &Options) -> Result<(), Failure> {
    let reply = read(options, &RequestLine::new(Verb::Ping))?;
    let json = json!({ "ping": String::from_utf8_lossy(&reply) });
    Ok(print_lines(options.json, &[reply], &json)?)
}

/// Calls `print` with stdout, and flushes it. Text that was printed before an error is not lost.
fn printing(is_json: bool, print: impl FnOnce(&mut TerminalOut<Stdout>) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut out = TerminalOut::stdout(is_json);
    print(&mut out)?;
    Ok(out.flush()?)
}

fn print_value(options: &Options, out: &mut TerminalOut<impl Write>, key: &str, raw: bool) -> Result<(), Failure> {
    let value = as_value(&read(options, &RequestLine::new(Verb::Get).key(key.as_bytes()))?)?;
    if options.json {
        let mut object = Map::new();
        put_bytes(&mut object, "k", key.as_bytes());
        put_bytes(&mut object, "v", &value);
        writeln!(out, "{}", Value::Object(object))?;
    } else if raw {
        out.write_raw(&value)?;
    } else if out.is_terminal() {
        writeln!(out, "{}", out.text(&value))?;
    } else {
        out.write_all(&value)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Prints a key as the reply shows it, quotes included: the bytes themselves could hold a line end.
fn print_key(options: &Options, out: &mut TerminalOut<impl Write>, line: &[u8]) -> Result<(), Failure> {
    let key = as_key(line)?;
    let mut object = Map::new();
    if options.json {
        put_bytes(&mut object, "k", &key);
    }
    let text = out.text(&key);
    Ok(out.write_lines(options.json, &[text], &Value::Object(object))?)
}

fn read_report(options: &Options, verb: Verb) -> Result<Vec<String>, client::Error> {
    let request = RequestLine::new(verb);
    first_reachable(options, |client| client.call_report(request.as_bytes()), is_elsewhere)
}

/// Prints a dump. Half a dump must not look like a backup.
fn print_dump(options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    let mut has_begun = false;
    let printed = read_dump(options, |line, _| {
        has_begun = true;
        out.write_all(line)?;
        Ok(out.write_all(b"\n")?)
    });
    match printed {
        Err(failure) if has_begun && !failure.text.is_empty() => Err(failure.adding("\nkvctl: the output is incomplete: it is no backup")),
        printed => printed.map(|_| ()),
    }
}

/// Writes a dump to a file and prints its size. Fails unless all of it is on disk; the existing
/// file stays then.
pub fn backup(options: &Options, args: &BackupArgs) -> Result<(), Failure> {
    let file = args.file.as_str();
    if file == "-" {
        return Err(Failure::new(Code::Usage, "a backup is a file with a name; kvctl dump prints one"));
    }
    let mut aside = AtomicFile::beside(Path::new(file))?;
    let mut progress = ProgressLine::new("backing up", None);
    let read = read_dump(options, |line, entries| {
        progress.show(aside.len(), entries);
        aside.write_line(line)
    });
    drop(progress);
    let entries = read.map_err(|failure| failure.adding("\nkvctl: no backup was made"))?;
    let bytes = aside.len();
    aside.take_place()?;
    let lines = [format!("entries {entries}"), format!("bytes {bytes}")];
    Ok(print_lines(options.json, &lines, &json!({ "entries": entries, "bytes": bytes }))?)
}

/// Passes the lines of a dump to `each`, with the number of entries so far, and checks them.
/// Returns the number of entries.
fn read_dump(options: &Options, mut each: impl FnMut(&[u8], u64) -> Result<(), Failure>) -> Result<u64, Failure> {
    let mut reader = DumpReader::default();
    let wrong = |wrong: String| Failure::new(Code::Refused, format_args!("the node's dump is damaged: {wrong}"));
    read_lines(options, &RequestLine::new(Verb::Dump), |line| {
        reader.line(line).map_err(wrong)?;
        each(line, reader.count())
    })?;
    reader.finish().map_err(wrong)?;
    Ok(reader.count())
}

fn write_and_say_so(options: &Options, request: &RequestLine) -> Result<(), Failure> {
    let reply = write(options, request)?;
    Ok(print_lines(options.json, &[reply], &json!({ "ok": true }))?)
}

/// Returns the reply to a write, which is `OK`.
fn write(options: &Options, request: &RequestLine) -> Result<Vec<u8>, Failure> {
    let only_if_nothing_left = |error: &client::Error| matches!(error, client::Error::NotConnected(_));
    first_reachable(options, |client| client.call(request.as_bytes()).map(<[u8]>::to_vec), only_if_nothing_left)
        .and_then(|reply| if reply == b"OK" { Ok(reply) } else { Err(unexpected(&reply, "OK")) })
        .map_err(|error| Failure::of(error, true))
}

/// Returns the argument's bytes, or all of stdin for `-`.
fn bytes_of(argument: &str) -> Result<Cow<'_, [u8]>, Failure> {
    if argument != "-" {
        return Ok(argument.as_bytes().into());
    }
    let mut value = Vec::new();
    io::stdin().lock().take(STDIN_LEN_MAX + 1).read_to_end(&mut value)?;
    if value.len() as u64 > STDIN_LEN_MAX {
        return Err(Failure::new(Code::Usage, format_args!("the value on stdin is longer than {STDIN_LEN_MAX} bytes")));
    }
    Ok(value.into())
}

fn number(reply: &[u8], digits: &[u8]) -> Result<u64, client::Error> {
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or_else(|| unexpected(reply, "a number"))
}

/// Returns the reply of one line to a command that changes nothing.
fn read(options: &Options, request: &RequestLine) -> Result<Vec<u8>, client::Error> {
    first_reachable(options, |client| client.call(request.as_bytes()).map(<[u8]>::to_vec), is_elsewhere)
}

/// Passes the lines of the reply to `each`, for a command that changes nothing. Once a line has
/// been passed on, no other node is asked.
fn read_lines(options: &Options, request: &RequestLine, mut each: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut begun = false;
    let mut outcome = Ok(());
    let asked = first_reachable(
        options,
        |client| {
            let lines = client.call_lines(request.as_bytes(), |line| {
                begun = true;
                each(line).map_err(Stop::Here)
            });
            match lines {
                Err(Stop::Lost(error)) if !begun => return Err(error),
                Err(Stop::Lost(error)) => outcome = Err(Failure::from(error)),
                Err(Stop::Here(failure)) => outcome = Err(failure),
                Ok(()) => {}
            }
            Ok(())
        },
        is_elsewhere,
    );
    asked?;
    outcome
}

/// Why reading a long reply ends early.
enum Stop {
    Lost(client::Error),
    Here(Failure),
}

impl From<client::Error> for Stop {
    fn from(error: client::Error) -> Stop {
        Stop::Lost(error)
    }
}

/// True if a read may be sent to the next node: this one is gone, or it replies that it cannot
/// serve now. A write is never sent again once any byte of it was sent.
fn is_elsewhere(error: &client::Error) -> bool {
    match error {
        client::Error::NotConnected(_) | client::Error::Unknown(_) => true,
        client::Error::Refused { code, .. } => code == "LOADING" || code == "BUSY",
        client::Error::Garbled(_) => false,
    }
}

/// Asks the nodes in turn while `go_on` holds for the error.
fn first_reachable<T>(
    options: &Options,
    mut ask: impl FnMut(&mut Client) -> Result<T, client::Error>,
    go_on: impl Fn(&client::Error) -> bool,
) -> Result<T, client::Error> {
    let mut left = &options.nodes[..];
    loop {
        let mut client = options.connect(left)?;
        left = after(left, client.addr());
        match ask(&mut client) {
            Err(error) if go_on(&error) && !left.is_empty() => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvmesh::data::version::VersionVector;
    use kvmesh::wire::dump::{DumpKind, Header, whole_dump};

    use crate::scripted_node::{deserted, options, scripted};

    #[test]
    fn a_dump_that_breaks_off_or_is_wrong_is_no_backup() {
        let origin = "1-0000000000000007".parse().unwrap();
        let header = Header::new(DumpKind::Full, origin, VersionVector::default(), 0, None);
        let lines = String::from_utf8(whole_dump(&header, [], VersionVector::default())).unwrap();
        let (header, end) = lines.trim_end().split_once('\n').unwrap();
        let dump = |reply: &str| {
            let options = Options { timeout: std::time::Duration::from_millis(100), ..options(&[&scripted(&[("DUMP", reply)])]) };
            let mut out = Vec::new();
            let printed = print_dump(&options, &mut out).map_err(|Failure { code, text }| (code, text));
            (printed, String::from_utf8(out).unwrap())
        };
        assert_eq!(dump(&format!("{header}\n{end}\nEND\n")), (Ok(()), format!("{header}\n{end}\n")));
        for (reply, code) in [
            (format!("{header}\n"), Code::NoConnection),
            (format!("{header}\nEND\n"), Code::Refused),
            (format!("{header}\n{}\nEND\n", end.replace("\"count\":0", "\"count\":1")), Code::Refused),
        ] {
            let (failed, text) = dump(&reply).0.unwrap_err();
            assert!(failed == code && text.ends_with("the output is incomplete: it is no backup"), "{text}");
        }
    }

    fn put(options: &Options) -> Result<String, Code> {
        let written = write(options, &RequestLine::new(Verb::Put).key(b"a b").value(b"1"));
        written.map(|reply| String::from_utf8(reply).unwrap()).map_err(|failure| failure.code)
    }

    #[test]
    fn a_write_goes_to_the_next_node_only_while_not_a_byte_of_it_has_left() {
        let (breaks, answers) = (scripted(&[]), scripted(&[("PUT \"a b\" 1", "OK\n")]));
        assert_eq!(put(&options(&[&deserted(), &answers])).as_deref(), Ok("OK"));
        assert_eq!(put(&options(&[&breaks, &answers])), Err(Code::Unknown));
        assert_eq!(put(&options(&[&deserted(), &deserted()])), Err(Code::NoConnection));

        // The connection breaks while the ack level is agreed: the write itself was not sent.
        let answers = scripted(&[("ACK all", "OK\n"), ("PUT \"a b\" 1", "OK\n")]);
        let with_ack = Options { ack: Some("all".parse().unwrap()), ..options(&[&breaks]) };
        assert_eq!(put(&with_ack), Err(Code::NoConnection));
        assert_eq!(put(&Options { nodes: vec![breaks, answers], ..with_ack }).as_deref(), Ok("OK"));
        let other = scripted(&[("ACK all", "220 ready\n")]);
        let with_ack = Options { ack: Some("all".parse().unwrap()), ..options(&[&other]) };
        assert_eq!(put(&with_ack), Err(Code::NoConnection));
    }

    #[test]
    fn what_the_server_says_decides_the_exit_code() {
        for (reply, code) in [
            ("ERROR NOQUORUM 1 of 3 members counts\n", Code::Refused),
            ("ERROR TIMEOUT applied here\n", Code::Unknown),
            ("VALUE 1\n", Code::Unknown),
            ("O", Code::Unknown),
        ] {
            let node = scripted(&[("PUT \"a b\" 1", reply)]);
            let options = Options { timeout: std::time::Duration::from_millis(100), ..options(&[&node]) };
            assert_eq!(put(&options), Err(code), "{reply}");
        }
    }

    #[test]
    fn a_read_goes_to_the_next_node_until_a_part_of_the_answer_is_printed() {
        let (breaks, answers) = (scripted(&[]), scripted(&[("COUNT", "7\n"), ("KEYS \"\" 5", "KEY a\nKEY \"\"\nEND\n")]));
        assert_eq!(read(&options(&[&breaks, &answers]), &RequestLine::new(Verb::Count)).unwrap(), b"7");
        assert!(matches!(read(&options(&[&breaks]), &RequestLine::new(Verb::Count)), Err(client::Error::Unknown(_))));
        // The server is reached and answers, but in no protocol that kvctl knows.
        let other = scripted(&[("COUNT", "220 ready\n")]);
        let failure =
            Failure::from(read(&options(&[&other]), &RequestLine::new(Verb::Count)).and_then(|reply| number(&reply, &reply)).unwrap_err());
        assert_eq!(failure.code, Code::Refused, "{}", failure.text);

        let command = RequestLine::new(Verb::Keys).key(b"").word(5);
        let keys = |nodes: &[&str]| {
            let options = Options { timeout: std::time::Duration::from_millis(100), ..options(nodes) };
            let mut out = Vec::new();
            let mut pipe = TerminalOut::new(&mut out, None);
            let printed = read_lines(&options, &command, |line| print_key(&options, &mut pipe, line));
            (printed.map_err(|failure| failure.code), String::from_utf8(out).unwrap())
        };
        assert_eq!(keys(&[&breaks, &answers]), (Ok(()), "a\n\"\"\n".to_string()));
        let half = scripted(&[("KEYS \"\" 5", "KEY half\n")]);
        assert_eq!(keys(&[&half, &answers]), (Err(Code::NoConnection), "half\n".to_string()));
    }
}
