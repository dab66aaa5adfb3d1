//! Replies that describe a node to Redis clients, over real sockets.

use std::collections::BTreeMap;
use std::net::Shutdown;

use super::super::introspection::host_and_port;
use crate::server::tests::{Client, Fixture, any_port, closed_fixture, fixture};
use crate::testing::wait::until;
use crate::wire::resp::encoding::request;

/// A reply, as far as these tests look: data and text as they are; `(nil)`; arrays and maps one
/// element behind the other.
fn reply(client: &mut Client) -> Vec<String> {
    let head = client.line();
    let (kind, rest) = head.trim_end().split_at(head.len().min(1));
    match kind {
        "$" | "=" if rest == "-1" => vec!["(nil)".to_owned()],
        "$" | "=" => {
            let len: usize = rest.parse().unwrap();
            let mut text = String::new();
            while text.len() < len + 2 {
                text += &(client.line() + "\n");
            }
            let text = text.strip_suffix("\r\n").unwrap();
            vec![if kind == "=" { text.strip_prefix("txt:").unwrap() } else { text }.to_owned()]
        }
        "*" | "%" => {
            let len: usize = rest.parse().unwrap();
            let elements = if kind == "%" { 2 * len } else { len };
            (0..elements).flat_map(|_| reply(client)).collect()
        }
        "_" => vec!["(nil)".to_owned()],
        _ => vec![head.trim_end().to_owned()],
    }
}

fn ask(client: &mut Client, words: &str) -> Vec<String> {
    let words: Vec<&str> = words.split(' ').map(|word| if word == "''" { "" } else { word }).collect();
    let mut bytes = Vec::new();
    request(&words, &mut bytes);
    client.send(bytes);
    reply(client)
}

fn one(client: &mut Client, words: &str) -> String {
    let mut replies = ask(client, words);
    assert_eq!(replies.len(), 1, "{words}: {replies:?}");
    replies.remove(0)
}

fn info(client: &mut Client, words: &str) -> BTreeMap<String, String> {
    let text = one(client, words);
    let fields = text.split("\r\n").filter(|line| !line.is_empty() && !line.starts_with('#'));
    fields.map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap()).collect()
}

fn number(fields: &BTreeMap<String, String>, name: &str) -> u64 {
    fields.get(name).unwrap_or_else(|| panic!("no {name} in {fields:?}")).parse().unwrap()
}

/// The fields of one line of CLIENT LIST.
fn fields(line: &str) -> BTreeMap<&str, &str> {
    line.trim_end().split(' ').map(|field| field.split_once('=').unwrap()).collect()
}

fn id(client: &mut Client) -> String {
    one(client, "CLIENT ID").trim_start_matches(':').to_owned()
}

fn ends(client: &mut Client) {
    client.expect_end();
}

fn await_left(fixture: &Fixture, clients: usize) {
    until("the others have left", || fixture.server.clients_len() == clients);
}

#[test]
fn hello_says_what_redis_says() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    let id = id(&mut client);
    let fields = |proto: &str| {
        let number = format!(":{id}");
        let fields =
            ["server", "redis", "version", "7.0.15", "proto", proto, "id", &number, "mode", "standalone", "role", "master", "modules"];
        fields.map(str::to_owned)
    };
    assert_eq!(ask(&mut client, "HELLO"), fields(":2"));
    assert_eq!(ask(&mut client, "HELLO 3 SETNAME me"), fields(":3"));
    assert_eq!(one(&mut client, "CLIENT GETNAME"), "me");
    fixture.stop();
}

#[test]
fn names_are_kept_shown_and_taken_back() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    assert_eq!(one(&mut client, "CLIENT GETNAME"), "(nil)");
    assert_eq!(one(&mut client, "CLIENT SETNAME worker-1"), "+OK");
    assert_eq!(one(&mut client, "CLIENT GETNAME"), "worker-1");
    client.send("*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$3\r\na b\r\n");
    assert_eq!(reply(&mut client), ["-ERR Client names cannot contain spaces, newlines or special characters."]);
    assert_eq!(one(&mut client, "CLIENT GETNAME"), "worker-1");
    assert_eq!(one(&mut client, "CLIENT SETNAME ''"), "+OK");
    assert_eq!(one(&mut client, "CLIENT GETNAME"), "(nil)");
    assert_eq!(one(&mut client, "CLIENT SETNAME again"), "+OK");
    assert_eq!(one(&mut client, "CLIENT SETINFO lib-name redis-py"), "+OK");
    assert_eq!(one(&mut client, "CLIENT SETINFO LIB-VER 5.0"), "+OK");
    assert_eq!(one(&mut client, "CLIENT NO-EVICT on"), "+OK");
    assert_eq!(one(&mut client, "CLIENT NO-TOUCH on"), "+OK");
    let line = one(&mut client, "CLIENT INFO");
    let shown = fields(&line);
    assert_eq!((shown["name"], shown["lib-name"], shown["lib-ver"], shown["flags"]), ("again", "redis-py", "5.0", "eT"));
    assert_eq!(one(&mut client, "RESET"), "+RESET");
    let line = one(&mut client, "CLIENT INFO");
    let shown = fields(&line);
    assert_eq!((shown["name"], shown["lib-name"], shown["lib-ver"], shown["flags"]), ("", "redis-py", "5.0", "N"));
    fixture.stop();
}

#[test]
fn names_have_a_bound() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    let (longest, longer) = ("n".repeat(1024), "n".repeat(1025));
    for words in ["CLIENT SETNAME", "HELLO 3 SETNAME", "CLIENT SETINFO lib-name", "CLIENT SETINFO lib-ver"] {
        let said = one(&mut client, &format!("{words} {longer}"));
        assert!(said.ends_with("has 1025 bytes; at most 1024 are allowed"), "{words}: {said}");
    }
    // Nothing of it was done.
    assert_eq!(fields(&one(&mut client, "CLIENT INFO"))["resp"], "2");
    assert_eq!(one(&mut client, &format!("CLIENT SETNAME {longest}")), "+OK");
    assert_eq!(one(&mut client, "CLIENT GETNAME"), longest);
    fixture.stop();
}

#[test]
fn a_line_tells_of_a_connection_what_is_true() {
    let fixture = fixture(0, "");
    let (mut watcher, mut watched) = (fixture.connect(), fixture.connect());
    assert_eq!(ask(&mut watched, "HELLO 3").len(), 13);
    assert_eq!(one(&mut watched, "WATCH a b"), "+OK");
    assert_eq!(one(&mut watched, "MULTI"), "+OK");
    assert_eq!(one(&mut watched, "SET a 1"), "+QUEUED");
    assert_eq!(one(&mut watched, "GET a"), "+QUEUED");
    // Half a request.
    watched.send("*2\r\n$3\r\nGE");
    let (addr, laddr) = (watched.socket.local_addr().unwrap().to_string(), fixture.server.addr().to_string());
    until("all that came was noted", || {
        let lines = one(&mut watcher, "CLIENT LIST ID 2");
        let shown = fields(&lines);
        let told = ["id", "addr", "laddr", "name", "age", "idle", "flags", "db", "multi", "watch", "qbuf", "cmd", "user", "resp"];
        assert!(told.into_iter().all(|name| shown.contains_key(name)), "{lines:?}");
        (shown["id"], shown["addr"], shown["laddr"], shown["flags"], shown["multi"], shown["watch"], shown["cmd"], shown["resp"])
            == ("2", &addr, &laddr, "x", "2", "2", "get", "3")
            && (shown["qbuf"], shown["multi-mem"]) == ("10", "47")
    });
    watched.send("T\r\n$1\r\na\r\n");
    assert_eq!(reply(&mut watched), ["+QUEUED"]);
    assert_eq!(ask(&mut watched, "EXEC"), ["+OK", "1", "1"]);
    until("nothing waits any more", || {
        let lines = one(&mut watcher, "CLIENT LIST ID 2");
        let shown = fields(&lines);
        (shown["multi"], shown["watch"], shown["qbuf"], shown["multi-mem"], shown["cmd"]) == ("-1", "0", "0", "0", "exec")
    });
    // Whoever asks sees itself as it is, too.
    let line = one(&mut watcher, "CLIENT INFO");
    let shown = fields(&line);
    assert_eq!((shown["id"], shown["idle"], shown["cmd"], shown["resp"], shown["db"]), ("1", "0", "client|info", "2", "0"));
    // A line of text has no command by Redis's names.
    watched.send("PING\n");
    assert_eq!(reply(&mut watched), ["PONG"]);
    until("the line was noted", || !fields(&one(&mut watcher, "CLIENT LIST ID 2")).contains_key("cmd"));
    fixture.stop();
}

#[test]
fn a_list_has_who_is_there_and_was_asked_for() {
    let fixture = fixture(0, "");
    let mut clients: Vec<Client> = (0..4).map(|_| fixture.connect()).collect();
    let ids: Vec<String> = clients.iter_mut().map(id).collect();
    assert_eq!(ids, ["1", "2", "3", "4"]);
    let me = &mut clients[0];
    let mut listed = |words: &str| -> Vec<String> { one(me, words).lines().map(|line| fields(line)["id"].to_owned()).collect() };
    assert_eq!(listed("CLIENT LIST"), ids);
    assert_eq!(listed("CLIENT LIST TYPE normal"), ids);
    assert!(listed("CLIENT LIST TYPE replica").is_empty());
    assert_eq!(listed("CLIENT LIST ID 3 99 1 3"), ["3", "1"]);
    assert!(listed("CLIENT LIST ID 99").is_empty());
    drop(clients.pop());
    await_left(&fixture, 3);
    assert_eq!(one(&mut clients[0], "CLIENT LIST").lines().count(), 3);
    fixture.stop();
}

#[test]
fn who_is_killed_is_gone_at_once_and_hears_nothing_more() {
    let fixture = fixture(0, "");
    let (mut me, mut other) = (fixture.connect(), fixture.connect());
    let (mine, its) = (id(&mut me), id(&mut other));
    let addr = other.socket.local_addr().unwrap();
    assert_eq!(one(&mut me, "CLIENT KILL 127.0.0.1:1"), "-ERR No such client");
    assert_eq!(one(&mut me, &format!("CLIENT KILL {addr}")), "+OK");
    // Already not to be seen, whether its session has noticed or not.
    assert_eq!(one(&mut me, &format!("CLIENT KILL {addr}")), "-ERR No such client");
    assert_eq!(one(&mut me, &format!("CLIENT KILL ID {its}")), ":0");
    assert_eq!(fields(&one(&mut me, "CLIENT LIST"))["id"], mine);
    ends(&mut other);
    await_left(&fixture, 1);

    let mut others: Vec<Client> = (0..3).map(|_| fixture.connect()).collect();
    let ids: Vec<String> = others.iter_mut().map(id).collect();
    // Everything that is said must hold.
    assert_eq!(one(&mut me, &format!("CLIENT KILL ID {} ADDR 127.0.0.1:1", ids[0])), ":0");
    assert_eq!(one(&mut me, &format!("CLIENT KILL ID {} TYPE pubsub", ids[0])), ":0");
    assert_eq!(one(&mut me, &format!("CLIENT KILL ID {} TYPE normal USER default", ids[0])), ":1");
    ends(&mut others[0]);
    // Without the one that asks, unless it says so.
    assert_eq!(one(&mut me, &format!("CLIENT KILL LADDR {}", fixture.server.addr())), ":2");
    assert_eq!(one(&mut me, &format!("CLIENT KILL ID {mine}")), ":0");
    ends(&mut others[1]);
    ends(&mut others[2]);
    await_left(&fixture, 1);
    fixture.stop();
}

#[test]
fn who_kills_itself_hears_the_reply_first() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    let addr = client.socket.local_addr().unwrap();
    let mut bytes = Vec::new();
    request(&["SET", "before", "1"], &mut bytes);
    request(&["CLIENT", "KILL", &addr.to_string()], &mut bytes);
    request(&["SET", "behind", "1"], &mut bytes);
    client.send(bytes);
    client.expect(&["+OK\r", "+OK\r"]);
    ends(&mut client);
    let mut client = fixture.connect();
    let mine = id(&mut client);
    assert_eq!(one(&mut client, &format!("CLIENT KILL ID {mine} SKIPME no")), ":1");
    ends(&mut client);
    assert_eq!((fixture.store.entry(b"before").is_some(), fixture.store.entry(b"behind").is_some()), (true, false));
    fixture.stop();
}

#[test]
fn in_a_transaction_too_with_what_it_has_written() {
    let fixture = fixture(2, r#", "ack_timeout_ms": 300"#);
    let mut client = fixture.connect();
    let mine = id(&mut client);
    assert_eq!(one(&mut client, "MULTI"), "+OK");
    assert_eq!(one(&mut client, "SET a 1"), "+QUEUED");
    assert_eq!(one(&mut client, &format!("CLIENT KILL ID {mine} SKIPME no")), "+QUEUED");
    // No peer acknowledges the write: the client hears so before it is closed.
    let heard = ask(&mut client, "EXEC");
    assert!(heard[0].starts_with("-TIMEOUT"), "{heard:?}");
    ends(&mut client);

    let mut client = fixture.connect();
    let mine = id(&mut client);
    assert_eq!(one(&mut client, "MULTI"), "+OK");
    assert_eq!(one(&mut client, "PING"), "+QUEUED");
    assert_eq!(one(&mut client, &format!("CLIENT KILL ID {mine} SKIPME no")), "+QUEUED");
    assert_eq!(ask(&mut client, "EXEC"), ["+PONG", ":1"]);
    ends(&mut client);
    fixture.stop();
}

#[test]
fn who_waits_for_long_can_be_killed() {
    let fixture = fixture(2, "");
    let (mut me, mut waiting) = (fixture.connect(), fixture.connect());
    let its = id(&mut waiting);
    let mut bytes = Vec::new();
    request(&["ACK", "local"], &mut bytes);
    request(&["SET", "a", "1"], &mut bytes);
    request(&["WAIT", "2", "0"], &mut bytes);
    request(&["SET", "b", "1"], &mut bytes);
    waiting.send(bytes);
    until("it waits", || number(&info(&mut me, "INFO clients"), "blocked_clients") == 1);
    assert_eq!(one(&mut me, &format!("CLIENT KILL ID {its}")), ":1");
    await_left(&fixture, 1);
    assert_eq!(number(&info(&mut me, "INFO clients"), "blocked_clients"), 0);
    assert!(fixture.store.entry(b"b").is_none(), "what it had sent is not executed any more");
    fixture.stop();
}

#[test]
fn info_has_the_sections_that_are_asked_for() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    let titles =
        |text: String| -> Vec<String> { text.split("\r\n").filter_map(|line| line.strip_prefix("# ")).map(str::to_owned).collect() };
    let all = ["Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "CPU", "Cluster", "Keyspace", "Kvmesh"];
    for words in ["INFO", "INFO all", "INFO default", "INFO everything", "info EVERYTHING"] {
        assert_eq!(titles(one(&mut client, words)), all, "{words}");
    }
    assert_eq!(titles(one(&mut client, "INFO cpu KEYSPACE server")), ["Server", "CPU", "Keyspace"]);
    assert_eq!(one(&mut client, "INFO nothing"), "");
    assert_eq!(one(&mut client, "INFO keyspace"), "# Keyspace\r\n");
    let text = one(&mut client, "INFO cluster keyspace");
    assert_eq!(text, "# Cluster\r\ncluster_enabled:0\r\n\r\n# Keyspace\r\n");
    // As text that is to be shown as it is, in the newer protocol.
    ask(&mut client, "HELLO 3");
    client.send("*2\r\n$4\r\nINFO\r\n$7\r\ncluster\r\n");
    client.expect(&["=34\r", "txt:# Cluster\r", "cluster_enabled:0\r", "\r"]);
    fixture.stop();
}

#[test]
fn figures_are_those_of_this_node() {
    let fixture = fixture(0, r#", "memory_max": 1048576"#);
    let mut client = fixture.connect();
    let before = info(&mut client, "INFO");
    assert_eq!(before["run_id"].len(), 40);
    assert!(before["run_id"].ends_with(&format!("1{:016x}", 7)));
    assert_eq!(number(&before, "process_id"), u64::from(std::process::id()));
    assert_eq!(number(&before, "tcp_port"), u64::from(fixture.server.addr().port()));
    assert_eq!((number(&before, "connected_clients"), number(&before, "maxclients")), (1, 8));
    assert_eq!((number(&before, "used_memory"), &*before["used_memory_human"]), (0, "0B"));
    assert_eq!((number(&before, "maxmemory"), &*before["maxmemory_human"]), (1 << 20, "1.00M"));
    assert!((1 << 20..number(&before, "total_system_memory")).contains(&number(&before, "used_memory_rss")));
    assert_eq!((number(&before, "loading"), number(&before, "aof_enabled")), (0, 0));
    assert_eq!((number(&before, "total_connections_received"), number(&before, "total_commands_processed")), (1, 1));
    assert_eq!((&*before["role"], number(&before, "connected_slaves"), number(&before, "master_repl_offset")), ("master", 0, 0));
    assert!(!before.contains_key("db0"));
    assert_eq!((&*before["state"], &*before["ack"], number(&before, "members_up")), ("open", "majority", 1));

    assert_eq!(one(&mut client, "SET a 1"), "+OK");
    assert_eq!(one(&mut client, "SET b 1 PX 100000"), "+OK");
    assert_eq!(one(&mut client, "SET c 1"), "+OK");
    assert_eq!(one(&mut client, "DEL c"), ":1");
    let mut other = fixture.connect();
    assert_eq!(id(&mut other), "2");
    drop(other);
    await_left(&fixture, 1);
    let after = info(&mut client, "INFO");
    let ttl = after["db0"].strip_prefix("keys=2,expires=1,avg_ttl=").unwrap().parse::<u64>().unwrap();
    assert!((1..=100_000).contains(&ttl), "{after:?}");
    assert_eq!(number(&after, "used_memory"), fixture.store.memory().total() as u64);
    assert_eq!((number(&after, "total_connections_received"), number(&after, "total_commands_processed")), (2, 7));
    assert_eq!(number(&after, "master_repl_offset"), fixture.replica.submit().position().to_bits());
    assert_eq!(ask(&mut client, "ROLE"), ["master", &format!(":{}", after["master_repl_offset"])]);
    let cpu = |fields: &BTreeMap<String, String>| {
        fields["used_cpu_user"].parse::<f64>().unwrap() + fields["used_cpu_sys"].parse::<f64>().unwrap()
    };
    until("time is spent", || cpu(&info(&mut client, "INFO cpu")) > cpu(&after));
    fixture.stop();
}

#[test]
fn who_is_turned_away_is_counted() {
    let fixture = fixture(0, "");
    let mut clients: Vec<Client> = (0..8).map(|_| fixture.connect()).collect();
    assert_eq!(clients.iter_mut().map(id).count(), 8);
    let mut late = fixture.connect();
    late.expect(&["ERROR BUSY 8 clients are connected"]);
    let stats = info(&mut clients[0], "INFO stats");
    assert_eq!((number(&stats, "rejected_connections"), number(&stats, "total_connections_received")), (1, 8));
    fixture.stop();
}

#[test]
fn a_node_that_loads_says_so() {
    let fixture = closed_fixture(any_port(), 2, "");
    let mut client = fixture.connect();
    let fields = info(&mut client, "INFO persistence kvmesh");
    assert_eq!((number(&fields, "loading"), &*fields["state"]), (1, "recovering"));
    assert!(one(&mut client, "GET a").starts_with("-LOADING"));
    assert_eq!(one(&mut client, "CLIENT SETNAME a"), "+OK");
    assert_eq!(ask(&mut client, "CONFIG GET save"), ["save", ""]);
    fixture.stop();
}

#[test]
fn config_get_answers_what_has_an_answer() {
    let fixture = fixture(0, r#", "memory_max": 4096, "fsync": "never", "data_dir": "/nowhere/n1""#);
    let mut client = fixture.connect();
    let port = fixture.server.addr().port().to_string();
    for (name, value) in [
        ("save", ""),
        // Without a disk, as here.
        ("appendonly", "no"),
        ("appendfsync", "no"),
        ("maxmemory", "4096"),
        ("maxmemory-policy", "noeviction"),
        ("maxclients", "8"),
        ("databases", "1"),
        ("proto-max-bulk-len", "1048576"),
        ("bind", "127.0.0.1"),
        ("port", &port),
        ("dir", "/nowhere/n1"),
        ("timeout", "0"),
        ("tcp-keepalive", "60"),
        ("cluster-enabled", "no"),
        ("notify-keyspace-events", ""),
    ] {
        assert_eq!(ask(&mut client, &format!("CONFIG GET {name}")), [name, value]);
    }
    assert_eq!(
        ask(&mut client, "CONFIG GET MAXmemory* s?ve maxmemory"),
        ["maxmemory-policy", "noeviction", "save", "", "maxmemory", "4096"]
    );
    assert!(ask(&mut client, "CONFIG GET lua-time-limit").is_empty());
    assert!(ask(&mut client, "CONFIG GET *").len() >= 2 * 15);
    ask(&mut client, "HELLO 3");
    client.send("*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$4\r\nsave\r\n");
    client.expect(&["%1\r", "$4\r", "save\r", "$0\r", "\r"]);
    fixture.stop();
}

#[test]
fn lolwut_ends_with_the_version() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    let version = format!("kvmesh ver. {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(one(&mut client, "LOLWUT").lines().last(), Some(version.as_str()));
    client.socket.shutdown(Shutdown::Both).unwrap();
    fixture.stop();
}

#[test]
fn an_address_is_taken_apart() {
    assert_eq!(host_and_port("127.0.0.1:7101"), ("127.0.0.1", "7101"));
    assert_eq!(host_and_port("node-2.example:7101"), ("node-2.example", "7101"));
    assert_eq!(host_and_port("[::1]:7101"), ("::1", "7101"));
}

#[test]
fn hits_and_misses_are_counted_as_redis_counts_them() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    let mut change = |words: &str| {
        let read = |client: &mut Client| {
            let stats = info(client, "INFO stats");
            (number(&stats, "keyspace_hits"), number(&stats, "keyspace_misses"))
        };
        let before = read(&mut client);
        words.split(" | ").for_each(|words| drop(ask(&mut client, words)));
        let after = read(&mut client);
        (after.0 - before.0, after.1 - before.1)
    };
    assert_eq!(change("SET k abc | SET empty ''"), (0, 0));
    // Something empty is there.
    for words in
        ["GET k", "GET empty", "STRLEN empty", "GETRANGE empty 0 1", "TTL k", "TYPE k", "OBJECT ENCODING k", "GETEX k", "GETEX k PERSIST"]
    {
        assert_eq!(change(words), (1, 0), "{words}");
    }
    for words in
        ["GET no", "STRLEN no", "GETRANGE no 0 1", "TTL no", "TYPE no", "GETDEL no", "GETEX no EX 0", "GETEX no EX 5", "SET no 1 XX GET"]
    {
        assert_eq!(change(words), (0, 1), "{words}");
    }
    assert_eq!((change("EXISTS k no k"), change("MGET k no empty"), change("TOUCH k no")), ((2, 1), (2, 1), (1, 1)));
    assert_eq!((change("GETSET g 1"), change("SET g 2 GET"), change("GETDEL g")), ((0, 1), (1, 0), (1, 0)));
    for words in [
        "MEMORY USAGE k",
        "APPEND k x",
        "INCR n",
        "SETRANGE k 0 x",
        "EXPIRE k 9",
        "PERSIST k",
        "DEL no",
        "RENAME k k2",
        "RENAME k2 k",
        "KEYS *",
        "WATCH k",
    ] {
        assert_eq!(change(words), (0, 0), "{words}");
    }
    // What a transaction has made itself is there for what comes behind it.
    assert_eq!(
        change("MULTI | GET k | GET no | STRLEN empty | EXISTS k no | MGET k no | GETDEL k | GET k | SET q 1 GET | SET q 1 GET | EXEC"),
        (6, 5)
    );
    assert_eq!(change("MULTI | GET empty | GET no | EXEC"), (1, 1));
    assert_eq!(change("MULTI | GET empty | DISCARD"), (0, 0));
    fixture.stop();
}
