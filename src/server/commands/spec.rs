//! The row of a RESP command in the table of its family: its name, its parser, and what COMMAND
//! tells about it.

use std::fmt;

use super::key_specs::KeySpec;
use crate::server::authorization::Needed;
use crate::wire::command::{Command, Request, SessionCommand};
use crate::wire::reply::Wrong;
use crate::wire::resp::arguments::Arguments;
use crate::wire::role::Role;

/// Everything that is known of a command.
pub struct Spec {
    /// The name in lower case, at most 16 bytes; `client|id` for a subcommand.
    pub name: &'static str,
    /// The number of words with its name and that of its container; negative: at least so many.
    pub arity: i8,
    /// The parser; `None` for a container, which means nothing without a subcommand.
    pub parser: Option<Parser>,
    /// The flags as COMMAND INFO shows them, with spaces between.
    pub flags: &'static str,
    pub keys: &'static [KeySpec],
    /// The ACL categories that do not follow from the flags.
    pub categories: &'static str,
    /// The least role that it needs; `None` if it needs no user. Follows from flags, categories and
    /// keys.
    pub role: Option<Role>,
    pub tips: &'static str,
    pub group: &'static str,
    pub since: &'static str,
    pub complexity: &'static str,
    /// The words behind the name, in the notation of usage.rs.
    pub usage: &'static str,
    pub summary: &'static str,
    pub subcommands: &'static [Spec],
}

/// Makes a command of the words of a request, which are as many as the arity says.
#[derive(Clone, Copy)]
pub enum Parser {
    /// The parser of a command that is queued between MULTI and EXEC.
    Command(CommandParser),
    /// The parser of a command that is executed at once even there.
    Session(SessionParser),
}

pub type CommandParser = for<'a, 's, 'w> fn(&'w Arguments<'a, 's>) -> Result<Command<'a>, Wrong>;
pub type SessionParser = for<'a, 's, 'w> fn(&'w Arguments<'a, 's>) -> Result<SessionCommand<'a>, Wrong>;

impl Spec {
    /// Returns true if a request of so many words is neither too short nor too long. The words of
    /// the command and of its container count.
    pub fn takes(&self, words: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { words >= arity } else { words == arity }
    }

    /// The subcommand of that name, in upper or lower case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Spec> {
        self.subcommands.iter().find(|spec| spec.own_name().as_bytes().eq_ignore_ascii_case(name))
    }

    pub fn has_subcommands(&self) -> bool {
        !self.subcommands.is_empty()
    }

    /// Returns true if a node that has not caught up yet answers it.
    pub fn is_allowed_while_loading(&self) -> bool {
        self.has_flag("loading")
    }

    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.split(' ').any(|word| word == flag)
    }

    /// The command and its role, for [`authorization`](crate::server::authorization).
    pub(crate) fn needed(&self) -> Needed {
        Needed { name: self.name, role: self.role }
    }

    /// The name without that of its container.
    fn own_name(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, name)| name)
    }

    /// A command that is queued between MULTI and EXEC.
    pub const fn command(name: &'static str, arity: i8, flags: &'static str, parser: CommandParser) -> Spec {
        Spec { parser: Some(Parser::Command(parser)), ..Spec::new(name, arity, flags) }
    }

    /// A command that is executed at once even between MULTI and EXEC.
    pub const fn session(name: &'static str, arity: i8, flags: &'static str, parser: SessionParser) -> Spec {
        Spec { parser: Some(Parser::Session(parser)), ..Spec::new(name, arity, flags) }
    }

    /// A command that means nothing without one of its subcommands.
    pub const fn container(
        name: &'static str,
        flags: &'static str,
        group: &'static str,
        since: &'static str,
        subcommands: &'static [Spec],
    ) -> Spec {
        let spec = Spec::new(name, -2, flags).docs(group, since, "Depends on the subcommand");
        spec.help("", "A container for subcommands.").containing(subcommands)
    }

    const fn new(name: &'static str, arity: i8, flags: &'static str) -> Spec {
        let (categories, tips, group, since, complexity, usage, summary) = ("", "", "", "", "", "", "");
        let (keys, role, subcommands): (&[KeySpec], _, &[Spec]) = (&[], least_role(flags, categories, &[]), &[]);
        Spec { name, arity, parser: None, flags, keys, categories, role, tips, group, since, complexity, usage, summary, subcommands }
    }

    pub const fn keys(self, keys: &'static [KeySpec]) -> Spec {
        Spec { keys, role: least_role(self.flags, self.categories, keys), ..self }
    }

    pub const fn categories(self, categories: &'static str) -> Spec {
        Spec { categories, role: least_role(self.flags, categories, self.keys), ..self }
    }

    /// A command that needs no user, although Redis has one for it. Stands behind what the role
    /// follows from.
    pub const fn for_anyone(self) -> Spec {
        Spec { role: None, ..self }
    }

    /// Redis's hints to clients that are connected to several nodes.
    pub const fn tips(self, tips: &'static str) -> Spec {
        Spec { tips, ..self }
    }

    /// `since`: the version of Redis that had it first, or of kvmesh for its own commands.
    pub const fn docs(self, group: &'static str, since: &'static str, complexity: &'static str) -> Spec {
        Spec { group, since, complexity, ..self }
    }

    pub const fn help(self, usage: &'static str, summary: &'static str) -> Spec {
        Spec { usage, summary, ..self }
    }

    pub const fn containing(self, subcommands: &'static [Spec]) -> Spec {
        Spec { subcommands, ..self }
    }
}

/// The least role that a command needs, as Redis's own words for it say.
const fn least_role(flags: &str, categories: &str, keys: &[KeySpec]) -> Option<Role> {
    let writes = has_word(flags, "write");
    if has_word(flags, "no_auth") {
        None
    } else if has_word(flags, "admin") || writes && has_word(categories, "dangerous") {
        Some(Role::Admin)
    } else if writes {
        Some(Role::Write)
    } else if has_word(flags, "readonly") || !keys.is_empty() {
        Some(Role::Read)
    } else {
        Some(Role::Monitor)
    }
}

/// Returns true if a text of words with spaces between has this one among them.
const fn has_word(text: &str, word: &str) -> bool {
    let (text, word) = (text.as_bytes(), word.as_bytes());
    let (mut start, mut at) = (0, 0);
    while at <= text.len() {
        if at == text.len() || text[at] == b' ' {
            let mut same = 0;
            while same < word.len() && start + same < at && text[start + same] == word[same] {
                same += 1;
            }
            if same == word.len() && start + same == at {
                return true;
            }
            start = at + 1;
        }
        at += 1;
    }
    false
}

impl PartialEq for Spec {
    /// Names are unique.
    fn eq(&self, other: &Spec) -> bool {
        self.name == other.name
    }
}

impl Eq for Spec {}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Parser {
    #[inline]
    pub fn parse<'a>(self, words: &Arguments<'a, '_>) -> Result<Request<'a>, Wrong> {
        match self {
            Parser::Command(parse) => parse(words).map(Request::Command),
            Parser::Session(parse) => parse(words).map(Request::Session),
        }
    }
}
