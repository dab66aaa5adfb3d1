//! What a node says of itself to Redis clients: HELLO, CLIENT, INFO, CONFIG GET, ROLE. Every figure is measured.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::protocol::command::{Bytes, ClientCommand, ErrorCode, Reply, RespVersion};
use crate::server::Shared;
use crate::server::client::Client;

/// The version of Redis whose replies are the model.
const REDIS_VERSION: &str = "7.0.15";

pub(super) fn hello(client: &Client, version: RespVersion) -> Reply<'static> {
    let text = |text: &str| Reply::Bytes(text.as_bytes().to_vec().into());
    let pair = |name: &str, value: Reply<'static>| (text(name), value);
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
    let number = |number: u64| Reply::Bytes(number.to_string().into_bytes().into());
    Reply::Array(vec![number(since.as_secs()), number(since.subsec_micros().into())])
}

pub(super) fn client(_shared: &Shared, me: &Arc<Client>, command: &ClientCommand<'_>) -> Reply<'static> {
    match command {
        ClientCommand::Id => Reply::Integer(me.number() as i64),
        _ => Reply::error(ErrorCode::Err, "not yet"),
    }
}

pub(super) fn config(_shared: &Shared, _patterns: &[Bytes<'_>]) -> Reply<'static> {
    Reply::Map(Vec::new())
}

pub(super) fn role(_shared: &Shared) -> Reply<'static> {
    Reply::Null
}

pub(super) fn lolwut() -> Reply<'static> {
    Reply::Null
}

pub(super) fn info(_shared: &Shared, _sections: &[String]) -> Reply<'static> {
    Reply::Text(String::new())
}
