//! Configurations that are accepted, others that are refused, and the exact words of each refusal.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::addr::ADDR_EXPECTED;
use super::*;
use crate::wire::ack_level::AckLevel;
use crate::wire::role::Role;

/// A node that is accepted, with some fields set or, by `null`, left out.
fn node(changes: Value) -> Result<Config, String> {
    let mut node = json!({
        "id": 1,
        "client_addr": "127.0.0.1:7001",
        "peer_addr": "127.0.0.1:7101",
        "peers": [{ "id": 3, "addr": "c.example:7101" }, { "id": 2, "addr": "[::1]:7102" }],
    });
    let fields = node.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    Config::from_json(&node.to_string(), "n.json").map_err(|error| error.to_string())
}

fn assert_refused(changes: Value, sentence: &str) {
    assert_eq!(node(changes).unwrap_err(), sentence);
}

#[test]
fn defaults_fill_what_is_not_said() {
    let config = node(json!({})).unwrap();
    assert_eq!((config.id, config.cluster.as_str(), config.ack), (NodeId(1), "kvmesh", AckLevel::Majority));
    assert_eq!(config.data_dir, PathBuf::from("data/node1"));
    assert_eq!(config.peers[0], PeerConfig { id: NodeId(3), addr: "c.example:7101".into() });
    let durations = [config.heartbeat, config.peer_timeout, config.ack_timeout, config.recovery_wait, config.write_timeout];
    assert_eq!(durations.map(|duration| duration.as_millis()), [500, 2_000, 2_000, 5_000, 10_000]);
    let durations = [config.clock_offset_max, config.tombstone_age_min, config.reconnect_pause_max, config.shutdown_timeout];
    assert_eq!(durations.map(|duration| duration.as_millis()), [10_000, 600_000, 1_000, 3_000]);
    assert_eq!((config.clients_max, config.key_len_max, config.value_len_max), (10_000, 65_536, 16_777_216));
    assert_eq!((config.memory_max, config.link_queue_max, config.write_room), (0, 67_108_864, 67_108_864));
}

#[test]
fn every_field_is_taken_from_the_file() {
    let names = [
        "heartbeat_ms",
        "peer_timeout_ms",
        "ack_timeout_ms",
        "recovery_wait_ms",
        "write_timeout_ms",
        "clock_offset_max_ms",
        "tombstone_age_min_ms",
        "reconnect_pause_max_ms",
        "shutdown_timeout_ms",
    ];
    let mut changes = json!({ "cluster": "other", "ack": "local", "data_dir": "/d", "clients_max": 1, "key_len_max": 2,
        "value_len_max": 3, "memory_max": 4, "link_queue_max": 5_000, "write_room": 6_000 });
    for (name, ms) in names.iter().zip([10, 1_000, 1_001, 1_002, 1_003, 1_004, 1_005, 1_006, 1_007]) {
        changes[name] = ms.into();
    }
    let config = node(changes).unwrap();
    assert_eq!((config.cluster.as_str(), config.ack, config.data_dir), ("other", AckLevel::Local, PathBuf::from("/d")));
    let durations = [config.heartbeat, config.peer_timeout, config.ack_timeout, config.recovery_wait, config.write_timeout];
    assert_eq!(durations.map(|duration| duration.as_millis()), [10, 1_000, 1_001, 1_002, 1_003]);
    let durations = [config.clock_offset_max, config.tombstone_age_min, config.reconnect_pause_max, config.shutdown_timeout];
    assert_eq!(durations.map(|duration| duration.as_millis()), [1_004, 1_005, 1_006, 1_007]);
    assert_eq!((config.clients_max, config.key_len_max, config.value_len_max), (1, 2, 3));
    assert_eq!((config.memory_max, config.link_queue_max, config.write_room), (4, 5_000, 6_000));
}

#[test]
fn members_are_sorted_and_a_majority_is_more_than_half() {
    assert_eq!(node(json!({})).unwrap().members(), [NodeId(1), NodeId(2), NodeId(3)]);
    let majority = |peers: u16| {
        let peers: Vec<Value> = (0..peers).map(|peer| json!({ "id": peer + 2, "addr": format!("h{peer}:1") })).collect();
        node(json!({ "peers": peers })).unwrap().majority()
    };
    assert_eq!([0, 1, 2, 3, 4, 5, 6].map(majority), [1, 2, 2, 3, 3, 4, 4]);
    assert_eq!(node(json!({ "peers": null })).unwrap().members(), [NodeId(1)]);
}

#[test]
fn the_files_in_config_are_accepted_and_list_each_other() {
    let load = |id| Config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/node{id}.json"))).unwrap();
    let nodes = [load(1), load(2), load(3)];
    for node in &nodes {
        assert_eq!(node.members(), [NodeId(1), NodeId(2), NodeId(3)]);
        for peer in &node.peers {
            assert_eq!(peer.addr, nodes[usize::from(peer.id.0) - 1].peer_addr);
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.json");
    let sentence = Config::load(&missing).unwrap_err().to_string();
    assert_eq!(
        sentence,
        format!("{}: cannot be read: No such file or directory (os error 2); expected a file such as config/node1.json", missing.display())
    );
    let long = dir.path().join("long.json");
    std::fs::write(&long, " ".repeat(FILE_LEN_MAX as usize + 1)).unwrap();
    assert!(Config::load(&long).unwrap_err().to_string().contains("longer than 1048576 bytes"));
}

#[test]
fn bad_json_is_located() {
    let refused = |text| Config::from_json(text, "n.json").unwrap_err().to_string();
    assert_eq!(
        refused("{\n  \"id\": 1,\n}"),
        "n.json: is not JSON: trailing comma at line 3 column 1; expected one JSON object; see config/node1.json"
    );
    assert!(refused("").starts_with("n.json: is not JSON: EOF while parsing a value at line 1 column 0; expected"));
    assert!(refused("{} x").starts_with("n.json: is not JSON: trailing characters at line 1 column 4; expected"));
    assert!(refused("{\"peers\": [{\"id\" 2}]}").contains("at line 1 column 18; expected"));
    assert_eq!(refused("[1]"), "n.json: found a list, expected one object such as config/node1.json holds");
    assert_eq!(refused("null"), "n.json: found null, expected one object such as config/node1.json holds");
}

#[test]
fn unknown_and_repeated_fields_are_refused() {
    let known = FIELDS.iter().map(|field| field.name).collect::<Vec<_>>().join(", ");
    assert_refused(json!({ "heartbeat": 5 }), &format!("n.json: field \"heartbeat\": found an unknown field, expected one of {known}"));
    assert_refused(
        json!({ "peers": [{ "id": 2, "addr": "b:1", "port": 3 }] }),
        "n.json: field \"peers[0].port\": found an unknown field, expected one of id, addr",
    );
    let refused = |text| Config::from_json(text, "n.json").unwrap_err().to_string();
    assert_eq!(refused(r#"{"id": 1, "id": 2}"#), "n.json: field \"id\": found it twice, expected each field once");
    let peers = r#"{"id": 1, "client_addr": "a:1", "peer_addr": "a:2", "peers": [{"id": 2, "id": 3, "addr": "b:1"}]}"#;
    assert_eq!(refused(peers), "n.json: field \"peers[0].id\": found it twice, expected each field once");
}

#[test]
fn fields_without_a_default_must_be_there() {
    assert_refused(json!({ "id": null }), "n.json: field \"id\": found nothing, expected a whole number from 1 to 65535");
    for field in ["client_addr", "peer_addr"] {
        assert_refused(json!({ field: null }), &format!("n.json: field \"{field}\": found nothing, expected {ADDR_EXPECTED}"));
    }
    assert_refused(
        json!({ "peers": [{ "addr": "b:1" }] }),
        "n.json: field \"peers[0].id\": found nothing, expected a whole number from 1 to 65535",
    );
    assert!(node(json!({ "peers": [{ "id": 2 }] })).unwrap_err().starts_with("n.json: field \"peers[0].addr\": found nothing"));
}

#[test]
fn values_of_another_kind_are_refused() {
    for id in [json!(0), json!(65_536), json!(-1), json!(1.5), json!("1"), json!([1]), json!({})] {
        let sentence = node(json!({ "id": id })).unwrap_err();
        assert!(sentence.starts_with("n.json: field \"id\": found "), "{sentence}");
        assert!(sentence.ends_with(", expected a whole number from 1 to 65535"), "{sentence}");
    }
    assert_refused(json!({ "ack": "most" }), "n.json: field \"ack\": found \"most\", expected \"local\", \"majority\" or \"all\"");
    assert_refused(json!({ "ack": 2 }), "n.json: field \"ack\": found 2, expected \"local\", \"majority\" or \"all\"");
    assert_refused(json!({ "data_dir": "" }), "n.json: field \"data_dir\": found \"\", expected the path of a directory");
    for cluster in ["", "two words", "bell\u{7}", &"x".repeat(65)] {
        assert!(node(json!({ "cluster": cluster })).unwrap_err().ends_with("expected a name of 1 to 64 bytes without spaces"));
    }
    for peers in [json!({}), json!("2")] {
        assert!(node(json!({ "peers": peers })).unwrap_err().contains("expected a list of objects such as"));
    }
    assert_refused(
        json!({ "peers": [5] }),
        "n.json: field \"peers[0]\": found 5, expected an object such as { \"id\": 2, \"addr\": \"127.0.0.1:7102\" }",
    );
    let sentence = node(json!({ "peers": [{ "id": 2, "addr": "b:1" }, [{}]] })).unwrap_err();
    assert!(sentence.starts_with("n.json: field \"peers[1]\": found a list, expected an object"), "{sentence}");
    let sentence = node(json!({ "ack": "m".repeat(5_000) })).unwrap_err();
    assert!(sentence.len() < 200, "{sentence}");
}

#[test]
fn members_must_be_distinct_and_few() {
    let peers = |ids: &[u16]| -> Value { ids.iter().map(|id| json!({ "id": id, "addr": format!("h:{id}") })).collect() };
    assert_refused(
        json!({ "peers": peers(&[2, 1]) }),
        "n.json: field \"peers[1].id\": found 1, expected the id of another node: a node does not list itself",
    );
    assert_refused(
        json!({ "peers": [{ "id": 2, "addr": "b:1" }, { "id": 2, "addr": "c:1" }] }),
        "n.json: field \"peers[1].id\": found 2, expected an id that differs from peers[0].id",
    );
    assert_refused(json!({ "peers": peers(&[0]) }), "n.json: field \"peers[0].id\": found 0, expected a whole number from 1 to 65535");
    assert_refused(
        json!({ "peers": peers(&[2, 3, 4, 5, 6, 7, 8]) }),
        "n.json: field \"peers\": found 7 peers, expected at most 6: a mesh has one to 7 members",
    );
}

#[test]
fn addresses_are_a_host_and_a_port() {
    for addr in ["127.0.0.1:0", "localhost:7001", "0.0.0.0:7001", "[::]:0", "my_node-1.internal:65535", "10.0.0.1:00009"] {
        assert_eq!(node(json!({ "client_addr": addr, "insecure": true })).unwrap().client_addr, addr);
    }
    for addr in ["", "7001", ":7001", "localhost", "localhost:", "localhost:http", "::1:7001", "a b:1", "http://a:1", "a:+1", "ä:1"] {
        assert_refused(json!({ "client_addr": addr }), &format!("n.json: field \"client_addr\": found {addr:?}, expected {ADDR_EXPECTED}"));
    }
    let refused = |addr: &str| node(json!({ "peer_addr": addr })).unwrap_err();
    assert!(refused("a:65536").ends_with("expected a port from 0 to 65535"));
    assert!(refused("127.0.0.256:1").contains("expected an IPv4 address of four numbers from 0 to 255"));
    assert!(refused("127.1:1").contains("expected an IPv4 address"));
    assert!(refused("[::g]:1").contains("expected an IPv6 address in brackets"));
    assert!(refused("[::1:7").contains("expected an IPv6 address in brackets"));
}

#[test]
fn a_peer_must_have_an_address_of_its_own_that_can_be_dialled() {
    let peer = |addr: &str| node(json!({ "peers": [{ "id": 2, "addr": "B:7102" }, { "id": 3, "addr": addr }] }));
    assert_eq!(
        peer("c:0").unwrap_err(),
        "n.json: field \"peers[1].addr\": found \"c:0\", expected a port from 1 to 65535: nobody can be dialled at port 0"
    );
    assert!(peer("0.0.0.0:7103").unwrap_err().contains("can only be listened on"));
    assert!(peer("[::]:7103").unwrap_err().contains("can only be listened on"));
    assert_eq!(
        peer("b:07102").unwrap_err(),
        "n.json: field \"peers[1].addr\": found \"b:07102\", expected an address that differs from peers[0].addr"
    );
    assert!(peer("127.0.0.1:7101").unwrap_err().ends_with("expected an address that differs from peer_addr"));
    assert_refused(
        json!({ "client_addr": "127.0.0.1:7101" }),
        "n.json: field \"peer_addr\": found \"127.0.0.1:7101\", expected an address that differs from client_addr",
    );
    assert!(node(json!({ "client_addr": "h:0", "peer_addr": "h:0", "insecure": true })).is_ok());
}

fn user(changes: Value) -> Value {
    let mut user = json!({ "name": "shop", "secret_sha256": "0123456789abcdefABCDEF".repeat(3)[..64], "role": "write" });
    for (name, value) in changes.as_object().unwrap() {
        user[name] = value.clone();
    }
    user
}

#[test]
fn users_have_a_name_a_secret_a_role_and_perhaps_prefixes() {
    let config = node(
        json!({ "users": [user(json!({})), user(json!({ "name": "a.b_c-d@e", "role": "admin", "keys": ["a:", "b"], "enabled": false }))] }),
    );
    let config = config.unwrap();
    let [shop, other] = &config.users[..] else { panic!("{:?}", config.users) };
    assert_eq!((shop.name.as_str(), shop.role, shop.is_enabled, &shop.prefixes), ("shop", Role::Write, true, &None));
    assert_eq!((&shop.secret_sha256.bytes()[..4], other.role, other.is_enabled), (&[0x01, 0x23, 0x45, 0x67][..], Role::Admin, false));
    assert!(
        shop.covers(b"") && shop.covers(b"x") && other.covers(b"a:") && other.covers(b"bc") && !other.covers(b"a") && !other.covers(b"c")
    );
    // What an error or a log could show of a configuration is no secret.
    assert!(!format!("{config:?}").to_lowercase().contains("0123456789abcdef"));
    assert_eq!(node(json!({})).unwrap().users, []);
}

#[test]
fn a_wrong_user_is_refused_and_its_secret_is_not_shown() {
    let refused = |changes: Value| node(json!({ "users": [user(changes)] })).unwrap_err();
    for name in ["", "two words", "käse", "a\n", "a:b", &"x".repeat(65)] {
        assert!(refused(json!({ "name": name })).ends_with("expected a name of 1 to 64 letters, digits and any of . _ - @"), "{name:?}");
    }
    assert_eq!(
        refused(json!({ "role": "root" })),
        "n.json: field \"users[0].role\": found \"root\", expected \"monitor\", \"read\", \"write\" or \"admin\""
    );
    for secret in [
        json!("hunter2"),
        json!("g".repeat(64)),
        json!("0".repeat(63)),
        json!("0".repeat(66)),
        json!("+".repeat(64)),
        json!(5),
        json!(null),
    ] {
        let sentence = refused(json!({ "secret_sha256": secret }));
        let (_, rest) = sentence.split_once("field \"users[0].secret_sha256\": found ").expect(&sentence);
        assert!(rest.ends_with("expected the SHA-256 of a secret, as 64 hexadecimal digits; kvctl genpass makes both"), "{sentence}");
        assert!(!rest.contains("hunter2") && !rest.contains("ggg") && !rest.contains("found 5"), "{sentence}");
    }
    for keys in [json!([]), json!([""]), json!(["a", 5]), json!("a"), json!([{}])] {
        assert!(refused(json!({ "keys": keys })).contains("expected a list of prefixes such as [\"shop:\"], none of them empty"), "{keys}");
    }
    assert!(refused(json!({ "enabled": 1 })).ends_with("field \"users[0].enabled\": found 1, expected true or false"));
    assert!(
        refused(json!({ "password": "hunter2" })).contains("field \"users[0].password\": found an unknown field, expected one of name,")
    );
    assert_refused(
        json!({ "users": [user(json!({})), user(json!({ "role": "read" }))] }),
        "n.json: field \"users[1].name\": found \"shop\", expected a name that differs from users[0].name",
    );
    assert_refused(
        json!({ "users": [] }),
        "n.json: field \"users\": found an empty list, expected at least one user; without this field nobody is asked who they are",
    );
    assert!(
        node(json!({ "users": ["shop"] }))
            .unwrap_err()
            .starts_with("n.json: field \"users[0]\": found \"shop\", expected an object such as")
    );
    assert!(
        node(json!({ "users": {} }))
            .unwrap_err()
            .starts_with("n.json: field \"users\": found an object, expected a list of objects such as")
    );
}

#[test]
fn commands_that_are_disabled_are_a_list_of_names() {
    assert_eq!(node(json!({ "disabled_commands": ["flushall", "client|kill"] })).unwrap().disabled_commands, ["flushall", "client|kill"]);
    assert!(node(json!({ "disabled_commands": [] })).unwrap().disabled_commands.is_empty());
    for wrong in [json!("flushall"), json!([5]), json!([""])] {
        let sentence = node(json!({ "disabled_commands": wrong })).unwrap_err();
        assert!(sentence.ends_with("expected a list of names of commands such as [\"flushall\"]"), "{sentence}");
    }
}

#[test]
fn an_address_that_others_can_reach_needs_users_or_that_it_is_wanted() {
    for addr in ["127.0.0.1:1", "127.255.0.9:1", "[::1]:1", "localhost:1", "LocalHost:1"] {
        assert!(node(json!({ "client_addr": addr })).is_ok(), "{addr}");
    }
    for addr in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[fe80::1]:1", "node1.example:1", "localhost.example:1"] {
        let sentence = node(json!({ "client_addr": addr })).unwrap_err();
        let begin = format!(
            "n.json: field \"client_addr\": found \"{addr}\", expected an address of this machine alone such as \"127.0.0.1:7001\", or users"
        );
        assert!(sentence.starts_with(&begin), "{sentence}");
        assert!(node(json!({ "client_addr": addr, "insecure": true })).is_ok(), "{addr}");
        assert!(node(json!({ "client_addr": addr, "users": [user(json!({}))] })).is_ok(), "{addr}");
        for (client_certs, is_enough) in [("required", true), ("optional", false)] {
            let tls = json!({ "cert_file": "a", "key_file": "b", "ca_file": "c", "client_certs": client_certs });
            assert_eq!(node(json!({ "client_addr": addr, "tls": tls })).is_ok(), is_enough, "{addr} {client_certs}");
        }
        let given = node(json!({})).unwrap().with_addrs(Some(addr.to_owned()), None);
        assert!(given.unwrap_err().to_string().starts_with(&format!("--client-addr {addr}: field \"client_addr\"")), "{addr}");
    }
    assert_refused(json!({ "insecure": "yes" }), "n.json: field \"insecure\": found \"yes\", expected true or false");
}

#[test]
fn durations_have_bounds() {
    for field in FIELDS.iter().map(|field| field.name).filter(|field| field.ends_with("_ms")) {
        for ms in [json!(0), json!(-5), json!("1s"), json!(u64::MAX)] {
            let sentence = node(json!({ field: ms })).unwrap_err();
            assert!(
                sentence.starts_with(&format!("n.json: field \"{field}\": found {ms}, expected a whole number from 1 to ")),
                "{sentence}"
            );
        }
    }
    assert_refused(
        json!({ "ack_timeout_ms": 60_001 }),
        "n.json: field \"ack_timeout_ms\": found 60001, expected a whole number from 1 to 60000 (milliseconds)",
    );
    assert_refused(
        json!({ "heartbeat_ms": 1_001 }),
        "n.json: field \"heartbeat_ms\": found 1001, expected at most half of peer_timeout_ms, which is 2000",
    );
    assert!(node(json!({ "heartbeat_ms": 1_000, "ack_timeout_ms": 60_000 })).is_ok());
}

#[test]
fn sizes_have_bounds_and_fit_each_other() {
    assert_refused(json!({ "clients_max": 0 }), "n.json: field \"clients_max\": found 0, expected a whole number from 1 to 1000000");
    assert_refused(
        json!({ "key_len_max": (1 << 20) + 1 }),
        "n.json: field \"key_len_max\": found 1048577, expected a whole number from 1 to 1048576",
    );
    assert_refused(
        json!({ "value_len_max": (128 << 20) + 1 }),
        "n.json: field \"value_len_max\": found 134217729, expected a whole number from 1 to 134217728",
    );
    for field in ["link_queue_max", "write_room"] {
        let one_write = (16 << 20) + (64 << 10) + 1024;
        assert!(node(json!({ field: one_write })).is_ok());
        assert_refused(
            json!({ field: one_write - 1 }),
            &format!(
                "n.json: field \"{field}\": found {}, expected at least {one_write}, which is key_len_max + value_len_max + 1024: any legal write must fit",
                one_write - 1
            ),
        );
    }
    assert!(node(json!({ "memory_max": u64::MAX })).is_err());
}

#[test]
fn addresses_given_on_the_command_line_are_checked_too() {
    let with_addrs = |client: Option<&str>, peer: Option<&str>| {
        let config = node(json!({})).unwrap();
        config.with_addrs(client.map(str::to_owned), peer.map(str::to_owned)).map_err(|error| error.to_string())
    };
    let config = with_addrs(Some("localhost:0"), Some("localhost:9")).unwrap();
    assert_eq!((config.client_addr.as_str(), config.peer_addr.as_str()), ("localhost:0", "localhost:9"));
    assert_eq!(with_addrs(None, None).unwrap(), node(json!({})).unwrap());
    assert_eq!(
        with_addrs(Some("7001"), None).unwrap_err(),
        format!("--client-addr 7001: field \"client_addr\": found \"7001\", expected {ADDR_EXPECTED}")
    );
    assert_eq!(
        with_addrs(Some("h:1"), Some("[::1]:7102")).unwrap_err(),
        "--client-addr h:1 --peer-addr [::1]:7102: field \"peers[1].addr\": found \"[::1]:7102\", expected an address that differs from peer_addr"
    );
    assert!(with_addrs(Some("127.0.0.1:7101"), Some("127.0.0.1:7001")).is_ok());
}

#[test]
fn peers_prove_themselves_where_there_is_a_secret_unless_it_is_said_otherwise() {
    let secret = json!({ "peer_secret_file": "/etc/secret" });
    assert_eq!(node(json!({})).unwrap().peer_auth, PeerAuth::Off);
    let config = node(secret.clone()).unwrap();
    assert_eq!((config.peer_auth, config.peer_secret_file), (PeerAuth::Required, Some(PathBuf::from("/etc/secret"))));
    for (name, auth) in [("off", PeerAuth::Off), ("accept", PeerAuth::Accept), ("required", PeerAuth::Required)] {
        let mut changes = secret.clone();
        changes["peer_auth"] = name.into();
        assert_eq!(node(changes).unwrap().peer_auth, auth);
    }
    assert_refused(json!({ "peer_auth": "on" }), "n.json: field \"peer_auth\": found \"on\", expected \"off\", \"accept\" or \"required\"");
    for name in ["accept", "required"] {
        assert_refused(
            json!({ "peer_auth": name }),
            &format!(
                "n.json: field \"peer_auth\": found {name:?}, expected a peer_secret_file beside it, or \"off\": nothing can be proven without a secret"
            ),
        );
    }
    assert_refused(json!({ "insecure": 1 }), "n.json: field \"insecure\": found 1, expected true or false");
}

#[test]
fn an_address_beyond_this_machine_at_which_anybody_is_believed_is_refused() {
    let is_refused = |changes: Value| match node(changes) {
        Ok(_) => false,
        Err(why) => {
            assert!(why.starts_with("n.json: field \"peer_addr\": found ") && why.contains("peer_secret_file"), "{why}");
            assert!(why.contains("\"insecure\": true"), "{why}");
            true
        }
    };
    for addr in ["0.0.0.0:7101", "[::]:7101", "10.0.0.1:7101", "node1.example:7101"] {
        assert!(is_refused(json!({ "peer_addr": addr })), "{addr}");
        assert!(is_refused(json!({ "peer_addr": addr, "peer_secret_file": "s", "peer_auth": "off" })), "{addr}");
        for way_out in [json!({ "peer_secret_file": "s" }), json!({ "insecure": true }), json!({ "peers": null })] {
            let mut changes = way_out;
            changes["peer_addr"] = addr.into();
            assert!(!is_refused(changes.clone()), "{changes}");
        }
    }
    for addr in ["127.0.0.1:7101", "127.9.8.7:0", "[::1]:7101", "LOCALHOST:7101"] {
        assert!(!is_refused(json!({ "peer_addr": addr })), "{addr}");
    }
    let moved = node(json!({})).unwrap().with_addrs(None, Some("0.0.0.0:7101".to_owned())).unwrap_err().to_string();
    assert!(
        moved.starts_with("--peer-addr 0.0.0.0:7101: field \"peer_addr\": found \"0.0.0.0:7101\", expected an address of this machine"),
        "{moved}"
    );
}
