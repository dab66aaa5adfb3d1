//! Commands for the operator of a node. Their answers take time, so that a session writes
//! everything in front of them first.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::info;
use super::spec::Spec;
use crate::config::live::named;
use crate::data::clock::{Now, elapsed, wall_ms};
use crate::process::audit::{AuditEvent, AuditKind};
use crate::replication::persistence::snapshots::{self, Compacted, NotCompacted};
use crate::replication::status;
use crate::server::connection::Connection;
use crate::server::shared::Shared;
use crate::wire::command::Admin;
use crate::wire::quoting::shown;
use crate::wire::reply::{ErrorCode, Reply};
use crate::wire::text::{HELP_NOTES, VERBS, VerbSpec};

pub(super) static COMMANDS: &[Spec] = &[
    Spec::command("status", 1, "loading stale", |_| Ok(Admin::Status.into()))
        .docs("server", "0.1.0", "O(1)")
        .help("", "Returns the state, the sizes and the limits of this node."),
    Spec::command("peers", 1, "stale", |_| Ok(Admin::Peers.into()))
        .docs("server", "0.1.0", "O(N) where N is the number of nodes")
        .help("", "Returns how this node stands with each of the others."),
    Spec::command("digest", 1, "readonly", |_| Ok(Admin::Digest { before: None }.into()))
        .categories("keyspace")
        .docs("server", "0.1.0", "O(N) where N is the number of keys")
        .help("", "Returns a fingerprint of all keys and values, and their number."),
    Spec::command("compact", 1, "admin", |_| Ok(Admin::Compact.into()))
        .docs("server", "0.1.0", "O(N) where N is the number of keys")
        .help("", "Writes a snapshot of the data of this node now."),
    Spec::command("resume", 1, "admin", |_| Ok(Admin::Resume.into()))
        .docs("server", "0.1.0", "O(N) where N is the number of keys")
        .help("", "Takes writes again after a full disk, once there is space."),
    Spec::command("reload", 1, "admin noscript loading stale", |_| Ok(Admin::Reload.into()))
        .docs("server", "0.1.0", "O(1)")
        .help("", "Reads the configuration file again and applies what can change while this node runs."),
];

/// Answers a command.
pub(super) fn answer(connection: &Connection<'_>, command: &Admin) -> Reply<'static> {
    let shared = connection.shared;
    let services = &shared.services;
    match command {
        Admin::Status => {
            let lines = status::status(&services.replica, Now::read()).into_iter().chain(status(shared));
            Reply::Text(lines.fold(String::new(), |mut text, (name, value)| {
                let _ = writeln!(text, "{name} {value}");
                text
            }))
        }
        Admin::Peers => Reply::Text(status::peers(&services.replica, Now::read()).into_iter().map(|line| line + "\n").collect()),
        Admin::Info { sections } => info::info(shared, sections),
        Admin::Digest { before } => {
            let soon = wall_ms().saturating_add(services.config.clock_offset_max.as_millis() as u64);
            let digest = services.store.digest(before.unwrap_or_default().max(soon));
            Reply::Digest { sum: digest.sum, keys: digest.keys }
        }
        Admin::Compact => compacted(snapshots::compact(&services.replica)),
        Admin::Resume => compacted(snapshots::resume(&services.replica)),
        Admin::Reload => reload(connection),
    }
}

/// The name of a command that goes to the audit log. Those that only ask do not.
pub(super) fn audited_name(command: &Admin) -> Option<&'static str> {
    match command {
        Admin::Compact => Some("compact"),
        Admin::Resume => Some("resume"),
        Admin::Reload => Some("reload"),
        Admin::Status | Admin::Peers | Admin::Info { .. } | Admin::Digest { .. } => None,
    }
}

/// Reloads the configuration. The log says so, too: it is where an operator of this machine looks.
fn reload(connection: &Connection<'_>) -> Reply<'static> {
    let shared = connection.shared;
    let more = || shared.log_limit.admit("reload", 0, elapsed());
    match shared.services.live.reload() {
        Ok(reloaded) => {
            connection.audit(AuditEvent { detail: Some(&reloaded.to_string()), ..AuditEvent::of(AuditKind::Reload) });
            if let Some(more) = more() {
                log::info!("configuration reloaded by a client: {reloaded}{more}");
            }
            Reply::Text(format!("applied {}\nneeds_restart {}\n", named(&reloaded.applied), named(&reloaded.needs_restart)))
        }
        Err(why) => {
            connection.audit(AuditEvent { detail: Some(&why), ..AuditEvent::of(AuditKind::ReloadRefused) });
            if let Some(more) = more() {
                log::warn!("configuration not reloaded: {why}; this node goes on as it was{more}");
            }
            Reply::error(ErrorCode::BadConfig, format!("{why}; nothing was changed"))
        }
    }
}

/// Explains one verb of the text protocol, or all of them.
pub(super) fn help(verb: Option<&str>) -> Reply<'static> {
    match verb {
        None => {
            let lines = VERBS.iter().map(help_line).chain(HELP_NOTES.map(str::to_owned));
            Reply::Text(lines.map(|line| line + "\n").collect())
        }
        Some(word) => match VerbSpec::find(word.as_bytes()) {
            Some(spec) => Reply::Text(help_line(spec) + "\n"),
            None => Reply::error(ErrorCode::Unknown, format!("{} is no command; HELP lists them", shown(word.as_bytes()))),
        },
    }
}

fn help_line(spec: &VerbSpec) -> String {
    format!("{:<25} {}", spec.usage, spec.sentence)
}

fn compacted(compacted: Result<Compacted, NotCompacted>) -> Reply<'static> {
    match compacted {
        Ok(Compacted { entries, len, took }) => Reply::Text(format!("entries {entries}\nbytes {len}\ntook_ms {}\n", took.as_millis())),
        Err(NotCompacted::ReadOnly(why)) => Reply::error(ErrorCode::ReadOnly, why),
        Err(NotCompacted::Failed(why)) => Reply::error(ErrorCode::Busy, why),
    }
}

/// The lines that the server adds to STATUS: what clients did, and every limit of the
/// configuration.
fn status(shared: &Shared) -> impl Iterator<Item = (&'static str, String)> {
    let (config, counters) = (shared.services.live.current(), &shared.counters);
    let counted = [
        ("clients", shared.clients.len() as u64),
        ("commands", counters.commands.load(Ordering::Relaxed)),
        ("writes", counters.writes.load(Ordering::Relaxed)),
        ("writes_refused", counters.writes_refused.load(Ordering::Relaxed)),
        ("writes_unknown", counters.writes_unknown.load(Ordering::Relaxed)),
        ("replies_waiting_bytes", shared.reply_budget.reserved() as u64),
        ("clients_deaf", counters.clients_deaf.load(Ordering::Relaxed)),
        ("accept_errors", counters.accept_errors.load(Ordering::Relaxed)),
        ("users", shared.access.current().0.users().len() as u64),
        ("newcomers", shared.newcomers.len() as u64),
        ("newcomers_closed", counters.newcomers_closed.load(Ordering::Relaxed)),
        ("logins_failed", counters.logins_failed.load(Ordering::Relaxed)),
        ("commands_denied", counters.commands_denied.load(Ordering::Relaxed)),
    ];
    let audit = shared.services.replica.audit();
    let words = [("ack", config.ack.to_string()), ("audit", audit.state()), ("audit_dropped", audit.dropped().to_string())];
    let tls = shared.tls.current();
    let days_left = tls.as_ref().and_then(|tls| tls.days_left(Duration::from_millis(wall_ms())));
    let peers = tls.map(|tls| ("tls_peers", tls.peers.name().to_owned()));
    let certificate = days_left.map(|days| ("tls_certificate_days", days.to_string())).into_iter().chain(peers);
    counted.into_iter().chain(config.limits()).map(|(name, value)| (name, value.to_string())).chain(words).chain(certificate)
}
