//! ACL: who the client is, which users there are, and what was refused. Users are made in the
//! configuration, and nothing here changes them or shows their hashes.

use super::command_query::{categories, category_names};
use super::introspection::text;
use super::spec::Spec;
use crate::config::UserConfig;
use crate::data::clock::elapsed;
use crate::server::authorization::DEFAULT_USER;
use crate::server::connection::Connection;
use crate::server::denials::Denial;
use crate::wire::command::{AclCommand, Command, Introspection};
use crate::wire::reply::{ErrorCode, Reply, Wrong};
use crate::wire::resp::arguments::{Arguments, is, lower};
use crate::wire::role::Role;

pub(super) static COMMANDS: &[Spec] = &[Spec::container("acl", "", "server", "6.0.0", &SUBCOMMANDS)];

static SUBCOMMANDS: [Spec; 5] = [
    Spec::command("acl|whoami", 2, "noscript loading stale", |_| Ok(acl(AclCommand::WhoAmI)))
        .docs("server", "6.0.0", "O(1)")
        .help("", "Returns the name of the user of this connection."),
    Spec::command("acl|cat", -2, "noscript loading stale", parse_cat)
        .docs("server", "6.0.0", "O(N) where N is the number of commands")
        .help("[category]", "Returns the categories of commands, or the commands of one."),
    Spec::command("acl|users", 2, "admin noscript loading stale", |_| Ok(acl(AclCommand::Users)))
        .docs("server", "6.0.0", "O(N) where N is the number of users")
        .help("", "Returns the names of the users."),
    Spec::command("acl|getuser", 3, "admin noscript loading stale", |words| Ok(acl(AclCommand::User(words.data(2)))))
        .docs("server", "6.0.0", "O(N) where N is the number of commands")
        .help("username", "Returns what a user may do."),
    Spec::command("acl|log", -2, "admin noscript loading stale", parse_log)
        .docs("server", "6.0.0", "O(N) where N is the number of entries")
        .help("[count|RESET]", "Returns what was refused for want of rights, or forgets it."),
];

/// The entries of ACL LOG where no number is given.
const LOG_COUNT: usize = 10;

/// Answers a question about `commands`, which are all that there are.
#[inline(never)]
pub(super) fn answer(
    connection: &mut Connection<'_>,
    command: &AclCommand<'_>,
    commands: impl Iterator<Item = &'static Spec>,
) -> Reply<'static> {
    let commands = commands.flat_map(|spec| std::iter::once(spec).chain(spec.subcommands));
    let denials = &connection.shared.denials;
    match command {
        AclCommand::WhoAmI => text(connection.authorization.user().map_or(DEFAULT_USER.to_owned(), |user| user.name.clone())),
        AclCommand::Categories { of: None } => Reply::Array(category_names().map(text).collect()),
        AclCommand::Categories { of: Some(category) } if category_names().all(|name| name != category) => {
            Reply::error(ErrorCode::Err, format!("Unknown category '{category}'"))
        }
        AclCommand::Categories { of: Some(category) } => {
            let of_it = commands.filter(|spec| categories(spec).any(|(name, _)| name == category));
            Reply::Array(of_it.map(|spec| text(spec.name)).collect())
        }
        AclCommand::Users => {
            let access = connection.authorization.access();
            let names = access.users().iter().map(|user| text(user.name.clone()));
            Reply::Array(if access.has_users() { names.collect() } else { vec![text(DEFAULT_USER)] })
        }
        AclCommand::User(name) => {
            let access = connection.authorization.access();
            match access.user(name) {
                Some(user) => described(Some(user), commands),
                None if !access.has_users() && **name == *DEFAULT_USER.as_bytes() => described(None, commands),
                None => Reply::Null,
            }
        }
        AclCommand::Log { count } => Reply::Array(denials.newest(*count).into_iter().map(entry).collect()),
        AclCommand::ResetLog => {
            denials.clear();
            Reply::Ok
        }
    }
}

/// The rights of a user in Redis's words; `None` is the user of a node that has none, who may do
/// everything.
fn described(user: Option<&UserConfig>, commands: impl Iterator<Item = &'static Spec>) -> Reply<'static> {
    let role = user.map_or(Role::Admin, |user| user.role);
    let mut rules = if role == Role::Admin { "+@all" } else { "-@all" }.to_owned();
    if role != Role::Admin {
        for spec in commands.filter(|spec| spec.parser.is_some() && spec.role <= Some(role)) {
            rules += " +";
            rules += spec.name;
        }
    }
    let keys = match user.and_then(|user| user.prefixes.as_ref()) {
        None => "~*".to_owned(),
        Some(prefixes) => prefixes.iter().map(|prefix| format!("~{prefix}*")).collect::<Vec<_>>().join(" "),
    };
    let flags: &[&str] = match user {
        None => &["on", "nopass"],
        Some(user) if user.is_enabled => &["on"],
        Some(_) => &["off"],
    };
    let pairs = [
        ("flags", Reply::Set(flags.iter().copied().map(text).collect())),
        // Hashes are not shown.
        ("passwords", Reply::Array(Vec::new())),
        ("commands", text(rules)),
        ("keys", text(keys)),
        ("channels", text("")),
        ("selectors", Reply::Array(Vec::new())),
        ("role", text(role.to_string())),
    ];
    Reply::Map(pairs.into_iter().map(|(name, value)| (text(name), value)).collect())
}

fn entry(denial: Denial) -> Reply<'static> {
    let age = elapsed().saturating_sub(denial.at);
    let pairs = [
        ("count", Reply::Integer(denial.count as i64)),
        ("reason", text(denial.reason)),
        ("context", text(denial.context)),
        ("object", text(denial.command)),
        ("username", text(denial.user)),
        ("age-seconds", text(format!("{:.3}", age.as_secs_f64()))),
        ("client-info", text(denial.client)),
    ];
    Reply::Map(pairs.into_iter().map(|(name, value)| (text(name), value)).collect())
}

fn acl(command: AclCommand<'_>) -> Command<'_> {
    Introspection::Acl(command).into()
}

/// `ACL CAT [category]`
fn parse_cat<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    match words.len() {
        2 => Ok(acl(AclCommand::Categories { of: None })),
        3 => Ok(acl(AclCommand::Categories { of: Some(lower(words.word(2))) })),
        _ => Err(words.wrong_arity()),
    }
}

/// `ACL LOG [count | RESET]`
fn parse_log<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    match words.len() {
        2 => Ok(acl(AclCommand::Log { count: LOG_COUNT })),
        3 if is(words.word(2), "RESET") => Ok(acl(AclCommand::ResetLog)),
        // Fewer than none are none.
        3 => Ok(acl(AclCommand::Log { count: usize::try_from(words.integer(2)?).unwrap_or(0) })),
        _ => Err(words.wrong_arity()),
    }
}
