//! Commands by which a Redis client asks a node about itself: ROLE, TIME, LOLWUT, CONFIG GET,
//! COMMAND.
//!
//! Every figure is measured, or follows from how a node is built; what has neither is left out,
//! although Redis has it. Never waits.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use super::spec::Spec;
use crate::data::clock::Now;
use crate::replication::status;
use crate::server::shared::Shared;
use crate::wire::command::{Command, Introspection};
use crate::wire::reply::{Reply, Wrong};
use crate::wire::resp::arguments::{Arguments, is};

/// The version of Redis whose replies are the model.
pub(super) const REDIS_VERSION: &str = "7.0.15";
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) static COMMANDS: &[Spec] = &[
    Spec::command("role", 1, "noscript loading stale fast", |_| Ok(Introspection::Role.into()))
        .categories("admin dangerous")
        .docs("server", "2.8.12", "O(1)")
        .help("", "Returns the role of this node, which is that of a master."),
    Spec::command("time", 1, "loading stale fast", |_| Ok(Introspection::Time.into()))
        .tips("nondeterministic_output")
        .docs("server", "2.6.0", "O(1)")
        .help("", "Returns the time of this node."),
    Spec::command("lolwut", -1, "readonly fast", parse_lolwut)
        .docs("server", "5.0.0", "O(1)")
        .help("[VERSION version]", "Shows something pretty, and the version."),
];

pub(super) fn time() -> Reply<'static> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Reply::Array(vec![text(since.as_secs().to_string()), text(since.subsec_micros().to_string())])
}

/// Answers ROLE: to Redis's clients every node is a master, and the peers that are up are its
/// replicas. An offset is a stamp.
#[inline(never)]
pub(super) fn role(shared: &Shared) -> Reply<'static> {
    let services = &shared.services;
    let peers = status::figures(&services.replica, Now::read()).peers.into_iter().map(|peer| {
        let (host, port) = host_and_port(&peer.addr);
        Reply::Array(vec![text(host.to_owned()), text(port.to_owned()), text(peer.received.to_string())])
    });
    Reply::Array(vec![text("master"), Reply::Integer(services.submit.position().to_bits() as i64), Reply::Array(peers.collect())])
}

pub(super) fn lolwut() -> Reply<'static> {
    let picture = "  o---o\n   \\ /     equal nodes, and nobody in between\n    o\n";
    Reply::Text(format!("{picture}\nkvmesh ver. {VERSION}\n"))
}

/// Host and port of an address, which Redis names apart. An IPv6 address has no brackets then.
pub(super) fn host_and_port(addr: &str) -> (&str, &str) {
    let (host, port) = addr.rsplit_once(':').unwrap_or((addr, "0"));
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}

/// Text as data.
pub(super) fn text(text: impl Into<Cow<'static, str>>) -> Reply<'static> {
    Reply::Bytes(match text.into() {
        Cow::Borrowed(text) => text.as_bytes().into(),
        Cow::Owned(text) => text.into_bytes().into(),
    })
}

/// `LOLWUT [VERSION n] [anything]`
fn parse_lolwut<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    if words.len() >= 3 && is(words.word(1), "VERSION") {
        words.integer(2)?;
    }
    Ok(Introspection::Lolwut.into())
}
