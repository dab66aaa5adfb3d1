//! Commands that concern the connection: who is there, and how they speak.

use super::{Call, is, shown, syntax, within, wrong, wrong_arity};
use crate::wire::bytes::Bytes;
use crate::wire::command::{ClientCommand, ClientKind, Command, KillClients};
use crate::wire::reply::{ErrorCode, Wrong};
use crate::wire::resp::RespVersion;
use crate::wire::resp::request::integer;

/// What a client says of itself is kept as long as it is connected; beyond this it is refused.
const NAME_LEN_MAX: usize = 1024;

/// The only user, who has no password.
const USER: &[u8] = b"default";

pub fn ping<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    match call.len() {
        1 => Ok(Command::Ping { message: None }),
        2 => Ok(Command::Ping { message: Some(call.data(1)) }),
        _ => Err(wrong_arity(call.spec)),
    }
}

/// There is one database, as in a Redis cluster.
pub fn select<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let number = call.integer(1)?;
    if i32::try_from(number).is_err() {
        return Err(wrong(format!("value is out of range, value must between {} and {}", i32::MIN, i32::MAX)));
    }
    if number == 0 { Ok(Command::Nothing) } else { Err(wrong("DB index is out of range")) }
}

/// AUTH [user] password
pub fn auth<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    match call.len() {
        2 => Err(wrong(
            "AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
        )),
        3 => check_user(call.word(1)).map(|()| Command::Nothing),
        _ => Err(syntax()),
    }
}

fn check_user(name: &[u8]) -> Result<(), Wrong> {
    if name == USER {
        return Ok(());
    }
    Err(Wrong::new(ErrorCode::WrongPass, "invalid username-password pair or user is disabled."))
}

/// HELLO [version [AUTH user password] [SETNAME name]]
pub fn hello<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let version = if call.len() > 1 {
        let number = call.integer(1).map_err(|_| wrong("Protocol version is not an integer or out of range"))?;
        Some(match number {
            2 => RespVersion::Two,
            3 => RespVersion::Three,
            _ => return Err(Wrong::new(ErrorCode::NoProto, "unsupported protocol version")),
        })
    } else {
        None
    };
    let mut name = None;
    let mut place = 2;
    while place < call.len() {
        let word = call.word(place);
        let behind = call.len() - place - 1;
        if is(word, "AUTH") && behind >= 2 {
            check_user(call.word(place + 1))?;
            place += 3;
        } else if is(word, "SETNAME") && behind >= 1 {
            name = Some(as_name(call, place + 1)?);
            place += 2;
        } else {
            return Err(wrong(format!("Syntax error in HELLO option '{}'", shown(word))));
        }
    }
    Ok(Command::Hello { version, name })
}

pub fn client_id<'a>(_: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    client(ClientCommand::Id)
}

pub fn client_info<'a>(_: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    client(ClientCommand::Info)
}

pub fn client_getname<'a>(_: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    client(ClientCommand::GetName)
}

/// CLIENT SETNAME name: an empty one takes the name away.
pub fn client_setname<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    client(ClientCommand::SetName(as_name(call, 2)?))
}

/// CLIENT SETINFO lib-name | lib-ver value
pub fn client_setinfo<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let attribute = call.word(2);
    let version = is(attribute, "lib-ver");
    if !version && !is(attribute, "lib-name") {
        return Err(wrong(format!("Unrecognized option '{}'", shown(attribute))));
    }
    if !is_visible(call.word(3)) {
        return Err(wrong(format!("{} cannot contain spaces, newlines or special characters.", shown(attribute))));
    }
    client(ClientCommand::SetInfo { version, value: within("value", call.word(3), NAME_LEN_MAX)? })
}

/// CLIENT LIST [TYPE type | ID id …]
pub fn client_list<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let (mut ids, mut kind) = (None, None);
    if call.len() == 4 && is(call.word(2), "TYPE") {
        kind = Some(as_kind(call, 3)?);
    } else if call.len() > 3 && is(call.word(2), "ID") {
        let all: Option<Vec<i64>> = call.few(3)?.map(integer).collect();
        let all = all.ok_or_else(|| wrong("Invalid client ID"))?;
        // Nobody has a negative one.
        ids = Some(all.into_iter().filter_map(|id| u64::try_from(id).ok()).collect());
    } else if call.len() != 2 {
        return Err(syntax());
    }
    client(ClientCommand::List { ids, kind })
}

/// CLIENT KILL addr, or with options: [ID id] [TYPE type] [USER user] [ADDR addr] [LADDR addr] [SKIPME yes | no]
pub fn client_kill<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    if call.len() == 3 {
        let kill = KillClients { strict: true, addr: Some(call.data(2)), also_me: true, ..KillClients::default() };
        return client(ClientCommand::Kill(Box::new(kill)));
    }
    let mut kill = KillClients::default();
    let mut place = 2;
    while place < call.len() {
        let option = call.word(place);
        place += 1;
        if place == call.len() {
            return Err(syntax());
        }
        let word = call.word(place);
        if is(option, "ID") {
            let id = integer(word).and_then(|id| u64::try_from(id).ok()).filter(|id| *id >= 1);
            kill.id = Some(id.ok_or_else(|| wrong("client-id should be greater than 0"))?);
        } else if is(option, "TYPE") {
            kill.kind = Some(as_kind(call, place)?);
        } else if is(option, "ADDR") {
            kill.addr = Some(call.data(place));
        } else if is(option, "LADDR") {
            kill.laddr = Some(call.data(place));
        } else if is(option, "USER") {
            if word != USER {
                return Err(wrong(format!("No such user '{}'", shown(word))));
            }
            kill.user = Some(call.data(place));
        } else if is(option, "SKIPME") {
            kill.also_me = !yes_or_no(word, "yes", "no")?;
        } else {
            return Err(syntax());
        }
        place += 1;
    }
    client(ClientCommand::Kill(Box::new(kill)))
}

pub fn client_no_evict<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    client(ClientCommand::NoEvict(yes_or_no(call.word(2), "on", "off")?))
}

pub fn client_no_touch<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    client(ClientCommand::NoTouch(yes_or_no(call.word(2), "on", "off")?))
}

fn client(command: ClientCommand<'_>) -> Result<Command<'_>, Wrong> {
    Ok(Command::Client(command))
}

fn yes_or_no(word: &[u8], yes: &str, no: &str) -> Result<bool, Wrong> {
    if is(word, yes) || is(word, no) { Ok(is(word, yes)) } else { Err(syntax()) }
}

fn as_kind(call: &Call<'_, '_>, place: usize) -> Result<ClientKind, Wrong> {
    let word = call.word(place);
    if is(word, "normal") {
        Ok(ClientKind::Normal)
    } else if ["slave", "replica", "pubsub", "master"].into_iter().any(|kind| is(word, kind)) {
        Ok(ClientKind::Other)
    } else {
        Err(wrong(format!("Unknown client type '{}'", shown(word))))
    }
}

/// The name of a connection, which is shown between spaces.
fn as_name<'a>(call: &Call<'a, '_>, place: usize) -> Result<Bytes<'a>, Wrong> {
    if is_visible(call.word(place)) {
        within("name", call.word(place), NAME_LEN_MAX)
    } else {
        Err(wrong("Client names cannot contain spaces, newlines or special characters."))
    }
}

fn is_visible(word: &[u8]) -> bool {
    word.iter().all(u8::is_ascii_graphic)
}
