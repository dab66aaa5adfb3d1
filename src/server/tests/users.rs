//! Users, over real sockets: who may do what, in both protocols, and what changes while a
//! connection is open.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::server::access::Access;

const WRONG: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_KEY: &str = "NOPERM this user has no permissions to access one of the keys used as arguments";

/// A user whose password is the name with `-secret` behind it.
fn user(name: &str, role: &str, keys: &[&str]) -> Value {
    let hash: String = Sha256::digest(format!("{name}-secret").as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut user = json!({ "name": name, "secret_sha256": hash, "role": role });
    if !keys.is_empty() {
        user["keys"] = json!(keys);
    }
    user
}

fn users() -> Vec<Value> {
    let roles = ["monitor", "read", "write", "admin"].map(|role| user(role, role, &[]));
    roles.into_iter().chain([user("shop", "write", &["shop:", "cart:"]), user("default", "read", &[])]).collect()
}

fn with_users(fields: &str) -> Fixture {
    fixture(0, &format!(r#", "users": {}{fields}"#, Value::from(users())))
}

/// Puts other users in force, as a reload does.
fn replace(fixture: &Fixture, users: &[Value]) {
    let config = config(1, 1, &if users.is_empty() { json!({}) } else { json!({ "users": users }) });
    fixture.server.shared.access.replace(Access::new(&config.users, Vec::new()));
}

fn log_in(fixture: &Fixture, name: &str) -> Client {
    let mut client = fixture.connect();
    client.send(format!("AUTH {name} {name}-secret\n"));
    client.expect(&["OK"]);
    client
}

/// Asks both protocols, whose errors differ in their first word alone.
#[track_caller]
fn refused(client: &mut Client, words: &[&str], error: &str) {
    client.ask(words);
    client.hear(&[&format!("-{error}")]);
}

#[track_caller]
fn refused_line(client: &mut Client, line: &str, error: &str) {
    client.send(format!("{line}\n"));
    client.expect(&[&format!("ERROR {error}")]);
}

#[test]
fn nobody_does_anything_before_it_has_said_who_it_is() {
    // A stranger does not learn what is disabled, and is no denial of it.
    let fixture = with_users(r#", "disabled_commands": ["flushall", "get"]"#);
    let mut client = fixture.connect();
    for words in
        [&["GET", "a"][..], &["SET", "a", "1"], &["INFO"], &["MULTI"], &["COMMAND"], &["STATUS"], &["FLUSHALL"], &["SET", "a", "b", "c"]]
    {
        refused(&mut client, words, "NOAUTH Authentication required.");
    }
    for line in ["GET a", "PUT a 1", "STATUS", "HELP", "KEYS", "DUMP", "RESTORE", "ACK local", "COMPACT"] {
        refused_line(&mut client, line, "NOAUTH Authentication required.");
    }
    refused(&mut client, &["HELLO", "3"], "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH");
    client.ask(&["PING"]);
    client.ask(&["RESET"]);
    client.hear(&["+PONG", "+RESET"]);
    client.send("PING\nAUTH\nAUTH read secret of three words\nQUIT\n");
    client.expect(&["PONG", "ERROR SYNTAX AUTH needs a password, or", "ERROR SYNTAX AUTH needs a password, or the name", "OK"]);
    client.expect_end();
    assert_eq!((fixture.store.counts(0).keys, fixture.server.shared.counters.writes.load(Ordering::Relaxed)), (0, 0));
    fixture.stop();
}

#[test]
fn a_role_has_its_own_rights_and_those_below_it() {
    let fixture = with_users(r#", "clients_max": 200"#);
    let ladder: [(&str, &[&[&str]]); 4] = [
        ("monitor", &[&["INFO"], &["STATUS"], &["PEERS"], &["CLIENT", "ID"], &["MULTI"], &["DISCARD"]]),
        ("read", &[&["GET", "a"], &["KEYS", "*"], &["SCAN", "0"], &["DBSIZE"], &["WATCH", "a"], &["DIGEST"]]),
        ("write", &[&["SET", "a", "1"], &["DEL", "a"], &["GETEX", "a", "PERSIST"], &["EXPIRE", "a", "5"]]),
        (
            "admin",
            &[&["FLUSHALL"], &["CLIENT", "LIST"], &["CONFIG", "GET", "port"], &["DEBUG", "SLEEP", "0"], &["CLIENT", "KILL", "ID", "999"]],
        ),
    ];
    for (rank, (name, _)) in ladder.iter().enumerate() {
        for (needed, (_, commands)) in ladder.iter().enumerate() {
            for words in *commands {
                // One connection each: replies may be of many lines.
                let mut client = log_in(&fixture, name);
                client.ask(words);
                let line = client.line();
                let command = words[0].to_lowercase();
                let error = format!("-NOPERM this user has no permissions to run the '{command}");
                assert_eq!(line.starts_with(&error), rank < needed, "{name}: {words:?}: {line}");
                assert_eq!(line.starts_with("-NOPERM"), rank < needed, "{name}: {words:?}: {line}");
            }
        }
    }
    let mut reader = log_in(&fixture, "read");
    for line in ["PUT a 1", "DEL a", "INCR a", "DUMP", "RESTORE", "COMPACT", "RESUME", "RELOAD"] {
        let verb = line.split(' ').next().unwrap();
        refused_line(&mut reader, line, &format!("NOPERM this user has no permissions to run the '{verb}' command"));
    }
    fixture.stop();
}

#[test]
fn what_names_keys_is_held_to_the_prefixes_and_the_rest_is_left_out() {
    let fixture = with_users("");
    for key in ["shop:1", "cart:1", "other", "shop"] {
        fixture.store.merge(fixture.foreign(key, Some("v")), |_| false);
    }
    let mut client = log_in(&fixture, "shop");
    client.send("GET shop:1\nPUT cart:2 v\nGET other\nPUT shop v\nMGET shop:1 other\nDEL other\nCOUNT\nDIGEST\n");
    let no_key = format!("ERROR {NO_KEY}");
    client.expect(&["VALUE v", "OK", &no_key, &no_key, &no_key, &no_key, &no_key, &no_key]);
    for words in [
        &["MGET", "shop:1", "other"][..],
        &["MSET", "shop:1", "a", "other", "b"],
        &["RENAME", "shop:1", "other"],
        &["RENAME", "other", "shop:1"],
        &["WATCH", "other"],
        &["OBJECT", "ENCODING", "other"],
        &["DBSIZE"],
        &["RANDOMKEY"],
    ] {
        refused(&mut client, words, NO_KEY);
    }
    refused(&mut client, &["FLUSHALL"], "NOPERM this user has no permissions to run the 'flushall' command");
    client.ask(&["KEYS", "*"]);
    let mut listed: Vec<String> = (0..7).map(|_| client.line().trim_end().to_owned()).collect();
    assert_eq!(listed.remove(0), "*3");
    listed.retain(|line| !line.starts_with('$'));
    listed.sort();
    assert_eq!(listed, ["cart:1", "cart:2", "shop:1"]);
    client.send("KEYS\n");
    let mut listed: Vec<String> = std::iter::repeat_with(|| client.line()).take_while(|line| line != "END").collect();
    listed.sort();
    assert_eq!(listed, ["KEY cart:1", "KEY cart:2", "KEY shop:1"]);
    // Only what is shown counts.
    client.send("KEYS \"\" 3\nKEYS s 1\n");
    (0..3).for_each(|_| assert!(client.line().starts_with("KEY ")));
    client.expect(&["END"]);
    client.expect(&["KEY shop:1", "END"]);
    for words in [&["SCAN", "0", "COUNT", "100"][..], &["MULTI"], &["SCAN", "0", "COUNT", "100"], &["KEYS", "*"]] {
        client.ask(words);
    }
    client.hear(&["*2", "$1", "0", "*3"]);
    (0..6).for_each(|_| drop(client.line()));
    client.hear(&["+OK", "+QUEUED", "+QUEUED"]);
    client.ask(&["EXEC"]);
    client.hear(&["*2", "*2", "$1", "0", "*3"]);
    (0..6).for_each(|_| drop(client.line()));
    client.hear(&["*3"]);
    fixture.stop();
}

#[test]
fn in_a_transaction_what_is_not_allowed_is_refused_before_it_is_queued_and_again_at_exec() {
    let fixture = with_users("");
    let mut client = log_in(&fixture, "shop");
    for refused in [&["FLUSHALL"][..], &["SET", "other", "1"], &["CONFIG", "GET", "*"]] {
        client.ask(&["MULTI"]);
        client.ask(&["SET", "shop:1", "1"]);
        client.ask(refused);
        client.ask(&["EXEC"]);
        client.hear(&["+OK", "+QUEUED", "-NOPERM", "-EXECABORT Transaction discarded because of previous errors."]);
    }
    // Wrong whoever asks: so EXEC says.
    client.ask(&["MULTI"]);
    client.ask(&["SET", "shop:1", "1", "nonsense"]);
    client.ask(&["SET", "shop:1", "2"]);
    client.ask(&["SET", "cart:1", "3"]);
    client.hear(&["+OK", "+QUEUED", "+QUEUED", "+QUEUED"]);
    replace(&fixture, &[user("shop", "write", &["cart:"])]);
    client.ask(&["EXEC"]);
    client.hear(&["*3", "-ERR syntax error"]);
    client.hear(&[
        "-NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is no longer \
                   allowed for the following reason: no permission to touch the specified keys",
    ]);
    client.hear(&["+OK"]);
    client.ask(&["MULTI"]);
    client.ask(&["SET", "cart:1", "4"]);
    client.hear(&["+OK", "+QUEUED"]);
    replace(&fixture, &[user("another", "write", &[])]);
    client.ask(&["EXEC"]);
    client.hear(&["-EXECABORT Transaction discarded because of: NOAUTH Authentication required."]);
    assert_eq!(fixture.store.read(b"cart:1", |entry| entry.and_then(Entry::value).map(<[u8]>::to_vec)), Some(b"3".to_vec()));
    fixture.stop();
}

#[test]
fn a_change_of_a_user_holds_from_the_next_command_on() {
    let fixture = with_users("");
    let mut client = log_in(&fixture, "write");
    let mut ask = |users: &[Value], line: &str, reply: &str| {
        replace(&fixture, users);
        client.send(format!("{line}\n"));
        client.expect(&[reply]);
    };
    ask(&users(), "PUT a 1", "OK");
    ask(&[user("write", "read", &[])], "PUT a 1", "ERROR NOPERM");
    ask(&[user("write", "read", &["b"])], "GET a", "ERROR NOPERM");
    ask(&[user("write", "write", &[])], "PUT a 1", "OK");
    let mut disabled = user("write", "write", &[]);
    disabled["enabled"] = json!(false);
    ask(&[disabled], "PUT a 1", "ERROR NOAUTH");
    // It has lost what it had: the user comes back, and the connection does not.
    ask(&users(), "PUT a 1", "ERROR NOAUTH");
    ask(&users(), "AUTH write write-secret", "OK");
    let mut other = user("write", "write", &[]);
    other["secret_sha256"] = json!("00".repeat(32));
    ask(&[other], "PUT a 1", "ERROR NOAUTH");
    ask(&users(), "AUTH shop shop-secret", "OK");
    ask(&users(), "COUNT", "ERROR NOPERM");
    // Without users, nobody is asked, and nothing stays of who one was.
    ask(&[], "COUNT", "1");
    ask(&[], "PUT a 1", "OK");
    ask(&users(), "GET a", "ERROR NOAUTH");
    fixture.stop();
}

#[test]
fn a_user_that_is_removed_while_a_long_answer_waits_sees_no_key() {
    let fixture = fixture(1, &format!(r#", "ack_timeout_ms": 60000, "users": {}"#, Value::from(users())));
    fixture.acks.set_up(0, true);
    fixture.store.merge(fixture.foreign("other", Some("v")), |_| false);
    let mut client = log_in(&fixture, "shop");
    client.send("PUT shop:1 1\nKEYS\n");
    fixture.await_waiting();
    replace(&fixture, &[user("another", "read", &[])]);
    fixture.acknowledge(0);
    client.expect(&["OK", "END"]);
    fixture.stop();
}

#[test]
fn passwords_are_checked_and_three_that_are_wrong_close_the_connection() {
    let fixture = with_users("");
    let mut client = fixture.connect();
    client.ask(&["AUTH", "default-secret"]);
    client.ask(&["GET", "a"]);
    client.hear(&["+OK", "$-1"]);
    client.ask(&["HELLO", "3", "AUTH", "write", "write-secret", "SETNAME", "me"]);
    client.hear(&["%7"]);
    drop(client);
    let mut client = log_in(&fixture, "write");
    let begun = Instant::now();
    client.ask(&["AUTH", "read", "wrong"]);
    client.ask(&["GET", "a"]);
    // It stays who it was.
    client.hear(&[&format!("-{WRONG}"), "$-1"]);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    client.send("AUTH nobody x\n");
    client.expect(&[&format!("ERROR {WRONG}")]);
    client.ask(&["HELLO", "2", "AUTH", "write", "wrong"]);
    client.hear(&[&format!("-{WRONG}")]);
    client.expect_end();
    // Nor does a transaction help.
    let mut client = log_in(&fixture, "write");
    client.ask(&["MULTI"]);
    for password in ["a", "b", "c", "write-secret"] {
        client.ask(&["AUTH", "write", password]);
    }
    client.ask(&["EXEC"]);
    client.hear(&["+OK", "+QUEUED", "+QUEUED", "+QUEUED", "+QUEUED", "*4"]);
    let wrong = format!("-{WRONG}");
    client.hear(&[&wrong, &wrong, &wrong, &wrong]);
    client.expect_end();
    assert_eq!(fixture.server.shared.counters.logins_failed.load(Ordering::Relaxed), 3 + 4);
    fixture.stop();
}

#[test]
fn disabled_commands_are_refused_to_everybody_with_and_without_users() {
    for users in ["".to_owned(), format!(r#", "users": {}"#, Value::from(users()))] {
        let fixture = fixture(0, &format!(r#", "disabled_commands": ["FLUSHALL", "client", "put"]{users}"#));
        let mut client = if users.is_empty() { fixture.connect() } else { log_in(&fixture, "admin") };
        let nobody =
            |name: &str| format!("NOPERM nobody may run the '{name}' command: disabled_commands in the configuration of this node has it");
        refused(&mut client, &["FLUSHALL"], &nobody("flushall"));
        refused(&mut client, &["CLIENT", "ID"], &nobody("client|id"));
        refused(&mut client, &["PUT", "a", "1"], &nobody("put"));
        refused_line(&mut client, "PUT a 1", &nobody("PUT"));
        client.ask(&["MULTI"]);
        client.ask(&["FLUSHALL"]);
        client.hear(&["+OK", "-NOPERM"]);
        client.ask(&["DISCARD"]);
        client.ask(&["FLUSHDB"]);
        client.hear(&["+OK", "+OK"]);
        fixture.stop();
    }
}

#[test]
fn acl_tells_who_one_is_what_users_may_and_what_was_refused() {
    let fixture = with_users("");
    let mut shop = log_in(&fixture, "shop");
    let mut admin = log_in(&fixture, "admin");
    shop.ask(&["ACL", "WHOAMI"]);
    shop.hear(&["$4", "shop"]);
    shop.ask(&["ACL", "CAT"]);
    shop.hear(&["*11", "$8", "keyspace"]);
    (0..20).for_each(|_| drop(shop.line()));
    shop.ask(&["ACL", "CAT", "Transaction"]);
    shop.hear(&["*5", "$5", "multi", "$4", "exec", "$7", "discard", "$5", "watch", "$7", "unwatch"]);
    shop.ask(&["ACL", "CAT", "nosuch"]);
    shop.hear(&["-ERR Unknown category 'nosuch'"]);
    for words in [&["ACL", "USERS"][..], &["ACL", "GETUSER", "shop"], &["ACL", "LOG"]] {
        let name = words[1].to_lowercase();
        refused(&mut shop, words, &format!("NOPERM this user has no permissions to run the 'acl|{name}' command"));
    }
    refused(&mut shop, &["ACL", "SETUSER", "x"], "ERR ACL SETUSER is not supported: users are in the configuration file");
    admin.ask(&["ACL", "USERS"]);
    admin.hear(&["*6", "$7", "monitor", "$4", "read", "$5", "write", "$5", "admin", "$4", "shop", "$7", "default"]);
    admin.ask(&["ACL", "GETUSER", "nosuch"]);
    admin.hear(&["$-1"]);
    admin.ask(&["ACL", "GETUSER", "admin"]);
    admin.hear(&[
        "*14",
        "$5",
        "flags",
        "*1",
        "$2",
        "on",
        "$9",
        "passwords",
        "*0",
        "$8",
        "commands",
        "$5",
        "+@all",
        "$4",
        "keys",
        "$2",
        "~*",
    ]);
    (0..11).for_each(|_| drop(admin.line()));
    admin.ask(&["ACL", "GETUSER", "shop"]);
    (0..12).for_each(|_| drop(admin.line()));
    let rules = admin.line();
    assert!(
        rules.starts_with("-@all +") && rules.contains(" +set ") && !rules.contains("flush") && !rules.contains("client|kill"),
        "{rules}"
    );
    admin.hear(&["$4", "keys", "$15", "~shop:* ~cart:*"]);
    (0..11).for_each(|_| drop(admin.line()));
    admin.ask(&["ACL", "LOG", "RESET"]);
    admin.hear(&["+OK"]);
    refused(&mut shop, &["GET", "other"], NO_KEY);
    refused(&mut shop, &["GET", "another"], NO_KEY);
    shop.ask(&["AUTH", "nobody", "a-secret"]);
    shop.hear(&["-WRONGPASS"]);
    admin.ask(&["ACL", "LOG"]);
    admin.hear(&[
        "*2", "*14", "$5", "count", ":1", "$6", "reason", "$4", "auth", "$7", "context", "$8", "toplevel", "$6", "object", "$4", "auth",
    ]);
    admin.hear(&["$8", "username", "$9", "(unknown)"]);
    let rest: String = (0..8 + 8).map(|_| admin.line()).collect();
    assert!(rest.contains("client-info") && !rest.contains("a-secret") && rest.contains(":2"), "{rest}");
    fixture.stop();
}

#[test]
fn without_users_acl_knows_the_default_user_alone() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    client.ask(&["ACL", "WHOAMI"]);
    client.ask(&["ACL", "USERS"]);
    client.ask(&["ACL", "GETUSER", "bob"]);
    client.ask(&["ACL", "LOG", "5"]);
    client.hear(&["$7", "default", "*1", "$7", "default", "$-1", "*0"]);
    client.ask(&["ACL", "GETUSER", "default"]);
    client.hear(&["*14", "$5", "flags", "*2", "$2", "on", "$6", "nopass"]);
    fixture.stop();
}

#[test]
fn who_is_connected_shows_its_user_and_is_closed_by_it() {
    let fixture = with_users("");
    let mut admin = log_in(&fixture, "admin");
    let mut shop = log_in(&fixture, "shop");
    let _nobody = fixture.connect();
    until("all are connected", || fixture.server.clients_len() == 3);
    admin.ask(&["CLIENT", "LIST"]);
    let lines: Vec<String> = (0..4).map(|_| admin.line()).collect();
    for (line, user) in lines[1..].iter().zip(["admin", "shop", "(nobody)"]) {
        assert!(line.contains(&format!(" user={user} ")) && !line.contains("secret"), "{line}");
    }
    drop(admin.line());
    admin.ask(&["CLIENT", "KILL", "USER", "nosuch"]);
    admin.ask(&["CLIENT", "KILL", "USER", "shop"]);
    admin.hear(&["-ERR No such user 'nosuch'", ":1"]);
    shop.expect_end();
    admin.ask(&["RESET"]);
    admin.ask(&["CLIENT", "LIST"]);
    admin.hear(&["+RESET", "-NOAUTH Authentication required."]);
    fixture.stop();
}

#[test]
fn a_client_that_has_not_said_who_it_is_sends_little_and_many_of_them_keep_nobody_out() {
    let fixture = with_users("");
    let mut client = fixture.connect();
    client.send("PING\n".repeat(2_000));
    let last = std::iter::repeat_with(|| client.line()).find(|line| line != "PONG");
    assert_eq!(last.as_deref(), Some("ERROR NOAUTH more than 4096 bytes came before AUTH; this connection is closed"));
    client.expect_end();
    // Half of the 8 clients that the node takes.
    let mut silent: Vec<Client> = (0..7).map(|_| fixture.connect()).collect();
    until("all have come, and the oldest are closed", || {
        fixture.server.shared.clients.admitted() == 8 && fixture.server.clients_len() == 4
    });
    assert_eq!(fixture.server.shared.newcomers.len(), 4);
    silent.drain(..3).for_each(|mut client| client.expect_end());
    let mut honest = log_in(&fixture, "write");
    honest.send("PUT a 1\n");
    honest.expect(&["OK"]);
    drop(silent);
    until("they have left", || fixture.server.clients_len() == 1);
    assert_eq!(fixture.server.shared.newcomers.len(), 0);
    // More than a stranger may send.
    honest.send(format!("PUT a {}\n", "v".repeat(100 << 10)));
    honest.expect(&["OK"]);
    fixture.stop();
}
