//! The rights that a command needs: every row of both protocols has its role here, and the keys
//! that a row names are those that a request is held to.

use super::super::key_specs::KeySpec;
use super::super::spec::Spec;
use super::{RequestWords, table};
use crate::config::{Config, UserConfig};
use crate::server::authorization::is_request_within;
use crate::wire::role::Role;
use crate::wire::text::VERBS;

/// The least role for each command that can be executed, subcommands included. A new command gets
/// its place here.
const ROLES: [(Option<Role>, &str); 5] = [
    (None, "ping quit reset auth hello"),
    (
        Some(Role::Monitor),
        "echo select ack multi exec discard unwatch command command|count command|list command|info command|docs client|id \
         client|getname client|setname client|setinfo client|info client|no-touch role time status peers info wait waitaof acl|whoami acl|cat",
    ),
    (
        Some(Role::Read),
        "get mget strlen getrange substr exists type touch object|encoding memory|usage randomkey keys scan dbsize ttl pttl expiretime \
         pexpiretime watch digest lolwut",
    ),
    (
        Some(Role::Write),
        "set setnx setex psetex getset getdel getex mset msetnx append setrange incr decr incrby decrby incrbyfloat del unlink rename \
         renamenx expire pexpire expireat pexpireat persist upd put",
    ),
    (
        Some(Role::Admin),
        "flushdb flushall client|list client|kill client|no-evict config|get compact resume reload debug|sleep acl|users acl|getuser acl|log",
    ),
];

/// Verbs that only the text protocol has.
const TEXT_ROLES: [(&str, Role); 4] = [("COUNT", Role::Read), ("DUMP", Role::Admin), ("RESTORE", Role::Admin), ("HELP", Role::Monitor)];

fn executable() -> impl Iterator<Item = &'static Spec> {
    let all = table::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands));
    all.filter(|spec| spec.parser.is_some())
}

#[test]
fn every_command_has_the_role_that_it_is_meant_to_have() {
    let named = |name: &str| ROLES.iter().find(|(_, names)| names.split_ascii_whitespace().any(|other| other == name));
    for spec in executable() {
        let (role, _) = named(spec.name).unwrap_or_else(|| panic!("{spec:?} has no place in ROLES: say who may use it"));
        assert_eq!(spec.role, *role, "{spec:?}");
    }
    for name in ROLES.iter().flat_map(|(_, names)| names.split_ascii_whitespace()) {
        assert!(executable().any(|spec| spec.name == name), "{name} is no command");
    }
}

#[test]
fn a_verb_has_the_role_of_the_command_of_its_name() {
    for verb in &VERBS {
        let of_text = TEXT_ROLES.iter().find(|(name, _)| *name == verb.name).map(|(_, role)| Some(*role));
        let role = table::find(verb.name.as_bytes()).map(|spec| spec.role).or(of_text);
        assert_eq!(Some(verb.role), role, "{}: say who may use it", verb.name);
        if verb.writes {
            assert_eq!(verb.role, Some(Role::Write), "{}", verb.name);
        }
    }
}

/// A user of two prefixes.
fn user() -> UserConfig {
    let hash = "00".repeat(32);
    let user = format!(r#"{{ "name": "u", "secret_sha256": "{hash}", "role": "admin", "keys": ["own:", "other:"] }}"#);
    let text = format!(r#"{{ "id": 1, "client_addr": "127.0.0.1:0", "peer_addr": "127.0.0.1:0", "users": [{user}] }}"#);
    Config::from_json(&text, "a test").unwrap().users.remove(0)
}

/// The places of keys among so many words.
fn places(keys: &[KeySpec], words: usize) -> Vec<usize> {
    let of_one = |keys: &KeySpec| {
        let first = keys.first as usize;
        let last = if keys.last < 0 { words - keys.last.unsigned_abs() as usize } else { first + keys.last as usize };
        (first..=last).step_by(keys.step as usize)
    };
    keys.iter().flat_map(of_one).collect()
}

#[test]
fn each_key_that_a_command_names_is_held_to_the_prefixes_of_the_user() {
    let user = user();
    let mut commands = 0;
    for spec in executable().filter(|spec| !spec.keys.is_empty()) {
        let name: Vec<&[u8]> = spec.name.split('|').map(str::as_bytes).collect();
        let is_open = spec.keys.iter().any(|keys| keys.last < 0);
        let len = usize::from(spec.arity.unsigned_abs()) + if is_open { 2 } else { 0 };
        let places = places(spec.keys, len);
        let is_within = |foreign: Option<usize>| {
            let word = |place: usize| match place {
                place if place < name.len() => name[place],
                place if Some(place) == foreign => b"own".as_slice(),
                place if places.contains(&place) => b"own:k".as_slice(),
                _ => b"5".as_slice(),
            };
            let request = RequestWords::new((0..len).map(word));
            is_request_within(&request.parse().unwrap_or_else(|wrong| panic!("{spec:?}: {wrong:?}")), &user)
        };
        assert!(is_within(None), "{spec:?}");
        for place in &places {
            assert!(!is_within(Some(*place)), "{spec:?} with a foreign key at {place}");
        }
        commands += 1;
    }
    assert!(commands > 40, "{commands}");
}

#[test]
fn what_concerns_all_keys_is_not_for_users_with_prefixes() {
    let user = user();
    let is_within = |line: &str| is_request_within(&super::request(line).parse().unwrap(), &user);
    for line in ["DBSIZE", "DIGEST", "RANDOMKEY", "FLUSHALL", "FLUSHDB"] {
        assert!(!is_within(line), "{line}");
    }
    // These two leave out what the user may not see.
    for line in ["SCAN 0", "KEYS *", "PING", "INFO", "COMPACT", "MULTI"] {
        assert!(is_within(line), "{line}");
    }
}
