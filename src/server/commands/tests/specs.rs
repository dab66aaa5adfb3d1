//! The rows of all commands, and what COMMAND answers from them.

use std::collections::HashSet;

use super::super::command_query;
use super::super::spec::Spec;
use super::super::table::{self, find};
use super::super::usage::{self, Argument, ArgumentKind};
use crate::wire::command::{CommandQuery, ListFilter};
use crate::wire::reply::Reply;
use crate::wire::text::VERBS;

/// All commands and subcommands.
fn all() -> Vec<&'static Spec> {
    table::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands)).collect()
}

#[test]
fn every_command_is_found_by_its_name_in_any_case() {
    for spec in table::all() {
        assert_eq!(find(spec.name.as_bytes()), Some(spec));
        assert_eq!(find(spec.name.to_ascii_uppercase().as_bytes()), Some(spec));
        for subcommand in spec.subcommands {
            let (container, name) = subcommand.name.split_once('|').expect("the name of its container");
            assert_eq!(container, spec.name);
            assert_eq!(spec.subcommand(name.to_ascii_uppercase().as_bytes()), Some(subcommand));
        }
    }
    for name in [&b""[..], b"ge", b"gett", b"get\0", b"get ", b"\xc7et", b"client|id", b"a name of more than sixteen bytes"] {
        assert_eq!(find(name), None, "{name:?}");
    }
}

#[test]
fn names_are_named_once_and_all_is_said() {
    let names: HashSet<&str> = all().iter().map(|spec| spec.name).collect();
    assert_eq!(names.len(), all().len());
    for spec in all() {
        assert!(spec.parser.is_none() || spec.name == "command" || !spec.has_subcommands(), "{spec:?}");
        assert!(spec.parser.is_some() || spec.arity == -2 && spec.has_subcommands(), "{spec:?} without a subcommand");
        assert!(spec.summary.ends_with('.') && !spec.group.is_empty() && !spec.since.is_empty() && !spec.complexity.is_empty(), "{spec:?}");
    }
}

/// The fewest words that an argument is.
fn fewest(argument: &Argument) -> usize {
    let alone = match &argument.kind {
        ArgumentKind::Value => 1,
        ArgumentKind::Token => 0,
        ArgumentKind::OneOf(choices) => choices.iter().map(fewest).min().unwrap_or(0),
        ArgumentKind::Block(parts) => parts.iter().map(fewest).sum(),
    };
    if argument.is_optional { 0 } else { alone + usize::from(argument.token.is_some()) }
}

#[test]
fn usage_and_arity_say_the_same() {
    for spec in all().into_iter().filter(|spec| spec.parser.is_some()) {
        let arguments = usage::arguments(spec.usage);
        let names = spec.name.split('|').count();
        let arity = usize::from(spec.arity.unsigned_abs());
        assert_eq!(names + arguments.iter().map(fewest).sum::<usize>(), arity, "{spec:?} {}", spec.usage);
        // These two take words that mean nothing.
        if !matches!(spec.name, "quit" | "command") {
            let is_open = arguments.iter().any(|argument| argument.is_optional || argument.is_multiple);
            assert_eq!(spec.arity < 0, is_open || spec.name == "client|kill", "{spec:?} {}", spec.usage);
        }
    }
}

#[test]
fn a_loading_node_answers_a_verb_in_both_protocols_or_in_none() {
    for verb in &VERBS {
        if let Some(spec) = find(verb.name.as_bytes()) {
            assert_eq!(verb.is_allowed_while_loading, spec.is_allowed_while_loading(), "{spec:?}");
        }
    }
}

#[test]
fn a_loading_node_answers_what_clients_need_to_wait_for_it() {
    for name in ["hello", "auth", "command", "info", "select", "ping", "quit", "status", "ack"] {
        assert!(find(name.as_bytes()).is_some_and(Spec::is_allowed_while_loading), "{name}");
    }
    assert!(find(b"client").is_some_and(|client| client.subcommands.iter().all(Spec::is_allowed_while_loading)));
    for name in ["get", "set", "wait", "flushall", "keys", "digest", "peers"] {
        assert!(find(name.as_bytes()).is_some_and(|spec| !spec.is_allowed_while_loading()), "{name}");
    }
}

fn answer(query: &CommandQuery) -> Reply<'static> {
    command_query::answer(query, table::all())
}

fn text(text: &'static str) -> Reply<'static> {
    Reply::Bytes(text.as_bytes().into())
}

fn statuses<const N: usize>(words: [&'static str; N]) -> Reply<'static> {
    Reply::Set(words.map(Reply::Status).to_vec())
}

fn info(name: &str) -> Vec<Reply<'static>> {
    let Reply::Array(mut infos) = answer(&CommandQuery::Info(Some(vec![name.to_owned()]))) else { panic!("no array") };
    let Some(Reply::Array(info)) = infos.pop() else { panic!("{name} is no command") };
    info
}

/// The answers are those of redis-server 7.0.15, its notes aside.
#[test]
fn information_has_the_shape_that_clients_expect() {
    let index = Reply::Map(vec![(text("index"), Reply::Integer(1))]);
    let begin = Reply::Map(vec![(text("type"), text("index")), (text("spec"), index)]);
    let range = [("lastkey", -1), ("keystep", 2), ("limit", 0)];
    let range = Reply::Map(range.map(|(name, number)| (text(name), Reply::Integer(number))).to_vec());
    let find = Reply::Map(vec![(text("type"), text("range")), (text("spec"), range)]);
    let keys = Reply::Map(vec![(text("flags"), statuses(["OW", "update"])), (text("begin_search"), begin), (text("find_keys"), find)]);
    let expected = vec![
        text("mset"),
        Reply::Integer(-3),
        statuses(["write", "denyoom"]),
        Reply::Integer(1),
        Reply::Integer(-1),
        Reply::Integer(2),
        statuses(["@write", "@string", "@slow"]),
        Reply::Set(vec![text("request_policy:multi_shard"), text("response_policy:all_succeeded")]),
        Reply::Set(vec![keys]),
        Reply::Array(Vec::new()),
    ];
    assert_eq!(info("mset"), expected);

    for (name, first, last, step) in
        [("get", 1, 1, 1), ("rename", 1, 2, 1), ("del", 1, -1, 1), ("ping", 0, 0, 0), ("object|encoding", 2, 2, 1)]
    {
        assert_eq!(info(name)[3..6], [first, last, step].map(Reply::Integer), "{name}");
    }
    assert_eq!(info("client|kill")[6], statuses(["@admin", "@slow", "@dangerous", "@connection"]));
    assert!(matches!(&info("config")[9], Reply::Array(subcommands) if subcommands.len() == 1));
}

#[test]
fn unknown_commands_are_null_or_left_out() {
    let names: Vec<String> = ["nosuch", "get|x", "client|nosuch", "client|id|x"].map(str::to_owned).to_vec();
    assert_eq!(answer(&CommandQuery::Info(Some(names.clone()))), Reply::Array(vec![Reply::Null; 4]));
    assert_eq!(answer(&CommandQuery::Docs(names)), Reply::Map(Vec::new()));
}

#[test]
fn all_commands_are_counted_listed_and_explained() {
    let count = table::all().count();
    assert_eq!(answer(&CommandQuery::Count), Reply::Integer(count as i64));
    assert!(matches!(answer(&CommandQuery::Info(None)), Reply::Array(infos) if infos.len() == count));
    assert!(matches!(answer(&CommandQuery::Docs(Vec::new())), Reply::Map(docs) if docs.len() == count));
    assert!(matches!(answer(&CommandQuery::List(None)), Reply::Array(names) if names.len() == all().len()));
    let listed = |filter| answer(&CommandQuery::List(Some(filter)));
    assert_eq!(listed(ListFilter::Pattern(b"GETE?".to_vec())), Reply::Array(vec![text("getex")]));
    assert_eq!(
        listed(ListFilter::Pattern(b"c*|i*".to_vec())),
        Reply::Array(vec![text("client|id"), text("client|info"), text("command|info")])
    );
    let transaction = ["multi", "exec", "discard", "watch", "unwatch"].map(text).to_vec();
    assert_eq!(listed(ListFilter::Category("transaction".to_owned())), Reply::Array(transaction));
    assert_eq!(listed(ListFilter::Category("nosuch".to_owned())), Reply::Array(Vec::new()));
    assert_eq!(listed(ListFilter::Module), Reply::Array(Vec::new()));
}
