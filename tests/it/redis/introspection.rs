//! Introspection. No two servers are the same in it, so both are held to the types and fields that
//! clients rely on.

use super::commands::words;
use super::servers::{Servers, ask, open};
use super::wire::{Answer, Reply};
use crate::client::Client;
use crate::cluster::{DEADLINE, until};

/// Checks both servers, in both versions.
fn for_each(check: impl Fn(&str, u8, &mut Client, &Servers)) {
    let Some(servers) = Servers::start() else { return };
    for (name, addr) in servers.each() {
        for version in [2, 3] {
            let mut connection = open(addr);
            if version == 3 {
                say(&mut connection, "HELLO 3");
            }
            check(&format!("{name} in RESP{version}"), version, &mut connection, &servers);
        }
    }
}

#[track_caller]
fn say(connection: &mut Client, line: &str) -> Answer {
    ask(connection, &words(line))
}

#[track_caller]
fn text(connection: &mut Client, line: &str) -> String {
    let answer = say(connection, line);
    answer.text().unwrap_or_else(|| panic!("{line}: {answer:?}"))
}

#[track_caller]
fn elements(connection: &mut Client, line: &str) -> Vec<Answer> {
    let answer = say(connection, line);
    answer.elements().unwrap_or_else(|| panic!("{line}: {answer:?}"))
}

/// The value of `name:value` in a reply to INFO.
fn info_field(info: &str, name: &str) -> Option<String> {
    info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
}

#[test]
fn info() {
    for_each(|name, version, connection, _| {
        say(connection, "FLUSHALL");
        say(connection, "SET a 1");
        say(connection, "SET b 1 EX 5000");
        let answer = say(connection, "INFO");
        // As redis-py, ioredis and redis-cli read it.
        let format = answer.raw[0];
        assert_eq!(format, if version == 3 { b'=' } else { b'$' }, "{name}: {answer:?}");
        let info = answer.text().expect("text");
        for line in info.lines().map(str::trim_end) {
            assert!(line.is_empty() || line.starts_with("# ") || line.contains(':'), "{name}: {line:?}");
        }
        assert!(info.contains("\r\n"), "{name}: lines end as in Redis");
        let field = |field: &str| info_field(&info, field).unwrap_or_else(|| panic!("{name}: no {field} in {info}"));
        assert!(
            field("redis_version").split('.').filter(|part| part.parse::<u32>().is_ok()).count() >= 2,
            "{name}: {}",
            field("redis_version")
        );
        assert_eq!(field("redis_mode"), "standalone", "{name}");
        assert_eq!(field("role"), "master", "{name}");
        assert_eq!(field("loading"), "0", "{name}");
        for number in [
            "tcp_port",
            "process_id",
            "arch_bits",
            "connected_clients",
            "used_memory",
            "total_connections_received",
            "total_commands_processed",
        ] {
            assert!(field(number).parse::<u64>().is_ok_and(|number| number > 0), "{name}: {number}:{}", field(number));
        }
        for number in ["uptime_in_seconds", "connected_slaves", "keyspace_hits", "keyspace_misses", "expired_keys", "maxmemory"] {
            assert!(field(number).parse::<u64>().is_ok(), "{name}: {number}:{}", field(number));
        }
        assert!(field("db0").starts_with("keys=2,expires=1"), "{name}: db0:{}", field("db0"));
        for section in ["server", "clients", "memory", "stats", "replication", "keyspace", "KEYSPACE"] {
            let info = text(connection, &format!("INFO {section}"));
            let heading = format!("# {}", section.to_lowercase());
            assert!(info.to_lowercase().starts_with(&heading) && info.matches("# ").count() == 1, "{name}: INFO {section}: {info}");
        }
        let two = text(connection, "INFO server keyspace");
        assert!(two.contains("# Server") && two.contains("# Keyspace") && !two.contains("# Memory"), "{name}: {two}");
        for all in ["all", "default", "everything"] {
            assert!(text(connection, &format!("INFO {all}")).contains("# Replication"), "{name}: INFO {all}");
        }
        assert_eq!(text(connection, "INFO nosuchsection"), "", "{name}");
        let count =
            |info: &str| info_field(info, "total_commands_processed").and_then(|number| number.parse::<u64>().ok()).expect("a number");
        let before = count(&info);
        let after = count(&text(connection, "INFO"));
        assert!(after >= before + 10, "{name}: {before} commands, then {after}");
        say(connection, "FLUSHALL");
        assert_eq!(info_field(&text(connection, "INFO keyspace"), "db0"), None, "{name}");
    });
}

/// Libraries ask this to learn which words of a command are keys.
#[test]
fn command() {
    const DATA: &str = "get set setnx setex psetex getset getdel getex mget mset msetnx append strlen getrange setrange incr decr incrby decrby incrbyfloat \
        del unlink exists type touch rename renamenx randomkey keys scan dbsize flushdb flushall expire pexpire expireat pexpireat ttl pttl expiretime \
        pexpiretime persist ping echo time quit reset select auth hello client command config info role wait lolwut object memory multi exec discard watch unwatch";
    let Some(servers) = Servers::start() else { return };
    let mut both = servers.connect(2);
    for name in DATA.split_ascii_whitespace() {
        let [redis, tested] = [&mut both.redis, &mut both.tested].map(|connection| {
            let answer = say(connection, &format!("COMMAND INFO {name}"));
            let spec =
                answer.elements().and_then(|infos| infos.first()?.elements()).unwrap_or_else(|| panic!("COMMAND INFO {name}: {answer:?}"));
            assert!(spec.len() >= 6, "COMMAND INFO {name}: {answer:?}");
            let flags: Vec<String> = spec[2].elements().expect("flags").iter().filter_map(Answer::text).collect();
            let numbers: Vec<Option<i64>> = [1, 3, 4, 5].iter().map(|index| spec[*index].int()).collect();
            let writes = ["write", "readonly"].map(|flag| flags.iter().any(|other| other == flag));
            (spec[0].text(), numbers, writes)
        });
        assert_eq!(redis, tested, "COMMAND INFO {name}: name, arity and keys; whether it writes, whether it reads");
    }
    drop(servers);
    for_each(|name, version, connection, _| {
        let count = say(connection, "COMMAND COUNT").int().expect("a number");
        let all = elements(connection, "COMMAND");
        assert!(count > 50 && all.len() as i64 == count, "{name}: COMMAND COUNT is {count}, COMMAND has {}", all.len());
        for spec in &all {
            assert!(spec.elements().is_some_and(|spec| spec.len() == 10), "{name}: {spec:?}");
        }
        let listed: Vec<String> = elements(connection, "COMMAND LIST").iter().filter_map(Answer::text).collect();
        assert!(DATA.split_ascii_whitespace().all(|name| listed.iter().any(|other| other == name)), "{name}: COMMAND LIST: {listed:?}");
        let two = elements(connection, "COMMAND INFO get nosuchcommand");
        assert!(two.len() == 2 && two[1].reply == Reply::Null, "{name}: {two:?}");
        if version == 3 {
            let flags = &two[0].elements().expect("a description")[2];
            assert!(matches!(flags.reply, Reply::Set(_)), "{name}: {flags:?}");
        }
        let docs = say(connection, "COMMAND DOCS get nosuchcommand set");
        assert_eq!(matches!(docs.reply, Reply::Map(_)), version == 3, "{name}: {docs:?}");
        assert_eq!(docs.elements().map(|elements| elements.len()), Some(4), "{name}: {docs:?}");
        for command in ["get", "set"] {
            let doc = docs.field(command).unwrap_or_else(|| panic!("{name}: {docs:?}"));
            for field in ["summary", "since", "group"] {
                assert!(doc.field(field).and_then(|field| field.text()).is_some_and(|text| !text.is_empty()), "{name}: {field} of {doc:?}");
            }
        }
        // redis-cli asks for everything when it starts.
        let all_docs = elements(connection, "COMMAND DOCS");
        assert!(all_docs.len() as i64 == 2 * count, "{name}: COMMAND DOCS has {} elements, of {count} commands", all_docs.len());
    });
}

#[test]
fn client() {
    for_each(|name, version, connection, servers| {
        let id = say(connection, "CLIENT ID").int().expect("a number");
        let mut other = open(connection.stream().peer_addr().expect("an address"));
        let other_id = say(&mut other, "CLIENT ID").int().expect("a number");
        assert!(other_id > id && id > 0, "{name}: {id}, then {other_id}");
        assert!(matches!(say(connection, "CLIENT GETNAME").reply, Reply::Null), "{name}");
        assert_eq!(text(connection, "CLIENT SETNAME worker-1"), "OK", "{name}");
        assert_eq!(text(connection, "CLIENT GETNAME"), "worker-1", "{name}");
        let line = text(connection, "CLIENT INFO");
        let own = format!("127.0.0.1:{}", connection.stream().local_addr().expect("an address").port());
        let expected = [
            format!("id={id} "),
            "name=worker-1 ".into(),
            "db=0 ".into(),
            "cmd=client|info".into(),
            format!("resp={version}"),
            "user=default".into(),
        ];
        for part in expected {
            assert!(line.contains(&part), "{name}: no {part:?} in {line:?}");
        }
        for field in ["addr", "laddr", "fd", "age", "idle", "flags", "multi", "sub", "psub", "qbuf"] {
            assert!(line.contains(&format!(" {field}=")), "{name}: no {field} in {line:?}");
        }
        let own_port = own.rsplit(':').next().expect("a port");
        assert!(line.contains(&format!(":{own_port} laddr=")), "{name}: no port {own_port} in {line:?}");
        let list = text(connection, "CLIENT LIST");
        assert!([id, other_id].iter().all(|id| list.lines().any(|line| line.starts_with(&format!("id={id} ")))), "{name}: {list}");
        let one = text(connection, &format!("CLIENT LIST ID {other_id}"));
        assert!(one.lines().count() == 1 && one.starts_with(&format!("id={other_id} ")), "{name}: {one}");
        assert_eq!(text(connection, "CLIENT LIST TYPE replica").trim(), "", "{name}");
        assert_eq!(text(connection, "CLIENT NO-EVICT on"), "OK", "{name}");
        assert_eq!(say(connection, &format!("CLIENT KILL ID {other_id}")).int(), Some(1), "{name}");
        assert!(other.rest_until_closed().is_ok_and(|rest| rest.is_empty()), "{name}: not closed");
        until("a killed client is off the list", DEADLINE, || {
            let again = say(connection, &format!("CLIENT KILL ID {other_id}")).int();
            if again == Some(0) { Ok(()) } else { Err(format!("{again:?}")) }
        });
        let mut third = open(connection.stream().peer_addr().expect("an address"));
        say(&mut third, "PING");
        let addr = third.stream().local_addr().expect("an address");
        assert_eq!(text(connection, &format!("CLIENT KILL {addr}")), "OK", "{name}");
        assert!(third.rest_until_closed().is_ok_and(|rest| rest.is_empty()), "{name}: not closed");
        // Not itself, unless it asks for that.
        assert_eq!(say(connection, &format!("CLIENT KILL ID {id} SKIPME yes")).int(), Some(0), "{name}");
        // Newer than this redis-server, and sent by libraries when they connect.
        if servers.tests_a_node() && connection.stream().peer_addr().is_ok_and(|addr| addr == servers.tested) {
            for line in ["CLIENT SETINFO LIB-NAME redis-py", "CLIENT SETINFO lib-ver 5.0.1", "CLIENT NO-TOUCH on"] {
                assert_eq!(text(connection, line), "OK", "{name}: {line}");
            }
            let line = text(connection, "CLIENT INFO");
            assert!(line.contains("lib-name=redis-py lib-ver=5.0.1"), "{name}: {line}");
        }
        assert_eq!(text(connection, "RESET"), "RESET", "{name}");
        assert!(matches!(say(connection, "CLIENT GETNAME").reply, Reply::Null), "{name}");
        assert!(text(connection, "CLIENT INFO").contains("resp=2"), "{name}");
    });
}

#[test]
fn hello() {
    for_each(|name, version, connection, _| {
        for asked in [3, 2, version] {
            let answer = say(connection, &format!("HELLO {asked} SETNAME greeter"));
            assert_eq!(matches!(answer.reply, Reply::Map(_)), asked == 3, "{name}: {answer:?}");
            let field = |field: &str| answer.field(field).unwrap_or_else(|| panic!("{name}: no {field} in {answer:?}"));
            assert_eq!(field("server").text().as_deref(), Some("redis"), "{name}");
            assert_eq!(field("proto").int(), Some(asked.into()), "{name}");
            assert_eq!(field("mode").text().as_deref(), Some("standalone"), "{name}");
            assert_eq!(field("role").text().as_deref(), Some("master"), "{name}");
            assert_eq!(field("id").int(), say(connection, "CLIENT ID").int(), "{name}");
            assert!(field("version").text().is_some_and(|version| version.contains('.')), "{name}");
            assert_eq!(field("modules").elements(), Some(Vec::new()), "{name}");
            assert_eq!(text(connection, "CLIENT GETNAME"), "greeter", "{name}");
        }
        let bare = say(connection, "HELLO");
        assert_eq!(bare.field("proto").and_then(|proto| proto.int()), Some(version.into()), "{name}: {bare:?}");
        // Refused whole: neither the version nor the name changes.
        let wrong = say(connection, "HELLO 4 SETNAME other");
        assert!(matches!(&wrong.reply, Reply::Error(text) if text.starts_with("NOPROTO ")), "{name}: {wrong:?}");
        assert_eq!(text(connection, "CLIENT GETNAME"), "greeter", "{name}");
    });
}

#[test]
fn config_and_role_and_time() {
    for_each(|name, version, connection, _| {
        // redis-benchmark asks for the first two of them.
        for (pattern, least) in
            [("save", 1), ("appendonly", 1), ("maxmemory", 1), ("databases", 1), ("SAVE", 1), ("maxmemory*", 2), ("*", 5), ("nosuch", 0)]
        {
            let answer = say(connection, &format!("CONFIG GET {pattern}"));
            assert_eq!(matches!(answer.reply, Reply::Map(_)), version == 3, "{name}: {answer:?}");
            let pairs = answer.elements().unwrap_or_else(|| panic!("{name}: {answer:?}"));
            assert!(
                pairs.len().is_multiple_of(2) && pairs.len() >= 2 * least && (least > 0 || pairs.is_empty()),
                "{name}: {pattern}: {answer:?}"
            );
            assert!(pairs.iter().all(|word| matches!(word.reply, Reply::Bulk(_))), "{name}: {answer:?}");
        }
        let two = say(connection, "CONFIG GET databases maxmemory");
        assert_eq!(two.field("databases").and_then(|value| value.text()).as_deref(), Some("1"), "{name}: {two:?}");
        assert!(two.field("maxmemory").is_some(), "{name}: {two:?}");
        let role = elements(connection, "ROLE");
        assert!(role.len() == 3 && role[0].text().as_deref() == Some("master"), "{name}: {role:?}");
        assert!(role[1].int().is_some() && role[2].elements().is_some(), "{name}: {role:?}");
        let time: Vec<i64> = elements(connection, "TIME").iter().filter_map(|part| part.text()?.parse().ok()).collect();
        assert!(time.len() == 2 && time[0].abs_diff(super::now_s()) <= 2 && (0..1_000_000).contains(&time[1]), "{name}: {time:?}");
        assert!(text(connection, "LOLWUT").lines().count() >= 1, "{name}");
    });
}

#[test]
fn object_and_memory() {
    for_each(|name, _, connection, servers| {
        say(connection, "FLUSHALL");
        let long = "x".repeat(100);
        for (value, encoding) in [
            ("123", "int"),
            ("-9223372036854775808", "int"),
            ("9223372036854775808", "embstr"),
            ("007", "embstr"),
            ("hello", "embstr"),
            (&long, "raw"),
        ] {
            say(connection, &format!("SET a {value}"));
            assert_eq!(text(connection, "OBJECT ENCODING a"), encoding, "{name}: {value}");
            assert!(say(connection, "MEMORY USAGE a").int().is_some_and(|bytes| bytes >= value.len() as i64), "{name}: {value}");
        }
        assert!(say(connection, "MEMORY USAGE a SAMPLES 5").int().is_some(), "{name}");
        let is_node = servers.tests_a_node() && name.starts_with("kvmesh");
        // Redis remembers how a value was made. Here it follows from the value, and so is the same
        // on all nodes.
        for (made, at_redis, here) in [
            ("SET a 12; APPEND a 3", "raw", "int"),
            ("SET a x; APPEND a y", "raw", "embstr"),
            ("SET a 12; SETRANGE a 1 3", "raw", "int"),
            ("DEL a; SETRANGE a 0 x", "raw", "embstr"),
            ("SET a 1; INCRBYFLOAT a 1", "embstr", "int"),
            ("DEL a; APPEND a 12", "int", "int"),
            ("SET a 12; APPEND a 3; INCR a", "int", "int"),
            ("SET a 12; APPEND a 3; SET a x", "embstr", "embstr"),
        ] {
            made.split("; ").for_each(|line| drop(say(connection, line)));
            let expected = if is_node { here } else { at_redis };
            assert_eq!(text(connection, "OBJECT ENCODING a"), expected, "{name}: {made}");
        }
        for missing in ["OBJECT ENCODING nothing", "MEMORY USAGE nothing"] {
            assert_eq!(say(connection, missing).reply, Reply::Null, "{name}: {missing}");
        }
    });
}

#[test]
fn quit_is_answered_and_closes() {
    for_each(|name, _, connection, _| {
        connection.send(b"*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n").expect("sent");
        assert_eq!(connection.rest_until_closed().expect("a close"), b"+OK\r\n", "{name}");
    });
}
