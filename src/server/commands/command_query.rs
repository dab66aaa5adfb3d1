//! COMMAND and its subcommands, with answers in the shapes of Redis 7.0.

use std::iter;

use super::introspection::text;
use super::key_specs::KeySpec;
use super::spec::Spec;
use super::usage::{self, Argument, ArgumentKind};
use crate::wire::command::{Command, CommandQuery, ListFilter};
use crate::wire::reply::{Reply, Wrong};
use crate::wire::resp::arguments::{Arguments, is, lower, syntax};
use crate::wire::resp::glob;

pub(super) static COMMANDS: &[Spec] = &[Spec::command("command", -1, "loading stale", |_| Ok(CommandQuery::Info(None).into()))
    .categories("connection")
    .tips("nondeterministic_output_order")
    .docs("server", "2.8.13", "O(N) where N is the number of commands")
    .help("", "Describes all commands.")
    .containing(&SUBCOMMANDS)];

static SUBCOMMANDS: [Spec; 4] = [
    Spec::command("command|count", 2, "loading stale", |_| Ok(CommandQuery::Count.into()))
        .categories("connection")
        .docs("server", "2.8.13", "O(1)")
        .help("", "Returns how many commands there are."),
    Spec::command("command|list", -2, "loading stale", parse_list)
        .categories("connection")
        .tips("nondeterministic_output_order")
        .docs("server", "7.0.0", "O(N) where N is the number of commands")
        .help("[FILTERBY (MODULE module-name|ACLCAT category|PATTERN pattern)]", "Returns the names of commands."),
    Spec::command("command|info", -2, "loading stale", parse_info)
        .categories("connection")
        .tips("nondeterministic_output_order")
        .docs("server", "2.8.13", "O(N) where N is the number of commands to look up")
        .help("[command-name...]", "Describes commands."),
    Spec::command("command|docs", -2, "loading stale", |words| Ok(CommandQuery::Docs(words.few(2)?.map(lower).collect()).into()))
        .categories("connection")
        .tips("nondeterministic_output_order")
        .docs("server", "7.0.0", "O(N) where N is the number of commands to look up")
        .help("[command-name...]", "Explains commands."),
];

/// The ACL categories in Redis's order, each with the flags that put a command into it. `!` means
/// without that flag.
const CATEGORIES: [(&str, &str, &[&str]); 11] = [
    ("keyspace", "@keyspace", &[]),
    ("read", "@read", &["readonly"]),
    ("write", "@write", &["write"]),
    ("string", "@string", &[]),
    ("pubsub", "@pubsub", &["pubsub"]),
    ("admin", "@admin", &["admin"]),
    ("fast", "@fast", &["fast"]),
    ("slow", "@slow", &["!fast"]),
    ("dangerous", "@dangerous", &["admin"]),
    ("connection", "@connection", &[]),
    ("transaction", "@transaction", &[]),
];

/// The names of all ACL categories.
pub(super) fn category_names() -> impl Iterator<Item = &'static str> {
    CATEGORIES.into_iter().map(|(name, ..)| name)
}

/// Answers a question about `commands`, which are all that there are. Cannot fail: an unknown one
/// is null or left out.
#[inline(never)]
pub(super) fn answer(query: &CommandQuery, commands: impl Iterator<Item = &'static Spec> + Clone) -> Reply<'static> {
    let find = |name: &String| find(name, commands.clone());
    match query {
        CommandQuery::Count => Reply::Integer(commands.count() as i64),
        CommandQuery::List(filter) => {
            let all = commands.flat_map(|spec| iter::once(spec).chain(spec.subcommands));
            Reply::Array(all.filter(|spec| filter.as_ref().is_none_or(|filter| is_wanted(spec, filter))).map(name).collect())
        }
        CommandQuery::Info(None) => Reply::Array(commands.map(info).collect()),
        CommandQuery::Info(Some(names)) => Reply::Array(names.iter().map(|name| find(name).map_or(Reply::Null, info)).collect()),
        CommandQuery::Docs(names) if names.is_empty() => Reply::Map(commands.map(named_docs).collect()),
        CommandQuery::Docs(names) => Reply::Map(names.iter().filter_map(find).map(named_docs).collect()),
    }
}

fn is_wanted(spec: &Spec, filter: &ListFilter) -> bool {
    match filter {
        // Names are in lower case, and the pattern is in any.
        ListFilter::Pattern(pattern) => glob::matches(&pattern.to_ascii_lowercase(), spec.name.as_bytes()),
        ListFilter::Category(category) => categories(spec).any(|(word, _)| word.eq_ignore_ascii_case(category)),
        ListFilter::Module => false,
    }
}

/// The command of that name, which for a subcommand begins with that of its container: `client|id`.
fn find(name: &str, mut commands: impl Iterator<Item = &'static Spec>) -> Option<&'static Spec> {
    let mut find = |name: &str| commands.find(|spec| spec.name.eq_ignore_ascii_case(name));
    match name.split_once('|') {
        None => find(name),
        Some((container, name)) => find(container)?.subcommand(name.as_bytes()),
    }
}

/// The answer of COMMAND INFO about one command, an array of ten.
fn info(spec: &'static Spec) -> Reply<'static> {
    let flags = words(spec.flags).map(Reply::Status).collect();
    let first = spec.keys.iter().map(|keys| keys.first).min().unwrap_or(0);
    let last = spec.keys.iter().map(|keys| if keys.last < 0 { keys.last } else { keys.first + keys.last });
    let last = last.max_by_key(|last| last.cast_unsigned()).unwrap_or(0);
    let step = spec.keys.first().map_or(0, |keys| keys.step);
    Reply::Array(vec![
        name(spec),
        integer(spec.arity),
        Reply::Set(flags),
        integer(first),
        integer(last),
        integer(step),
        Reply::Set(categories(spec).map(|(_, status)| Reply::Status(status)).collect()),
        Reply::Set(words(spec.tips).map(text).collect()),
        Reply::Set(spec.keys.iter().map(key_specification).collect()),
        Reply::Array(spec.subcommands.iter().map(info).collect()),
    ])
}

fn key_specification(keys: &'static KeySpec) -> Reply<'static> {
    let begin = map([("type", text("index")), ("spec", map([("index", integer(keys.first))]))]);
    let range = map([("lastkey", integer(keys.last)), ("keystep", integer(keys.step)), ("limit", integer(0))]);
    let find = map([("type", text("range")), ("spec", range)]);
    map([("flags", Reply::Set(words(keys.flags).map(Reply::Status).collect())), ("begin_search", begin), ("find_keys", find)])
}

fn named_docs(spec: &'static Spec) -> (Reply<'static>, Reply<'static>) {
    let mut docs = vec![
        ("summary", text(spec.summary)),
        ("since", text(spec.since)),
        ("group", text(spec.group)),
        ("complexity", text(spec.complexity)),
    ];
    let arguments = usage::arguments(spec.usage);
    if !arguments.is_empty() {
        docs.push(("arguments", Reply::Array(arguments.into_iter().map(argument).collect())));
    }
    if spec.has_subcommands() {
        docs.push(("subcommands", Reply::Map(spec.subcommands.iter().map(named_docs).collect())));
    }
    (name(spec), map(docs))
}

fn argument(argument: Argument) -> Reply<'static> {
    let (kind, inner) = match argument.kind {
        ArgumentKind::Value => (value_type(argument.name), Vec::new()),
        ArgumentKind::Token => ("pure-token", Vec::new()),
        ArgumentKind::OneOf(inner) => ("oneof", inner),
        ArgumentKind::Block(inner) => ("block", inner),
    };
    // Redis has its names in lower case, also those of tokens.
    let name = text(argument.name.to_ascii_lowercase());
    let mut parts = vec![("name", name), ("type", text(kind))];
    if kind == "key" {
        parts.push(("key_spec_index", Reply::Integer((argument.name == "newkey").into())));
    }
    if let Some(token) = argument.token {
        parts.push(("token", text(token)));
    }
    let flags: Vec<_> = [(argument.is_optional, "optional"), (argument.is_multiple, "multiple")]
        .into_iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, flag)| Reply::Status(flag))
        .collect();
    if !flags.is_empty() {
        parts.push(("flags", Reply::Set(flags)));
    }
    if !inner.is_empty() {
        parts.push(("arguments", Reply::Array(inner.into_iter().map(self::argument).collect())));
    }
    map(parts)
}

fn value_type(name: &str) -> &'static str {
    match name {
        "key" | "newkey" => "key",
        "pattern" => "pattern",
        "unix-time-seconds" | "unix-time-milliseconds" => "unix-time",
        "seconds" | "milliseconds" | "start" | "end" | "offset" | "count" | "cursor" | "index" | "protover" | "client-id" | "version"
        | "numreplicas" | "numlocal" | "timeout" | "increment" | "decrement" => "integer",
        "decimal" => "double",
        _ => "string",
    }
}

/// The ACL categories of a command, and each as COMMAND INFO shows it.
pub(super) fn categories(spec: &Spec) -> impl Iterator<Item = (&'static str, &'static str)> {
    let follows = |flag: &&str| match flag.strip_prefix('!') {
        Some(flag) => !spec.has_flag(flag),
        None => spec.has_flag(flag),
    };
    let is_in = move |category: &str, flags: &[&str]| flags.iter().any(follows) || words(spec.categories).any(|word| word == category);
    CATEGORIES.into_iter().filter(move |(word, _, flags)| is_in(word, flags)).map(|(word, status, _)| (word, status))
}

fn words(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split_ascii_whitespace()
}

fn name(spec: &Spec) -> Reply<'static> {
    text(spec.name)
}

fn integer(number: i8) -> Reply<'static> {
    Reply::Integer(i64::from(number))
}

fn map(pairs: impl IntoIterator<Item = (&'static str, Reply<'static>)>) -> Reply<'static> {
    Reply::Map(pairs.into_iter().map(|(key, value)| (text(key), value)).collect())
}

/// `COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`
fn parse_list<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let filter = match words.len() {
        2 => None,
        5 if is(words.word(2), "FILTERBY") => {
            let (kind, word) = (words.word(3), words.word(4));
            Some(if is(kind, "MODULE") {
                ListFilter::Module
            } else if is(kind, "ACLCAT") {
                ListFilter::Category(lower(word))
            } else if is(kind, "PATTERN") {
                ListFilter::Pattern(word.to_vec())
            } else {
                return Err(syntax());
            })
        }
        _ => return Err(syntax()),
    };
    Ok(CommandQuery::List(filter).into())
}

/// `COMMAND INFO [name …]`
fn parse_info<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let names = words.few(2)?.map(lower).collect();
    Ok(CommandQuery::Info((words.len() > 2).then_some(names)).into())
}
