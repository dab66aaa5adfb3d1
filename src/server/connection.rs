//! The state of one connection: what its client has chosen, written and queued.
//!
//! Commands work on it. Never touches the socket, and knows no command.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::UserConfig;
use crate::data::clock::{Now, elapsed};
use crate::process::audit::{AuditEvent, AuditKind};
use crate::replication::status;
use crate::server::authorization::{Authorization, DEFAULT_USER, Denied, Needed, first_key_of_command, is_command_within};
use crate::server::client_handle::ClientHandle;
use crate::server::counters::RoundTally;
use crate::server::denials::Denial;
use crate::server::evaluation::RoundTime;
use crate::server::multi_queue::{QueuedRequest, Transaction};
use crate::server::protocol::ClientProtocol;
use crate::server::shared::Shared;
use crate::server::writes::{ReplySpan, RoundWrites, WriteRefusal};
use crate::wire::ack_level::AckLevel;
use crate::wire::command::Login;
use crate::wire::reply::{ErrorCode, Reply, Wrong};
use crate::wire::resp::RespVersion;
use crate::wire::resp::request::request_len_max;

/// The sentence of Redis for a user that cannot log in, or not with this password.
pub(crate) const WRONG_PASSWORD: &str = "invalid username-password pair or user is disabled.";

pub(crate) struct Connection<'a> {
    pub shared: &'a Shared,
    pub client: &'a Arc<ClientHandle>,
    pub authorization: Authorization<'a>,
    pub writes: RoundWrites<'a>,
    pub level: AckLevel,
    pub version: RespVersion,
    pub transaction: Transaction<'a>,
    pub tally: RoundTally,
    /// True once the client has killed itself, or has failed to log in too often: it still hears
    /// what came of the command.
    pub closes: bool,
    /// The name of the last command; `None` if it was a line of text.
    pub command: Option<&'static str>,
    /// The name that CLIENT LIST shows.
    noted: Option<&'static str>,
}

impl<'a> Connection<'a> {
    pub fn new(shared: &'a Shared, client: &'a Arc<ClientHandle>) -> Connection<'a> {
        Connection {
            shared,
            client,
            authorization: Authorization::new(&shared.access),
            writes: RoundWrites::new(&shared.services),
            level: shared.services.live.current().ack,
            version: RespVersion::default(),
            transaction: Transaction::new(&shared.read_budget),
            tally: RoundTally::default(),
            closes: false,
            command: None,
            noted: None,
        }
    }

    /// Makes the connection as it was when it began.
    pub fn reset(&mut self) {
        self.transaction = Transaction::new(&self.shared.read_budget);
        self.version = RespVersion::default();
        self.level = self.shared.services.live.current().ack;
        self.authorization.log_out();
        self.client.reset();
    }

    /// Logs the client in as the user that its certificate names, if there is one.
    pub fn log_in_by_certificate(&mut self, name: &str) {
        if self.authorization.log_in_by_certificate(name) {
            self.client.set_user(self.authorization.user().map(|user| user.name.as_str().into()));
            self.audit(AuditEvent::of(AuditKind::Login));
        }
    }

    /// Counts a refusal for want of rights, and answers with it. `key` is the first one that the
    /// request names.
    #[cold]
    #[inline(never)]
    pub fn deny(&mut self, denied: Denied, needed: Needed, key: Option<&[u8]>, protocol: ClientProtocol) -> Reply<'static> {
        self.tally.commands += 1;
        self.note_denied(denied, needed, key, if self.transaction.is_open() { "multi" } else { "toplevel" });
        if denied == Denied::Nobody {
            // Of a user who is one no more.
            self.client.set_user(None);
        }
        let mut wrong = denied.wrong(needed);
        if needed.name == "exec" {
            // The transaction ends even so.
            wrong = Wrong::new(ErrorCode::ExecAbort, format!("Transaction discarded because of: {} {}", wrong.code, wrong.sentence));
        }
        self.refuse(wrong, protocol)
    }

    /// Logs the client in, or answers that it cannot be who it says.
    pub fn log_in(&mut self, login: &Login<'_>) -> Reply<'static> {
        if self.authorization.log_in(login) {
            self.client.set_user(self.authorization.user().map(|user| user.name.as_str().into()));
            self.audit(AuditEvent::of(AuditKind::Login));
            return Reply::Ok;
        }
        self.closes |= self.authorization.has_failed_too_often();
        self.shared.counters.logins_failed.fetch_add(1, Ordering::Relaxed);
        if let Some(more) = self.shared.log_limit.admit("login", 0, elapsed()) {
            // No name, either: a password may stand in its place.
            let addr = self.client.addr().map_or_else(|| "an unknown address".to_owned(), |addr| addr.ip().to_string());
            log::warn!("login failed: a client at {addr} gave no user of this node with the right password{more}");
        }
        let named = login.user.as_deref().unwrap_or(DEFAULT_USER.as_bytes());
        let known = self.authorization.access().user(named).map(|user| user.name.clone());
        self.audit(AuditEvent { user: known.as_deref(), ..AuditEvent::of(AuditKind::LoginFailed) });
        self.note_denial("auth", "toplevel", "auth", known.unwrap_or_else(|| "(unknown)".to_owned()));
        Reply::error(ErrorCode::WrongPass, WRONG_PASSWORD)
    }

    /// Counts a refusal for want of rights, and notes it for ACL LOG. `context` is Redis's word for
    /// where it happened.
    pub fn note_denied(&mut self, denied: Denied, needed: Needed, key: Option<&[u8]>, context: &'static str) {
        self.shared.counters.commands_denied.fetch_add(1, Ordering::Relaxed);
        let reason = match denied {
            // Of strangers there may be many, and they have seen nothing.
            Denied::Nobody => return,
            Denied::Command | Denied::Disabled => "command",
            Denied::Keys => "key",
        };
        let user = self.authorization.user().map_or(DEFAULT_USER.to_owned(), |user| user.name.clone());
        self.audit(AuditEvent { command: Some(needed.name), key, ..AuditEvent::of(AuditKind::Denied) });
        self.note_denial(reason, context, needed.name, user);
    }

    fn note_denial(&self, reason: &'static str, context: &'static str, command: &'static str, user: String) {
        let addr = self.client.addr().map_or_else(|| "?:0".to_owned(), |addr| addr.to_string());
        let client = format!("id={} addr={addr}", self.client.id());
        self.shared.denials.note(Denial { reason, context, command, user, client, count: 1, at: elapsed() });
    }

    /// The protocol of a request.
    pub fn protocol_of(&self, request: &[u8]) -> ClientProtocol {
        ClientProtocol::of(request.first(), self.version)
    }

    /// Answers a request with what is wrong with it.
    pub fn refuse(&mut self, wrong: Wrong, protocol: ClientProtocol) -> Reply<'static> {
        match protocol {
            ClientProtocol::Resp(_) if wrong.code == ErrorCode::ExecAbort => drop(self.transaction.discard()),
            ClientProtocol::Resp(_) => self.transaction.spoil(),
            ClientProtocol::Text => {}
        }
        wrong.into_reply()
    }

    /// Keeps a request of `len` bytes until EXEC.
    pub fn queue(&mut self, request: &QueuedRequest<'_, '_>, len: usize, time: &RoundTime) -> Reply<'static> {
        if self.authorization.is_checked() {
            let (limits, needed) = (&self.shared.limits, request.spec.needed());
            // What is wrong with it is its reply to EXEC, and touches no key.
            let is_within = |user: &UserConfig| request.parse(limits, time).map_or(true, |command| is_command_within(&command, user));
            if let Err(denied) = self.authorization.check(needed, &is_within) {
                let command = request.parse(limits, time).ok();
                return self.deny(denied, needed, command.as_ref().and_then(first_key_of_command), ClientProtocol::Resp(self.version));
            }
        }
        self.tally.commands += 1;
        if !self.shared.services.replica.is_open() {
            self.transaction.spoil();
            return self.loading();
        }
        self.transaction.queue(request, len, request_len_max(&self.shared.limits))
    }

    /// The error of a node that has not caught up yet.
    pub fn loading(&self) -> Reply<'static> {
        Reply::error(ErrorCode::Loading, status::loading(&self.shared.services.replica, Now::read()))
    }

    /// Counts a refusal and answers with it.
    pub fn refused(&mut self, refusal: WriteRefusal) -> Reply<'static> {
        self.tally.refused += 1;
        self.tally.no_quorum |= matches!(refusal, WriteRefusal::NoQuorum(_));
        refusal.into_reply(&self.shared.services, self.level)
    }

    /// Notes the range of a reply, after every command. Returns true if that command waits for
    /// acks.
    pub fn record_reply(&mut self, reply: ReplySpan) -> bool {
        self.writes.record_reply(reply)
    }

    /// Waits until the writes of the round are acknowledged. Returns true if the reply to the last
    /// of them stands.
    pub fn settle(&mut self, replies: &mut Vec<u8>) -> bool {
        let failed = self.writes.settle(replies);
        self.settled(failed)
    }

    /// Settles without waiting; see [`RoundWrites::try_settle`].
    #[cfg(feature = "testing")]
    pub fn try_settle(&mut self, is_late: bool, replies: &mut Vec<u8>) -> Option<bool> {
        let failed = self.writes.try_settle(is_late, replies)?;
        Some(self.settled(failed))
    }

    fn settled(&self, failed: usize) -> bool {
        self.shared.counters.add_unknown(failed);
        self.writes.last_stands()
    }

    /// Ends the round; so many bytes are left unread for the next one. Returns true if something
    /// was refused for want of a quorum.
    pub fn end_round(&mut self, unread_len: usize) -> bool {
        let tally = std::mem::take(&mut self.tally);
        self.client.end_round(unread_len, self.transaction.size());
        self.note_command();
        self.shared.counters.add(&tally);
        tally.no_quorum
    }

    /// Shows the last command to others. Clients send the same again and again: only what is new is
    /// noted.
    pub fn note_command(&mut self) {
        if self.noted != self.command {
            self.noted = self.command;
            self.client.set_command(self.command);
        }
    }

    /// Notes in the audit log what this connection has caused.
    #[cold]
    pub fn audit(&self, event: AuditEvent<'_>) {
        let (client, addr, is_failed) = (Some(self.client.id()), self.client.addr(), event.kind == AuditKind::LoginFailed);
        // A failed login is of nobody, or of the user whose password it was not.
        let user = if is_failed { event.user } else { self.authorization.last_user() };
        self.shared.services.replica.audit().note(AuditEvent { client, addr, user, ..event });
    }

    /// Notes in the audit log that this connection has executed an administrative command.
    pub fn audit_command(&self, command: &str) {
        self.audit(AuditEvent { command: Some(command), ..AuditEvent::of(AuditKind::Admin) });
    }

    /// Returns true if no client is left who could hear an answer.
    pub fn is_over(&self) -> bool {
        self.shared.is_stopping() || self.client.is_killed() || self.client.is_gone()
    }
}
