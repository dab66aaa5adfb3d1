//! Commands that concern the connection or the node.

use std::time::Duration;

use super::*;
use crate::wire::ack_level::AckLevel;
use crate::wire::command::{
    Admin, Blocking, ClientCommand, ClientKind, CommandQuery, ConnectionCommand, Introspection, KillClients, ListFilter, Login, Password,
    SessionCommand,
};
use crate::wire::resp::RespVersion;

#[test]
fn connections() {
    takes("PING", ConnectionCommand::Ping { message: None });
    takes("ping ''", ConnectionCommand::Ping { message: Some(bytes("")) });
    refuses("PING a b", "wrong number of arguments for 'ping' command");
    takes("ECHO a", ConnectionCommand::Echo { message: bytes("a") });
    takes("QUIT", SessionCommand::Quit);
    takes("quit now", SessionCommand::Quit);
    takes("RESET", SessionCommand::Reset);
    takes("SELECT 0", ConnectionCommand::NoOp);
    refuses("SELECT 1", "DB index is out of range");
    refuses("SELECT -1", "DB index is out of range");
    refuses("SELECT x", "value is not an integer or out of range");
    refuses("SELECT 2147483648", "value is out of range, value must between -2147483648 and 2147483647");
    let login = |user: Option<&'static str>, password| Box::new(Login { user: user.map(bytes), password: Password(bytes(password)) });
    takes("AUTH bob x", ConnectionCommand::Authenticate(login(Some("bob"), "x")));
    takes("AUTH x", ConnectionCommand::Authenticate(login(None, "x")));
    refuses("AUTH x y z", "syntax error");
    takes("HELLO", ConnectionCommand::Hello { version: None, login: None, name: None });
    takes("HELLO 2", ConnectionCommand::Hello { version: Some(RespVersion::Two), login: None, name: None });
    takes(
        "hello 3 setname a auth bob b",
        ConnectionCommand::Hello { version: Some(RespVersion::Three), login: Some(login(Some("bob"), "b")), name: Some(bytes("a")) },
    );
    refuses("HELLO 4", "unsupported protocol version");
    refuses("HELLO x", "Protocol version is not an integer or out of range");
    refuses("HELLO 3 AUTH default", "Syntax error in HELLO option 'AUTH'");
    refuses("HELLO 3 SETNAME", "Syntax error in HELLO option 'SETNAME'");
    refuses_words(&[b"HELLO", b"3", b"SETNAME", b"a b"], "Client names cannot contain spaces, newlines or special characters.");
    takes("MULTI", SessionCommand::Multi);
    takes("EXEC", SessionCommand::Exec);
    takes("DISCARD", SessionCommand::Discard);
    takes("WATCH k l", SessionCommand::Watch { keys: all(&["k", "l"]) });
    takes("UNWATCH", ConnectionCommand::Unwatch);
    refuses("EXEC now", "Transaction discarded because of: wrong number of arguments for 'exec' command");
}

#[test]
fn clients() {
    takes("CLIENT ID", ClientCommand::Id);
    takes("client info", ClientCommand::Info);
    takes("CLIENT GETNAME", ClientCommand::GetName);
    takes("CLIENT SETNAME ''", ClientCommand::SetName(bytes("")));
    refuses_words(&[b"CLIENT", b"SETNAME", b"a\nb"], "Client names cannot contain spaces, newlines or special characters.");
    // These two as Redis 7.2 has them.
    takes("CLIENT SETINFO LIB-NAME redis-py", ClientCommand::SetInfo { version: false, value: bytes("redis-py") });
    takes("CLIENT SETINFO lib-ver 5.0", ClientCommand::SetInfo { version: true, value: bytes("5.0") });
    refuses("CLIENT SETINFO lib x", "Unrecognized option 'lib'");
    refuses_words(&[b"CLIENT", b"SETINFO", b"lib-ver", b"5 0"], "lib-ver cannot contain spaces, newlines or special characters.");
    takes("CLIENT NO-TOUCH ON", ClientCommand::NoTouch(true));
    takes("CLIENT NO-EVICT off", ClientCommand::NoEvict(false));
    refuses("CLIENT NO-EVICT maybe", "syntax error");
    takes("CLIENT LIST", ClientCommand::List { ids: None, kind: None });
    takes("CLIENT LIST TYPE normal", ClientCommand::List { ids: None, kind: Some(ClientKind::Normal) });
    takes("CLIENT LIST TYPE PubSub", ClientCommand::List { ids: None, kind: Some(ClientKind::Other) });
    takes("CLIENT LIST ID 1 -2 3", ClientCommand::List { ids: Some(vec![1, 3]), kind: None });
    refuses("CLIENT LIST ID x", "Invalid client ID");
    refuses("CLIENT LIST TYPE foo", "Unknown client type 'foo'");
    for line in ["CLIENT LIST ID", "CLIENT LIST TYPE", "CLIENT LIST foo", "CLIENT LIST TYPE normal normal"] {
        refuses(line, "syntax error");
    }
    let kill = |kill| ClientCommand::Kill(Box::new(kill));
    let none = KillClients::default();
    takes("CLIENT KILL 1.2.3.4:5", kill(KillClients { strict: true, addr: Some(bytes("1.2.3.4:5")), also_me: true, ..none.clone() }));
    takes("CLIENT KILL ID 5 skipme no", kill(KillClients { id: Some(5), also_me: true, ..none.clone() }));
    takes(
        "CLIENT KILL ADDR a LADDR b TYPE slave USER default SKIPME yes",
        kill(KillClients {
            addr: Some(bytes("a")),
            laddr: Some(bytes("b")),
            kind: Some(ClientKind::Other),
            user: Some(bytes("default")),
            ..none
        }),
    );
    for id in ["0", "-1", "x", "9223372036854775808"] {
        refuses(&format!("CLIENT KILL ID {id}"), "client-id should be greater than 0");
    }
    refuses("CLIENT KILL TYPE foo", "Unknown client type 'foo'");
    for line in ["CLIENT KILL foo bar", "CLIENT KILL ID 5 SKIPME", "CLIENT KILL SKIPME maybe"] {
        refuses(line, "syntax error");
    }
}

#[test]
fn nodes() {
    takes("COMMAND", CommandQuery::Info(None));
    takes("command count", CommandQuery::Count);
    takes("COMMAND INFO", CommandQuery::Info(None));
    takes("COMMAND INFO Get CLIENT|ID", CommandQuery::Info(Some(vec!["get".into(), "client|id".into()])));
    takes("COMMAND DOCS", CommandQuery::Docs(Vec::new()));
    takes("COMMAND LIST", CommandQuery::List(None));
    takes("COMMAND LIST FILTERBY aclcat READ", CommandQuery::List(Some(ListFilter::Category("read".into()))));
    takes("COMMAND LIST filterby PATTERN G*", CommandQuery::List(Some(ListFilter::Pattern(b"G*".to_vec()))));
    takes("COMMAND LIST FILTERBY MODULE x", CommandQuery::List(Some(ListFilter::Module)));
    for line in ["COMMAND LIST x", "COMMAND LIST FILTERBY foo x", "COMMAND LIST FILTERBY MODULE", "COMMAND LIST FILTERBY MODULE x y"] {
        refuses(line, "syntax error");
    }
    takes("CONFIG GET Save max*", Introspection::Config { patterns: all(&["save", "max*"]) });
    takes("INFO", Admin::Info { sections: Vec::new() });
    takes("INFO Server CLIENTS", Admin::Info { sections: vec!["server".into(), "clients".into()] });
    takes("INFO server everything", Admin::Info { sections: Vec::new() });
    takes("ROLE", Introspection::Role);
    takes("TIME", Introspection::Time);
    takes("LOLWUT a b c", Introspection::Lolwut);
    refuses("LOLWUT VERSION x", "value is not an integer or out of range");
    takes("WAIT 1 100", Blocking::Wait { peers: 1, timeout: Some(Duration::from_millis(100)) });
    takes("WAIT -1 0", Blocking::Wait { peers: 0, timeout: None });
    refuses("WAIT x 0", "value is not an integer or out of range");
    refuses("WAIT 0 x", "timeout is not an integer or out of range");
    refuses("WAIT 0 -1", "timeout is negative");
    // As Redis 7.2 has it.
    takes("WAITAOF 1 2 100", Blocking::WaitDurable { local: true, peers: 2, timeout: Some(Duration::from_millis(100)) });
    refuses("WAITAOF 2 0 0", "value is out of range, value must between 0 and 1");
    refuses("WAITAOF 0 -1 0", "value is out of range, must be positive");
    // kvmesh's own.
    takes("DEBUG SLEEP 0.5", Blocking::Sleep { time: Duration::from_millis(500) });
    for time in ["61", "-1", "x", "nan", "inf", "''"] {
        refuses(&format!("DEBUG SLEEP {time}"), "the time to sleep must be a number of seconds from 0 to 60");
    }
    takes("ACK", SessionCommand::Ack { level: None });
    takes("ack ALL", SessionCommand::Ack { level: Some(AckLevel::All) });
    refuses("ACK some", "\"some\" is no ack level; expected local, majority or all");
    refuses("ACK all all", "syntax error");
    takes("STATUS", Admin::Status);
    takes("PEERS", Admin::Peers);
    takes("RESUME", Admin::Resume);
    takes("RELOAD", Admin::Reload);
    takes("COMPACT", Admin::Compact);
}
