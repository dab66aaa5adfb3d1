//! What a node says of itself to Redis clients: HELLO, CLIENT, INFO, CONFIG GET, ROLE.
//!
//! Every figure is measured, or follows from how a node is built; what has neither is left out, although Redis has it. Never waits.

mod client;
mod config;
mod info;

use std::time::{SystemTime, UNIX_EPOCH};

use crate::data::clock::Now;
use crate::server::Shared;
use crate::server::client::Client;
use crate::wire::reply::Reply;
use crate::wire::resp::RespVersion;

pub(super) use client::client;
pub(super) use config::config;
pub(super) use info::info;

/// The version of Redis whose replies are the model.
const REDIS_VERSION: &str = "7.0.15";
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[inline(never)]
pub(super) fn hello(client: &Client, version: RespVersion) -> Reply<'static> {
    let pair = |name: &'static str, value: Reply<'static>| (text(name), value);
    Reply::Map(vec![
        pair("server", text("redis")),
        pair("version", text(REDIS_VERSION)),
        pair("proto", Reply::Integer(if version == RespVersion::Two { 2 } else { 3 })),
        pair("id", Reply::Integer(client.number() as i64)),
        pair("mode", text("standalone")),
        pair("role", text("master")),
        pair("modules", Reply::Array(Vec::new())),
    ])
}

pub(super) fn time() -> Reply<'static> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Reply::Array(vec![text(since.as_secs().to_string()), text(since.subsec_micros().to_string())])
}

/// To Redis's clients every node is a master, and the peers that are up are its replicas: an offset is a stamp.
#[inline(never)]
pub(super) fn role(shared: &Shared) -> Reply<'static> {
    let services = &shared.services;
    let peers = services.replica.figures(Now::read()).peers.into_iter().map(|peer| {
        let (host, port) = host_and_port(&peer.addr);
        Reply::Array(vec![text(host.to_owned()), text(port.to_owned()), text(peer.received.to_string())])
    });
    Reply::Array(vec![text("master"), Reply::Integer(services.submit.position().to_bits() as i64), Reply::Array(peers.collect())])
}

pub(super) fn lolwut() -> Reply<'static> {
    let picture = "  o---o\n   \\ /     equal nodes, and nobody in between\n    o\n";
    Reply::Text(format!("{picture}\nkvmesh ver. {VERSION}\n"))
}

/// Redis names them apart. An IPv6 address has no brackets then.
fn host_and_port(addr: &str) -> (&str, &str) {
    let (host, port) = addr.rsplit_once(':').unwrap_or((addr, "0"));
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}

fn text(text: impl Into<std::borrow::Cow<'static, str>>) -> Reply<'static> {
    Reply::Bytes(match text.into() {
        std::borrow::Cow::Borrowed(text) => text.as_bytes().into(),
        std::borrow::Cow::Owned(text) => text.into_bytes().into(),
    })
}

#[cfg(test)]
mod tests;
