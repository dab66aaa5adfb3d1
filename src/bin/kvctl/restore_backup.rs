//! `kvctl restore`: sends a backup to a node, as it was or as new writes. Streams the file; one
//! piece and one line of it are in memory.

use serde_json::json;

use kvmesh::client::{self, Client, unexpected};
use kvmesh::data::clock;
use kvmesh::data::entry::{Expiry, Key};
use kvmesh::wire::dump::Line;
use kvmesh::wire::quoting::shown;
use kvmesh::wire::resp::encoding::request;
use kvmesh::wire::text::{RequestLine, Verb};

use crate::backup_file::{BackupReader, seems_whole};
use crate::command_line::RestoreArgs;
use crate::json;
use crate::progress_line::ProgressLine;
use crate::terminal::print_lines;
use crate::{Code, Failure, Options};

/// Bytes sent at a time. Between two pieces kvctl checks whether the node has replied.
const PIECE_LEN: usize = 64 << 10;
/// Writes sent ahead of their replies. So many replies fit into the buffers of a socket, so that
/// neither side waits for the other.
const WRITES_AHEAD: usize = 256;

pub fn run(options: &Options, wanted: &RestoreArgs) -> Result<(), Failure> {
    let path = &wanted.file;
    let is_regular = BackupReader::open(path)?.size().is_some();
    // Half a backup may be merged without harm, but must not be written anew. And a file that was
    // cut off is best refused before it is sent.
    if is_regular && (wanted.as_new_writes || !seems_whole(path)) {
        check(BackupReader::open(path)?)?;
    }
    let backup = BackupReader::open(path)?;
    if wanted.as_new_writes { write_anew(options, backup) } else { send(options, backup) }
}

/// Reads a backup to its end, which checks it.
fn check(mut backup: BackupReader) -> Result<(), Failure> {
    let mut progress = ProgressLine::new("checking", backup.size());
    while backup.next()?.is_some() {
        progress.show(backup.bytes(), backup.entries());
    }
    Ok(())
}

/// Sends `RESTORE` and the backup, and prints the node's report.
fn send(options: &Options, mut backup: BackupReader) -> Result<(), Failure> {
    // The header is read first: the node is not kept waiting for a backup that has not begun.
    let mut piece = backup.next()?.map(|(line, _)| line.to_vec()).unwrap_or_default();
    let mut client = options.connect(&options.nodes)?;
    client.send_command(b"RESTORE").map_err(not_restored)?;
    let mut progress = ProgressLine::new("restoring", backup.size());
    loop {
        // A backup that turns out to be damaged is never sent to its end: without the end line it
        // proves nothing.
        let line = backup
            .next()
            .map_err(|failure| failure.adding("; the entries before it may have been restored, and nothing else has changed"))?;
        let is_last = line.is_none();
        if let Some((line, _)) = line {
            piece.extend_from_slice(line);
        }
        if is_last || piece.len() >= PIECE_LEN {
            if !client.send_unless_answered(&piece).map_err(not_restored)? {
                let reply = client.reply().map_err(not_restored)?;
                return Err(not_restored(unexpected(reply, "ERROR")));
            }
            piece.clear();
            piece.shrink_to(2 * PIECE_LEN);
            progress.show(backup.bytes(), backup.entries());
        }
        if is_last {
            break;
        }
    }
    let reply = client.report().map_err(not_restored)?;
    drop(progress);
    Ok(print_lines(options.json, &reply, &json::report(&reply))?)
}

fn not_restored(error: client::Error) -> Failure {
    match error {
        client::Error::Unknown(reason) | client::Error::Garbled(reason) => {
            let advice = "entries of the backup may have been restored, all or some; to restore it once more does no harm";
            Failure::new(Code::Unknown, format_args!("unknown outcome: {reason}; {advice}"))
        }
        error => error.into(),
    }
}

/// Sends the live entries as new `PUT`s, and prints how many.
fn write_anew(options: &Options, mut backup: BackupReader) -> Result<(), Failure> {
    let mut client = options.connect(&options.nodes)?;
    let mut progress = ProgressLine::new("writing", backup.size());
    let mut ahead = Ahead::default();
    let (mut deleted, mut expired) = (0u64, 0u64);
    let now_ms = clock::wall_ms();
    while let Some((_, line)) = backup.next().map_err(|failure| ahead.stopped(failure))? {
        match line {
            Line::Entry(entry) if entry.expires().is_some_and(|expires| expires.is_over(now_ms)) => expired += 1,
            Line::Entry(entry) => match entry.value() {
                Some(value) => ahead.put(backup.lines(), entry.shared_key(), value, entry.expires()),
                None => deleted += 1,
            },
            Line::Header(_) | Line::End(_) => {}
        }
        if ahead.commands.len() >= PIECE_LEN || ahead.keys.len() >= WRITES_AHEAD {
            ahead.settle(&mut client)?;
            progress.show(backup.bytes(), backup.entries());
        }
    }
    ahead.settle(&mut client)?;
    drop(progress);
    let written = ahead.written;
    let lines = [format!("written {written}"), format!("deleted {deleted}"), format!("expired {expired}")];
    Ok(print_lines(options.json, &lines, &json!({ "written": written, "deleted": deleted, "expired": expired }))?)
}

/// Writes that are sent together.
#[derive(Default)]
struct Ahead {
    commands: Vec<u8>,
    /// For each write, its line in the backup and its key.
    keys: Vec<(u64, Key)>,
    /// Writes answered with `OK`.
    written: u64,
}

impl Ahead {
    fn put(&mut self, line: u64, key: Key, value: &[u8], expires: Option<Expiry>) {
        match expires {
            None => RequestLine::new(Verb::Put).key(&key).value(value).write(&mut self.commands),
            // Value and expiry are one write, for which the text protocol has no verb.
            Some(expires) => {
                let at = expires.wall_ms().to_string();
                request(&[&b"SET"[..], &key, value, b"PXAT", at.as_bytes()], &mut self.commands);
            }
        }
        self.keys.push((line, key));
    }

    /// Sends them, and counts those that are done. If one is not, it fails, once all have been
    /// answered.
    fn settle(&mut self, client: &mut Client) -> Result<(), Failure> {
        let sent = client.send(&self.commands);
        self.commands.clear();
        self.commands.shrink_to(2 * PIECE_LEN);
        let mut left = self.keys.len();
        let mut first = None;
        // Replies are read even if not all could be sent: a node that closes says why before.
        for (line, key) in std::mem::take(&mut self.keys) {
            let error = match client.reply() {
                Ok(b"OK" | b"+OK") => {
                    self.written += 1;
                    left -= 1;
                    continue;
                }
                Ok(reply) => unexpected(reply, "OK"),
                Err(error) => error,
            };
            let is_answer = is_answer(&error);
            left -= usize::from(is_answer);
            first.get_or_insert((line, key, error));
            if !is_answer {
                break;
            }
        }
        let Some((line, key, error)) = first else {
            return sent.map_err(|error| self.stopped(Failure::of(error, true)));
        };
        let Failure { code, mut text } = match (error, sent) {
            // The connection was found broken before any byte of these was sent.
            (client::Error::Unknown(_), Err(client::Error::NotConnected(reason))) => {
                left = 0;
                let code = if self.written == 0 { Code::NoConnection } else { Code::Refused };
                Failure::new(code, reason)
            }
            (error, _) => Failure::of(error, true),
        };
        text += &format!("\nkvctl: at key {}, line {line} of the backup", shown(&key));
        if code == Code::Unknown && left > 0 {
            text += &format!(", and {left} writes were not answered");
        }
        Err(self.stopped(Failure { code, text }))
    }

    fn stopped(&self, failure: Failure) -> Failure {
        failure.adding(format_args!("; stopped here: {} keys were written", self.written))
    }
}

/// True if the node has answered, and may answer the next request, too.
fn is_answer(error: &client::Error) -> bool {
    match error {
        client::Error::Refused { .. } => true,
        client::Error::Unknown(reason) => reason.starts_with("TIMEOUT "),
        client::Error::NotConnected(_) | client::Error::Garbled(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted_node::{options, scripted};
    use kvmesh::data::clock::Stamp;
    use kvmesh::data::entry::Entry;
    use kvmesh::data::version::{NodeId, Origin, Version, VersionVector};
    use kvmesh::wire::dump::{DumpKind, Header, whole_dump};

    const REPORT: &str = "entries 3\nmerged 3\ncovered 0\ndropped 0\nEND\n";

    /// Returns a backup of `a`, `b` and a deleted key.
    fn backup() -> Vec<u8> {
        let origin = Origin { node: NodeId(1), nonce: 7 };
        let entries = [(1, "a", Some("1")), (2, "b b", Some("2 2")), (3, "gone", None)].map(|(stamp, key, value)| {
            let version = Version { stamp: Stamp::from_bits(stamp), origin };
            Entry::new(key.as_bytes(), value.map(str::as_bytes), None, version)
        });
        let header = Header::new(DumpKind::Full, origin, VersionVector::default(), 3, None);
        whole_dump(&header, entries, VersionVector::default())
    }

    fn restore(node: &str, backup: &[u8], as_new_writes: bool) -> Result<(), (Code, String)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), backup).unwrap();
        let path = file.path().to_str().unwrap();
        let options = Options { timeout: std::time::Duration::from_millis(300), ..options(&[node]) };
        let done = run(&options, &RestoreArgs { as_new_writes, file: path.to_string() });
        done.map_err(|Failure { code, text }| (code, text.replace(path, "FILE")))
    }

    /// Starts a node that takes the dump and replies this at its end.
    fn taking(reply: &str) -> String {
        let backup = String::from_utf8(backup()).unwrap();
        let lines = backup.lines().map(|line| (line, if line.starts_with("{\"end") { reply } else { "" }));
        scripted(&[("RESTORE", "")].into_iter().chain(lines).collect::<Vec<_>>())
    }

    #[test]
    fn a_whole_backup_is_sent_and_what_the_node_says_decides_the_exit_code() {
        assert_eq!(restore(&taking(REPORT), &backup(), false), Ok(()));
        let (code, text) = restore(&taking("ERROR FULL no more\n"), &backup(), false).unwrap_err();
        assert_eq!((code, &*text), (Code::Refused, "ERROR FULL no more"));
        for reply in ["", "entries 3\n", "ERROR TIMEOUT it took too long\n"] {
            let (code, text) = restore(&taking(reply), &backup(), false).unwrap_err();
            assert_eq!(code, Code::Unknown, "{reply}: {text}");
        }
        assert_eq!(restore(&crate::scripted_node::deserted(), &backup(), false).unwrap_err().0, Code::NoConnection);
    }

    /// Nothing listens at the address, so no node has received any of it.
    #[test]
    fn a_backup_that_is_not_whole_is_refused_before_it_is_sent() {
        let whole = backup();
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let nowhere = crate::scripted_node::deserted();
        let cases = [
            (whole[..whole.len() - 20].to_vec(), "FILE, line 5: a dump line that is not as expected"),
            (lines[..4].concat(), "FILE, line 5: the dump breaks off before its end line"),
            (lines[..2].concat(), "FILE, line 3: the dump breaks off before its end line"),
            (Vec::new(), "FILE, line 1: the dump breaks off before its end line"),
            (b"SET a 1\n".to_vec(), "FILE, line 1: a dump line that is not as expected"),
            ([&whole[..], b"END\n"].concat(), "FILE, line 6: something follows the end line"),
        ];
        for (backup, reason) in cases {
            for as_new_writes in [false, true] {
                let (code, text) = restore(&nowhere, &backup, as_new_writes).unwrap_err();
                assert!(code == Code::Refused && text.contains(reason), "{text:?} instead of {reason:?}");
            }
        }
        // Its last line looks complete. The end line is held back here, so that the node concludes
        // nothing.
        let holed = [lines[0], lines[1], lines[3], lines[4]].concat();
        let (code, text) = restore(&taking(REPORT), &holed, false).unwrap_err();
        assert!(code == Code::Refused && text.contains("FILE, line 4: a dump of 2 entries"), "{text}");
        let (code, text) = restore(&nowhere, &holed, true).unwrap_err();
        assert!(code == Code::Refused && text.contains("FILE, line 4: a dump of 2 entries"), "{text}");
        assert_eq!(
            run(&options(&[&nowhere]), &RestoreArgs { as_new_writes: false, file: "/nowhere/at all".into() }).unwrap_err().code,
            Code::Usage
        );
    }

    #[test]
    fn new_writes_stop_at_the_first_that_is_not_ok() {
        let node = |a: &str, b: &str| scripted(&[("PUT a 1", a), ("PUT \"b b\" 2 2", b)]);
        assert_eq!(restore(&node("OK\n", "OK\n"), &backup(), true), Ok(()));
        for (a, b, wanted, written) in [
            ("OK\n", "ERROR NOQUORUM 1 of 3\n", Code::Refused, 1),
            ("ERROR FULL x\n", "ERROR FULL x\n", Code::Refused, 0),
            ("ERROR FULL x\n", "OK\n", Code::Refused, 1),
            ("OK\n", "ERROR TIMEOUT 1 of 3\n", Code::Unknown, 1),
            ("OK\n", "", Code::Unknown, 1),
        ] {
            let (code, text) = restore(&node(a, b), &backup(), true).unwrap_err();
            assert_eq!(code, wanted, "{text}");
            assert!(text.contains(" of the backup") && text.ends_with(&format!("stopped here: {written} keys were written")), "{text}");
        }
        assert_eq!(restore(&crate::scripted_node::deserted(), &backup(), true).unwrap_err().0, Code::NoConnection);
    }
}
