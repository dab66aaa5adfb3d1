//! CONFIG GET: the parameters of Redis that have a true answer here.
//!
//! Kvmesh's own choices are in the configuration file, and STATUS shows them.

use super::introspection::text;
use super::spec::Spec;
use crate::data::fsync::Fsync;
use crate::net;
use crate::replication::status;
use crate::server::client_handle::KEEPALIVE_IDLE;
use crate::server::shared::Shared;
use crate::wire::bytes::Bytes;
use crate::wire::command::{Command, Introspection};
use crate::wire::reply::{Reply, Wrong};
use crate::wire::resp::arguments::Arguments;
use crate::wire::resp::glob;

pub(super) static COMMANDS: &[Spec] = &[Spec::container("config", "", "server", "2.0.0", &SUBCOMMANDS)];

static SUBCOMMANDS: [Spec; 1] = [Spec::command("config|get", -3, "admin noscript loading stale", parse_config_get)
    .docs("server", "2.0.0", "O(N) where N is the number of settings")
    .help("parameter...", "Returns settings of this node.")];

/// Answers CONFIG GET with the parameters that one of the patterns matches, each once. Patterns are
/// in lower case, as names are.
#[inline(never)]
pub(super) fn config(shared: &Shared, patterns: &[Bytes<'_>]) -> Reply<'static> {
    let wanted = |name: &str| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes()));
    let parameters = parameters(shared).into_iter().filter(|(name, _)| wanted(name));
    Reply::Map(parameters.map(|(name, value)| (text(name), text(value))).collect())
}

fn parameters(shared: &Shared) -> Vec<(&'static str, String)> {
    let (config, addr) = (shared.services.live.current(), shared.addr);
    let fsync = match config.fsync {
        Fsync::Always => "always",
        Fsync::EverySecond => "everysec",
        Fsync::Never => "no",
    };
    let keeps = if status::disk_figures(&shared.services.replica).is_some() { "yes" } else { "no" };
    // As Redis has it: from the root.
    let dir = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let known = [
        ("appendfsync", fsync),
        ("appendonly", keeps),
        ("cluster-enabled", "no"),
        ("daemonize", "no"),
        ("maxmemory-policy", "noeviction"),
        // There are no events to hear of.
        ("notify-keyspace-events", ""),
        ("protected-mode", "no"),
        ("requirepass", ""),
        // Snapshots are written when the log has grown, never after a time.
        ("save", ""),
        // No client is closed for being idle.
        ("timeout", "0"),
        ("tls-port", "0"),
    ];
    let measured = [
        ("bind", addr.ip().to_string()),
        ("databases", 1.to_string()),
        ("dir", dir.display().to_string()),
        ("maxclients", config.clients_max.to_string()),
        ("maxmemory", config.memory_max.to_string()),
        ("port", addr.port().to_string()),
        ("proto-max-bulk-len", config.value_len_max.to_string()),
        ("tcp-backlog", net::BACKLOG.to_string()),
        ("tcp-keepalive", KEEPALIVE_IDLE.as_secs().to_string()),
    ];
    known.into_iter().map(|(name, value)| (name, value.to_owned())).chain(measured).collect()
}

/// `CONFIG GET pattern …`: Redis matches them in any case, and names are in lower case.
fn parse_config_get<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let lower = |word: &'a [u8]| match word.iter().any(u8::is_ascii_uppercase) {
        true => Bytes::Owned(word.to_ascii_lowercase()),
        false => Bytes::Borrowed(word),
    };
    Ok(Introspection::Config { patterns: words.few(2)?.map(lower).collect() }.into())
}
