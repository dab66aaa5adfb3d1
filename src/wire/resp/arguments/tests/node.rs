//! Commands that concern the connection or the node.

use std::time::Duration;

use super::*;
use crate::wire::ack_level::AckLevel;
use crate::wire::command::{Catalogue, ClientCommand, ClientKind, KillClients, ListFilter};
use crate::wire::resp::RespVersion;

#[test]
fn connections() {
    takes("PING", Command::Ping { message: None });
    takes("ping ''", Command::Ping { message: Some(bytes("")) });
    refuses("PING a b", "wrong number of arguments for 'ping' command");
    takes("ECHO a", Command::Echo { message: bytes("a") });
    takes("QUIT", Command::Quit);
    takes("quit now", Command::Quit);
    takes("RESET", Command::Reset);
    takes("SELECT 0", Command::Nothing);
    refuses("SELECT 1", "DB index is out of range");
    refuses("SELECT -1", "DB index is out of range");
    refuses("SELECT x", "value is not an integer or out of range");
    refuses("SELECT 2147483648", "value is out of range, value must between -2147483648 and 2147483647");
    takes("AUTH default x", Command::Nothing);
    refuses("AUTH Default x", "invalid username-password pair or user is disabled.");
    refuses("AUTH x y z", "syntax error");
    refuses(
        "AUTH x",
        "AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
    );
    takes("HELLO", Command::Hello { version: None, name: None });
    takes("HELLO 2", Command::Hello { version: Some(RespVersion::Two), name: None });
    takes("hello 3 setname a auth default b", Command::Hello { version: Some(RespVersion::Three), name: Some(bytes("a")) });
    refuses("HELLO 4", "unsupported protocol version");
    refuses("HELLO x", "Protocol version is not an integer or out of range");
    refuses("HELLO 3 AUTH bob x", "invalid username-password pair or user is disabled.");
    refuses("HELLO 3 AUTH default", "Syntax error in HELLO option 'AUTH'");
    refuses("HELLO 3 SETNAME", "Syntax error in HELLO option 'SETNAME'");
    refuses_words(&[b"HELLO", b"3", b"SETNAME", b"a b"], "Client names cannot contain spaces, newlines or special characters.");
    takes("MULTI", Command::Multi);
    takes("EXEC", Command::Exec);
    takes("DISCARD", Command::Discard);
    takes("WATCH k l", Command::Watch { keys: all(&["k", "l"]) });
    takes("UNWATCH", Command::Unwatch);
    refuses("EXEC now", "Transaction discarded because of: wrong number of arguments for 'exec' command");
}

#[test]
fn clients() {
    let client = Command::Client;
    takes("CLIENT ID", client(ClientCommand::Id));
    takes("client info", client(ClientCommand::Info));
    takes("CLIENT GETNAME", client(ClientCommand::GetName));
    takes("CLIENT SETNAME ''", client(ClientCommand::SetName(bytes(""))));
    refuses_words(&[b"CLIENT", b"SETNAME", b"a\nb"], "Client names cannot contain spaces, newlines or special characters.");
    // These two as Redis 7.2 has them.
    takes("CLIENT SETINFO LIB-NAME redis-py", client(ClientCommand::SetInfo { version: false, value: bytes("redis-py") }));
    takes("CLIENT SETINFO lib-ver 5.0", client(ClientCommand::SetInfo { version: true, value: bytes("5.0") }));
    refuses("CLIENT SETINFO lib x", "Unrecognized option 'lib'");
    refuses_words(&[b"CLIENT", b"SETINFO", b"lib-ver", b"5 0"], "lib-ver cannot contain spaces, newlines or special characters.");
    takes("CLIENT NO-TOUCH ON", client(ClientCommand::NoTouch(true)));
    takes("CLIENT NO-EVICT off", client(ClientCommand::NoEvict(false)));
    refuses("CLIENT NO-EVICT maybe", "syntax error");
    takes("CLIENT LIST", client(ClientCommand::List { ids: None, kind: None }));
    takes("CLIENT LIST TYPE normal", client(ClientCommand::List { ids: None, kind: Some(ClientKind::Normal) }));
    takes("CLIENT LIST TYPE PubSub", client(ClientCommand::List { ids: None, kind: Some(ClientKind::Other) }));
    takes("CLIENT LIST ID 1 -2 3", client(ClientCommand::List { ids: Some(vec![1, 3]), kind: None }));
    refuses("CLIENT LIST ID x", "Invalid client ID");
    refuses("CLIENT LIST TYPE foo", "Unknown client type 'foo'");
    for line in ["CLIENT LIST ID", "CLIENT LIST TYPE", "CLIENT LIST foo", "CLIENT LIST TYPE normal normal"] {
        refuses(line, "syntax error");
    }
    let kill = |kill| client(ClientCommand::Kill(Box::new(kill)));
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
    refuses("CLIENT KILL USER bob", "No such user 'bob'");
    refuses("CLIENT KILL TYPE foo", "Unknown client type 'foo'");
    for line in ["CLIENT KILL foo bar", "CLIENT KILL ID 5 SKIPME", "CLIENT KILL SKIPME maybe"] {
        refuses(line, "syntax error");
    }
}

#[test]
fn nodes() {
    let catalogue = Command::Catalogue;
    takes("COMMAND", catalogue(Catalogue::Info(None)));
    takes("command count", catalogue(Catalogue::Count));
    takes("COMMAND INFO", catalogue(Catalogue::Info(None)));
    takes("COMMAND INFO Get CLIENT|ID", catalogue(Catalogue::Info(Some(vec!["get".into(), "client|id".into()]))));
    takes("COMMAND DOCS", catalogue(Catalogue::Docs(Vec::new())));
    takes("COMMAND LIST", catalogue(Catalogue::List(None)));
    takes("COMMAND LIST FILTERBY aclcat READ", catalogue(Catalogue::List(Some(ListFilter::Category("read".into())))));
    takes("COMMAND LIST filterby PATTERN G*", catalogue(Catalogue::List(Some(ListFilter::Pattern(b"G*".to_vec())))));
    takes("COMMAND LIST FILTERBY MODULE x", catalogue(Catalogue::List(Some(ListFilter::Module))));
    for line in ["COMMAND LIST x", "COMMAND LIST FILTERBY foo x", "COMMAND LIST FILTERBY MODULE", "COMMAND LIST FILTERBY MODULE x y"] {
        refuses(line, "syntax error");
    }
    takes("CONFIG GET Save max*", Command::Config { patterns: all(&["save", "max*"]) });
    takes("INFO", Command::Info { sections: Vec::new() });
    takes("INFO Server CLIENTS", Command::Info { sections: vec!["server".into(), "clients".into()] });
    takes("INFO server everything", Command::Info { sections: Vec::new() });
    takes("ROLE", Command::Role);
    takes("TIME", Command::Time);
    takes("LOLWUT a b c", Command::Lolwut);
    refuses("LOLWUT VERSION x", "value is not an integer or out of range");
    takes("WAIT 1 100", Command::Wait { peers: 1, timeout: Some(Duration::from_millis(100)) });
    takes("WAIT -1 0", Command::Wait { peers: 0, timeout: None });
    refuses("WAIT x 0", "value is not an integer or out of range");
    refuses("WAIT 0 x", "timeout is not an integer or out of range");
    refuses("WAIT 0 -1", "timeout is negative");
    // As Redis 7.2 has it.
    takes("WAITAOF 1 2 100", Command::WaitDurable { local: true, peers: 2, timeout: Some(Duration::from_millis(100)) });
    refuses("WAITAOF 2 0 0", "value is out of range, value must between 0 and 1");
    refuses("WAITAOF 0 -1 0", "value is out of range, must be positive");
    // kvmesh's own.
    takes("DEBUG SLEEP 0.5", Command::Sleep { time: Duration::from_millis(500) });
    for time in ["61", "-1", "x", "nan", "inf", "''"] {
        refuses(&format!("DEBUG SLEEP {time}"), "the time to sleep must be a number of seconds from 0 to 60");
    }
    takes("ACK", Command::Ack { level: None });
    takes("ack ALL", Command::Ack { level: Some(AckLevel::All) });
    refuses("ACK some", "\"some\" is no ack level; expected local, majority or all");
    refuses("ACK all all", "syntax error");
    takes("STATUS", Command::Status);
    takes("PEERS", Command::Peers);
    takes("RESUME", Command::Resume);
    takes("COMPACT", Command::Compact);
}
