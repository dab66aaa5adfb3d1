//! The audit log: who came and was let in or not, what administrators did, which peers there were.
//! A line of JSON for each event, in the file that `audit_file` names.
//!
//! Owns the file, the thread `audit` that writes it, and the queue in front of it. Who notes an
//! event never waits: one that finds the queue full is dropped and counted, and so is one that the
//! disk does not take, or that comes while too many of its kind do. The file gets the number once
//! it takes lines again. Keys are escaped and cut. No value and no secret is ever given to this
//! file.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

use crate::data::clock::elapsed;
use crate::data::version::NodeId;
use crate::process::private_file::append_to;
use crate::process::threads::join_all;
use crate::wire::quoting::shown;

/// Events that wait for the disk; beyond this, events are dropped.
const QUEUE_LEN: usize = 1_024;
/// Lines a second of a kind that strangers can cause. Beyond this they are dropped, so that nobody
/// fills the disk by knocking: these take 300 MB a day.
const STRANGERS_PACE: u32 = 10;
/// Lines a second of any other kind. Beyond this they are dropped.
const PACE: u32 = 200;
/// Characters of a name or a sentence in a line; a longer one is cut.
const TEXT_LEN_MAX: usize = 512;

const THREAD: &str = "audit";

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditKind {
    Start,
    Stop,
    /// A client has said who it is, and was believed.
    Login,
    /// A client has said who it is, and was not believed.
    LoginFailed,
    /// A command was refused, since its user may not do that.
    Denied,
    /// An administrative command was executed.
    Admin,
    PeerAccepted,
    PeerRefused,
    /// A newer connection of a peer has taken the place of the older one.
    PeerReplaced,
    /// The configuration was read again and is in force.
    Reload,
    /// The configuration was read again and is refused.
    ReloadRefused,
    /// Events are missing in front of this line; `detail` is their number.
    Dropped,
}

impl AuditKind {
    /// The number of kinds.
    const LEN: usize = AuditKind::Dropped as usize + 1;

    fn pace(self) -> u32 {
        match self {
            AuditKind::LoginFailed | AuditKind::PeerRefused => STRANGERS_PACE,
            _ => PACE,
        }
    }
}

/// One event. What is not known of it is `None`.
#[derive(Clone, Copy, Debug)]
pub struct AuditEvent<'a> {
    pub kind: AuditKind,
    /// The id of the client that has caused it.
    pub client: Option<u64>,
    /// The address of that client, or of a peer.
    pub addr: Option<SocketAddr>,
    pub user: Option<&'a str>,
    pub peer: Option<NodeId>,
    pub command: Option<&'a str>,
    /// The first key of the command.
    pub key: Option<&'a [u8]>,
    pub detail: Option<&'a str>,
}

impl AuditEvent<'_> {
    /// An event of which nothing else is known.
    pub fn of(kind: AuditKind) -> AuditEvent<'static> {
        AuditEvent { kind, client: None, addr: None, user: None, peer: None, command: None, key: None, detail: None }
    }
}

/// A line of the file. Its fields are explained in docs/operations.md.
#[derive(Serialize)]
struct AuditLine<'a> {
    time: String,
    node: u16,
    event: AuditKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

enum QueueItem {
    Line(Vec<u8>),
    /// There is another file.
    Look,
    End,
}

/// The face of the audit log for those that note events.
pub struct Audit {
    node: NodeId,
    /// True while there is a file.
    is_on: AtomicBool,
    item_tx: Sender<QueueItem>,
    /// For each kind, the second in which it was noted last, and how often in that one. A kind that
    /// many others cause takes nothing from the rest.
    paces: [Mutex<(u64, u32)>; AuditKind::LEN],
    /// The file, or none, that takes the place of the present one.
    next: Mutex<Option<Option<File>>>,
    /// Events that no file has, since the start.
    dropped: AtomicU64,
    /// As many of them as no line counts yet.
    unreported: AtomicU64,
    /// Why the file takes no lines now.
    failing: Mutex<Option<String>>,
}

/// Starts the thread `audit`, without a file: [`Audit::prepare`] brings one.
pub fn start(node: NodeId) -> io::Result<(Arc<Audit>, JoinHandle<()>)> {
    let (audit, item_rx) = Audit::new(node, QUEUE_LEN);
    let audit = Arc::new(audit);
    let writing = Arc::clone(&audit);
    let thread = Builder::new().name(THREAD.to_owned()).spawn(move || run_audit(&writing, &item_rx))?;
    Ok((audit, thread))
}

impl Audit {
    fn new(node: NodeId, queue_len: usize) -> (Audit, Receiver<QueueItem>) {
        let (item_tx, item_rx) = bounded(queue_len);
        let audit = Audit {
            node,
            is_on: AtomicBool::new(false),
            item_tx,
            paces: Default::default(),
            next: Mutex::default(),
            dropped: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            failing: Mutex::default(),
        };
        (audit, item_rx)
    }

    /// An audit log that has no file and gets none, for nodes in a test.
    pub fn off() -> Arc<Audit> {
        Arc::new(Audit::new(NodeId(0), 0).0)
    }

    /// Opens the file that is to be written from now on, also where it is the present one by its
    /// name: it may have been moved away. An empty path is none. What it returns puts it in the
    /// place of the present one. An error says why it is refused; nothing has changed then.
    pub fn prepare(self: &Arc<Audit>, path: &Path) -> Result<Box<dyn FnOnce() + Send>, String> {
        let file = match path.as_os_str().is_empty() {
            true => None,
            false => Some(append_to(path).map_err(|error| format!("audit_file {}: {error}", path.display()))?),
        };
        let audit = Arc::clone(self);
        Ok(Box::new(move || audit.write_to(file)))
    }

    fn write_to(&self, file: Option<File>) {
        let is_on = file.is_some();
        *self.next.lock() = Some(file);
        self.is_on.store(is_on, Ordering::Relaxed);
        // Where the queue is full, the thread looks without it.
        let _ = self.item_tx.try_send(QueueItem::Look);
    }

    /// Notes an event. Never waits.
    #[cold]
    pub fn note(&self, event: AuditEvent<'_>) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let is_admitted = self.is_admitted(event.kind, elapsed().as_secs());
        if !is_admitted || self.item_tx.try_send(QueueItem::Line(self.line(event))).is_err() {
            self.drop_one();
        }
    }

    /// Returns true if no more events of this kind have come in this second than its pace allows.
    fn is_admitted(&self, kind: AuditKind, second: u64) -> bool {
        let mut pace = self.paces[kind as usize].lock();
        if pace.0 != second {
            *pace = (second, 0);
        }
        pace.1 = pace.1.saturating_add(1);
        pace.1 <= kind.pace()
    }

    /// Ends the log once the queued lines are written, or at the deadline.
    pub fn end(&self, thread: Option<JoinHandle<()>>, deadline: Instant) {
        // Fails if the queue stays full until then.
        let _ = self.item_tx.send_deadline(QueueItem::End, deadline);
        join_all(thread, deadline, THREAD);
    }

    /// The state of the log, for STATUS.
    pub fn state(&self) -> String {
        match &*self.failing.lock() {
            Some(why) => format!("failing: {why}"),
            None if self.is_on.load(Ordering::Relaxed) => "ok".to_owned(),
            None => "off".to_owned(),
        }
    }

    /// The number of events since the start that no file has.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.unreported.fetch_add(1, Ordering::Relaxed);
    }

    fn line(&self, event: AuditEvent<'_>) -> Vec<u8> {
        let AuditEvent { kind, client, addr, user, peer, command, key, detail } = event;
        let line = AuditLine {
            time: format!("{:.3}", Timestamp::now()),
            node: self.node.0,
            event: kind,
            client,
            addr: addr.map(|addr| addr.to_string()),
            user: user.map(cut),
            peer: peer.map(|peer| peer.0),
            command: command.map(cut),
            key: key.map(shown),
            detail: detail.map(cut),
        };
        // Numbers and text can always be written.
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Writes a line, and notes whether that has worked. Returns true if it has.
    fn write(&self, file: &mut AuditFile, line: &[u8]) -> bool {
        let written = file.write_line(line);
        let mut failing = self.failing.lock();
        let was_failing = failing.is_some();
        *failing = written.as_ref().err().map(io::Error::to_string);
        drop(failing);
        match &written {
            Err(error) if !was_failing => {
                log::error!("the audit log cannot be written: {error}; its events are dropped and counted, and this node goes on");
            }
            Ok(()) if was_failing => log::info!("the audit log is written again"),
            _ => {}
        }
        written.is_ok()
    }

    /// Writes how many events are missing, if there are any.
    fn report_dropped(&self, file: &mut AuditFile) {
        let count = self.unreported.swap(0, Ordering::Relaxed);
        if count > 0 && !self.write(file, &self.line(AuditEvent { detail: Some(&count.to_string()), ..AuditEvent::of(AuditKind::Dropped) }))
        {
            self.unreported.fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// The loop of the thread `audit`: writes what is noted, to the file that is the present one.
fn run_audit(audit: &Audit, item_rx: &Receiver<QueueItem>) {
    let mut present: Option<AuditFile> = None;
    let mut is_ending = false;
    while !(is_ending && item_rx.is_empty()) {
        // Never disconnected: `audit` holds a sending end.
        let Ok(item) = item_rx.recv() else { return };
        let next = audit.next.lock().take();
        if let Some(next) = next {
            present = next.map(|file| AuditFile { file, is_torn: false });
            *audit.failing.lock() = None;
        }
        match (item, &mut present) {
            (QueueItem::Line(line), Some(file)) => {
                if !audit.write(file, &line) {
                    audit.drop_one();
                }
            }
            (QueueItem::End, _) => is_ending = true,
            // Noted before there was no file any more.
            (QueueItem::Line(_), None) | (QueueItem::Look, _) => {}
        }
        if let Some(file) = &mut present
            && item_rx.is_empty()
        {
            audit.report_dropped(file);
        }
    }
}

struct AuditFile {
    file: File,
    /// It ends with a part of a line.
    is_torn: bool,
}

impl AuditFile {
    /// Writes a line with one write, if the disk takes it. After an error a part of it may be
    /// there; the next line begins behind that.
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.file.write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => rest = &rest[len..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.is_torn = !rest.is_empty();
        }
        Ok(())
    }
}

/// The beginning of a text, up to [`TEXT_LEN_MAX`].
fn cut(text: &str) -> &str {
    text.char_indices().nth(TEXT_LEN_MAX).map_or(text, |(end, _)| text.split_at(end).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::time::Duration;

    use serde_json::Value;
    use tempfile::TempDir;

    use crate::testing::wait::{PATIENCE, until};

    const NODE: NodeId = NodeId(3);

    fn lines(path: &Path) -> Vec<Value> {
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn events(path: &Path) -> Vec<String> {
        lines(path).iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect()
    }

    fn in_dir() -> (TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        (dir, path)
    }

    #[test]
    fn an_event_is_a_line_of_json_whatever_is_in_it() {
        let (_dir, path) = in_dir();
        let (audit, thread) = start(NODE).unwrap();
        audit.note(AuditEvent::of(AuditKind::Start));
        audit.prepare(&path).unwrap()();
        let long = "x".repeat(10_000);
        audit.note(AuditEvent {
            client: Some(7),
            addr: Some("127.0.0.1:5000".parse().unwrap()),
            user: Some("ann\n\"\u{7}"),
            command: Some("get"),
            key: Some(b"k\n\xff\x1b"),
            detail: Some(&long),
            ..AuditEvent::of(AuditKind::Denied)
        });
        audit.note(AuditEvent { peer: Some(NodeId(2)), ..AuditEvent::of(AuditKind::PeerReplaced) });
        audit.end(Some(thread), Instant::now() + PATIENCE);
        let lines = lines(&path);
        // Nothing is kept of a time without a file.
        assert_eq!(lines.len(), 2);
        let time = lines[0]["time"].as_str().unwrap();
        assert!(time.len() == "2026-12-01T01:02:03.004Z".len() && time.ends_with('Z'), "{time}");
        let line = serde_json::to_string(&lines[0]).unwrap();
        for part in [
            r#""node":3"#,
            r#""event":"denied""#,
            r#""client":7"#,
            r#""addr":"127.0.0.1:5000""#,
            r#""user":"ann\n\"\u0007""#,
            r#""command":"get""#,
            r#""key":"\"k\\n\\xFF\\x1B\"""#,
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert_eq!(lines[0]["detail"].as_str().unwrap().len(), TEXT_LEN_MAX);
        assert_eq!((&lines[1]["event"], &lines[1]["peer"]), (&Value::from("peer_replaced"), &Value::from(2)));
        assert_eq!(lines[1].as_object().unwrap().len(), 4);
        assert_eq!(audit.dropped(), 0);
    }

    #[test]
    fn what_finds_the_queue_full_is_dropped_counted_and_told() {
        let (_dir, path) = in_dir();
        let (audit, item_rx) = Audit::new(NODE, 3);
        let audit = Arc::new(audit);
        // This takes one place of the queue.
        audit.prepare(&path).unwrap()();
        for _ in 0..10 {
            audit.note(AuditEvent::of(AuditKind::Login));
        }
        assert_eq!(audit.dropped(), 8);
        let thread = std::thread::spawn({
            let audit = Arc::clone(&audit);
            move || run_audit(&audit, &item_rx)
        });
        until("the queue is empty", || audit.item_tx.is_empty());
        audit.note(AuditEvent::of(AuditKind::Stop));
        audit.end(Some(thread), Instant::now() + PATIENCE);
        let found = events(&path);
        assert_eq!(found.iter().filter(|event| *event == "dropped").count(), 1);
        assert_eq!(found[..2], ["login", "login"]);
        let dropped = lines(&path).into_iter().find(|line| line["event"] == "dropped").unwrap();
        assert_eq!(dropped["detail"], "8");
        assert_eq!(audit.dropped(), 8);
    }

    #[test]
    fn a_kind_that_strangers_cause_has_a_pace_of_its_own() {
        let (audit, _item_rx) = Audit::new(NODE, 1);
        let admitted = |kind, second| (0..1_000).filter(|_| audit.is_admitted(kind, second)).count();
        assert_eq!(admitted(AuditKind::PeerRefused, 1), STRANGERS_PACE as usize);
        assert_eq!(admitted(AuditKind::PeerRefused, 1), 0);
        assert_eq!(admitted(AuditKind::Admin, 1), PACE as usize);
        assert_eq!(admitted(AuditKind::PeerRefused, 2), STRANGERS_PACE as usize);
    }

    #[test]
    fn a_file_that_was_moved_away_is_followed_by_a_new_one() {
        let (dir, path) = in_dir();
        let moved = dir.path().join("audit.log.1");
        let (audit, thread) = start(NODE).unwrap();
        audit.prepare(&path).unwrap()();
        audit.note(AuditEvent::of(AuditKind::Start));
        until("a line", || fs::read(&path).unwrap().ends_with(b"\n"));
        fs::rename(&path, &moved).unwrap();
        audit.prepare(&path).unwrap()();
        audit.note(AuditEvent::of(AuditKind::Reload));
        until("a line", || fs::read(&path).is_ok_and(|text| text.ends_with(b"\n")));
        // Without a file it is off, and nothing is dropped.
        audit.prepare(Path::new("")).unwrap()();
        audit.note(AuditEvent::of(AuditKind::Login));
        assert_eq!(audit.state(), "off");
        audit.end(Some(thread), Instant::now() + PATIENCE);
        assert_eq!((events(&moved), events(&path)), (vec!["start".to_owned()], vec!["reload".to_owned()]));
        assert_eq!(audit.dropped(), 0);
    }

    #[test]
    fn a_path_that_cannot_be_opened_is_refused_and_changes_nothing() {
        let (dir, path) = in_dir();
        let (audit, thread) = start(NODE).unwrap();
        audit.prepare(&path).unwrap()();
        for wrong in [dir.path().to_owned(), dir.path().join("none/audit.log")] {
            let why = audit.prepare(&wrong).map(drop).unwrap_err();
            assert!(why.starts_with("audit_file "), "{why}");
        }
        assert_eq!(audit.state(), "ok");
        audit.end(Some(thread), Instant::now() + Duration::from_secs(10));
    }

    /// `/dev/full` takes no byte.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_disk_does_not_take_is_counted_and_told_once_it_does() {
        let (_dir, path) = in_dir();
        let (audit, thread) = start(NODE).unwrap();
        audit.write_to(Some(File::options().append(true).open("/dev/full").unwrap()));
        for _ in 0..3 {
            audit.note(AuditEvent::of(AuditKind::Login));
        }
        until("three are dropped", || audit.dropped() == 3);
        until("it says so", || audit.state().starts_with("failing: "));
        audit.prepare(&path).unwrap()();
        audit.note(AuditEvent::of(AuditKind::Stop));
        audit.end(Some(thread), Instant::now() + PATIENCE);
        let mut found = events(&path);
        found.sort();
        assert_eq!(found, ["dropped", "stop"]);
        assert_eq!(audit.state(), "ok");
    }
}
