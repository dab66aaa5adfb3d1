//! The state of one connection: what its client has chosen, written and queued.
//!
//! Commands work on it. Never touches the socket, and knows no command.

use std::sync::Arc;

use crate::data::clock::Now;
use crate::process::audit::{AuditEvent, AuditKind};
use crate::replication::status;
use crate::server::client_handle::ClientHandle;
use crate::server::counters::RoundTally;
use crate::server::multi_queue::{QueuedRequest, Transaction};
use crate::server::protocol::ClientProtocol;
use crate::server::shared::Shared;
use crate::server::writes::{ReplySpan, RoundWrites, WriteRefusal};
use crate::wire::ack_level::AckLevel;
use crate::wire::reply::{ErrorCode, Reply, Wrong};
use crate::wire::resp::RespVersion;
use crate::wire::resp::request::request_len_max;

pub(crate) struct Connection<'a> {
    pub shared: &'a Shared,
    pub client: &'a Arc<ClientHandle>,
    pub writes: RoundWrites<'a>,
    pub level: AckLevel,
    pub version: RespVersion,
    pub transaction: Transaction<'a>,
    pub tally: RoundTally,
    /// True once the client has killed itself: it still hears what came of the command.
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
        self.client.reset();
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
    pub fn queue(&mut self, request: &QueuedRequest<'_, '_>, len: usize) -> Reply<'static> {
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
        let (client, addr) = (Some(self.client.id()), self.client.addr());
        self.shared.services.replica.audit().note(AuditEvent { client, addr, ..event });
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
