//! Authorization: who the client of a connection is, and whether it may make a request. The one
//! place for both protocols, and for what is queued between MULTI and EXEC.
//!
//! The role that a command needs is in the row of its table; the keys that a request names are in
//! the typed request. The words of refusals are those of redis-server 7.0.15. Never touches a
//! socket.

use std::sync::Arc;

use crate::config::UserConfig;
use crate::server::access::{Access, AccessControl};
use crate::wire::command::{Admin, Command, DataCommand, KeyspaceCommand, Login, OtherCommand, Request, SessionCommand, TextCommand};
use crate::wire::reply::{ErrorCode, Wrong};
use crate::wire::role::Role;

/// The user that a client means who names none.
pub(crate) const DEFAULT_USER: &str = "default";
/// Logins that may fail on one connection. With the last of them it is closed.
const FAILURES_MAX: u32 = 3;

/// The rights of one connection.
pub(crate) struct Authorization<'a> {
    control: &'a AccessControl,
    /// The access in which `user` was found, and its generation.
    access: Arc<Access>,
    generation: u64,
    /// The user of the connection; `None` before it has logged in, and where there are no users.
    user: Option<Arc<UserConfig>>,
    /// The greatest role whose commands need no closer look. `None` if all do: there are prefixes,
    /// disabled commands, or no user.
    at_once: Option<Role>,
    /// Logins that have failed.
    failures: u32,
}

/// A command, as far as it matters for who may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needed {
    /// The name as the table of its protocol has it.
    pub name: &'static str,
    /// The least role that may use it; `None` if it needs no user.
    pub role: Option<Role>,
}

/// The reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The client has not said who it is.
    Nobody,
    /// The role of the user is too low.
    Command,
    /// The request names other keys than the user's, or concerns all keys.
    Keys,
    /// Nobody may use the command on this node.
    Disabled,
}

/// The keys that a client may see.
#[derive(Clone)]
pub(crate) enum Scope {
    All,
    /// Keys that begin with a prefix of its user.
    Of(Arc<UserConfig>),
    /// None: its user was removed while a command of it waited for its turn.
    Nothing,
}

impl<'a> Authorization<'a> {
    pub fn new(control: &'a AccessControl) -> Authorization<'a> {
        // As if everybody might do everything: the first check looks again.
        Authorization { control, access: Arc::default(), generation: 0, user: None, at_once: None, failures: 0 }
    }

    /// Returns false if there is nothing to check: everybody may do everything, and it was so at
    /// the last look.
    #[inline]
    pub fn is_checked(&self) -> bool {
        (self.control.generation() | self.generation) != 0
    }

    /// Returns true if a command may be executed without a closer look. `role` is the one that it
    /// needs.
    #[inline]
    pub fn allows_at_once(&self, role: impl FnOnce() -> Option<Role>) -> bool {
        let is_fresh = self.control.generation() == self.generation;
        is_fresh && (self.generation == 0 || role().is_some_and(|role| Some(role) <= self.at_once))
    }

    /// Checks a request. `is_within` says whether it stays within the keys of a user.
    #[inline(never)]
    pub fn check(&mut self, needed: Needed, is_within: &dyn Fn(&UserConfig) -> bool) -> Result<(), Denied> {
        self.refresh();
        // Before anything else: what strangers try is nobody's denial.
        if self.access.has_users() && needed.role.is_some() && self.user.is_none() {
            return Err(Denied::Nobody);
        }
        if self.access.is_disabled(needed.name) {
            return Err(Denied::Disabled);
        }
        let (true, Some(role), Some(user)) = (self.access.has_users(), needed.role, &self.user) else { return Ok(()) };
        if user.role < role {
            return Err(Denied::Command);
        }
        if user.prefixes.is_some() && !is_within(user) { Err(Denied::Keys) } else { Ok(()) }
    }

    /// Returns true if the client has to say who it is before it can do anything.
    pub fn is_of_nobody(&mut self) -> bool {
        self.refresh();
        self.access.has_users() && self.user.is_none()
    }

    /// The access in force.
    pub fn access(&mut self) -> &Access {
        self.refresh();
        &self.access
    }

    /// The user, where there are users and the client has logged in.
    pub fn user(&mut self) -> Option<&Arc<UserConfig>> {
        self.refresh();
        self.user.as_ref()
    }

    /// The name of the user at the last look.
    pub fn last_user(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.name.as_str())
    }

    /// The keys that the client may see.
    pub fn scope(&mut self) -> Scope {
        if !self.is_checked() {
            return Scope::All;
        }
        self.refresh();
        match &self.user {
            Some(user) if user.prefixes.is_some() => Scope::Of(Arc::clone(user)),
            None if self.access.has_users() => Scope::Nothing,
            _ => Scope::All,
        }
    }

    /// Logs the client in, and returns true if it is now the user that it says; else it stays who
    /// it was. To be called where there are users.
    pub fn log_in(&mut self, login: &Login<'_>) -> bool {
        self.refresh();
        let name = login.user.as_deref().unwrap_or(DEFAULT_USER.as_bytes());
        // Without a look at what comes after the last failure: a transaction may hold many.
        let found = if self.failures < FAILURES_MAX { self.access.authenticate(name, &login.password.0) } else { None };
        match found {
            Some(user) => {
                self.user = Some(Arc::clone(user));
                self.note_at_once();
                true
            }
            None => {
                self.failures += 1;
                false
            }
        }
    }

    /// Logs the client in as the user that its certificate names. Returns false if there is no such
    /// user, or it may not log in.
    pub fn log_in_by_certificate(&mut self, name: &str) -> bool {
        self.refresh();
        self.user = self.access.user(name.as_bytes()).filter(|user| user.is_enabled).cloned();
        self.note_at_once();
        self.user.is_some()
    }

    /// Returns true if the connection is to be closed, since too many logins have failed on it.
    pub fn has_failed_too_often(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    pub fn log_out(&mut self) {
        self.user = None;
        self.note_at_once();
    }

    fn note_at_once(&mut self) {
        let user = self.user.as_ref().filter(|user| user.prefixes.is_none() && !self.access.has_disabled());
        self.at_once = user.map(|user| user.role);
    }

    /// Looks the user up again if the access has changed.
    fn refresh(&mut self) {
        if self.control.generation() != self.generation {
            (self.access, self.generation) = self.control.current();
            self.user = self.user.take().and_then(|former| self.access.successor(&former).cloned());
            self.note_at_once();
        }
    }
}

impl Denied {
    /// The error that the client gets, in the words of Redis where it has some.
    #[cold]
    pub fn wrong(self, needed: Needed) -> Wrong {
        let name = needed.name;
        match self {
            Denied::Nobody => Wrong::new(ErrorCode::NoAuth, "Authentication required."),
            Denied::Command => Wrong::new(ErrorCode::NoPerm, format!("this user has no permissions to run the '{name}' command")),
            Denied::Keys => Wrong::new(ErrorCode::NoPerm, "this user has no permissions to access one of the keys used as arguments"),
            Denied::Disabled => {
                let sentence = format!("nobody may run the '{name}' command: disabled_commands in the configuration of this node has it");
                Wrong::new(ErrorCode::NoPerm, sentence)
            }
        }
    }

    /// The error of a command that was queued while it was allowed.
    #[cold]
    pub fn wrong_at_exec(self, needed: Needed) -> Wrong {
        let reason = match self {
            Denied::Command => "no permission to execute the command or subcommand",
            Denied::Keys => "no permission to touch the specified keys",
            Denied::Nobody | Denied::Disabled => "no permission",
        };
        let sentence = "ACLs rules changed between the moment the transaction was accumulated and the EXEC call. \
                        This command is no longer allowed for the following reason: ";
        Wrong::new(self.wrong(needed).code, format!("{sentence}{reason}"))
    }
}

impl Scope {
    pub fn covers(&self, key: &[u8]) -> bool {
        match self {
            Scope::All => true,
            Scope::Of(user) => user.covers(key),
            Scope::Nothing => false,
        }
    }
}

/// Returns true if a request names no other keys than those of the user, and does not concern all
/// keys.
pub(crate) fn is_request_within(request: &Request<'_>, user: &UserConfig) -> bool {
    match request {
        Request::Command(command) => is_command_within(command, user),
        Request::Session(SessionCommand::Watch { keys }) => keys.iter().all(|key| user.covers(key)),
        Request::Session(
            SessionCommand::Multi
            | SessionCommand::Exec
            | SessionCommand::Discard
            | SessionCommand::Ack { .. }
            | SessionCommand::Reset
            | SessionCommand::Quit,
        ) => true,
        // KEYS leaves out what the user may not see.
        Request::Text(TextCommand::Keys { .. } | TextCommand::Help { .. }) => true,
        Request::Text(TextCommand::Dump | TextCommand::Restore) => false,
    }
}

/// Returns true if a command names no other keys than those of the user, and does not concern all
/// keys.
pub(crate) fn is_command_within(command: &Command<'_>, user: &UserConfig) -> bool {
    match command {
        Command::Data(DataCommand::Read { key, .. } | DataCommand::Write { key, .. }) => user.covers(key),
        Command::Data(DataCommand::MultiKey(command)) => command.keys().into_iter().all(|key| user.covers(key)),
        // These leave out what the user may not see.
        Command::Data(DataCommand::Keyspace(KeyspaceCommand::Scan(_) | KeyspaceCommand::Matching { .. })) => true,
        Command::Data(DataCommand::Keyspace(KeyspaceCommand::Count | KeyspaceCommand::RandomKey | KeyspaceCommand::Flush)) => false,
        Command::Other(OtherCommand::Admin(Admin::Digest { .. })) => false,
        Command::Other(OtherCommand::Admin(
            Admin::Status | Admin::Peers | Admin::Info { .. } | Admin::Compact | Admin::Resume | Admin::Reload,
        )) => true,
        Command::Other(OtherCommand::Connection(_) | OtherCommand::Introspection(_) | OtherCommand::Blocking(_)) => true,
    }
}

/// The first key that a request names, for the audit log.
pub(crate) fn first_key_of_request<'r>(request: &'r Request<'_>) -> Option<&'r [u8]> {
    match request {
        Request::Command(command) => first_key_of_command(command),
        Request::Session(SessionCommand::Watch { keys }) => keys.first().map(|key| &**key),
        Request::Session(_) | Request::Text(_) => None,
    }
}

/// The first key that a command names, for the audit log.
pub(crate) fn first_key_of_command<'c>(command: &'c Command<'_>) -> Option<&'c [u8]> {
    match command {
        Command::Data(DataCommand::Read { key, .. } | DataCommand::Write { key, .. }) => Some(key),
        Command::Data(DataCommand::MultiKey(command)) => command.keys().first().copied(),
        Command::Data(DataCommand::Keyspace(_)) | Command::Other(_) => None,
    }
}
