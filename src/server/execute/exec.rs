//! EXEC: what was queued, in one step.
//!
//! The commands that concern data are planned and applied while every key that they name, or every key, is locked. Those that do not are executed behind that, since they may
//! look at the store themselves.

use std::cell::Cell;

use crate::server::execute::Executor;
use crate::server::judge::Moment;
use crate::server::long::{self, Long};
use crate::server::lookups::Lookups;
use crate::server::plan::{self, Plan};
use crate::server::transaction::{Queued, Watch};
use crate::server::writes::Refusal;
use crate::store::{Span, View};
use crate::wire::command::Command;
use crate::wire::reply::{ErrorCode, Reply};

impl Executor<'_> {
    #[inline(never)]
    pub(super) fn exec(&mut self, moment: &Moment) -> Reply<'static> {
        let (requests, watch) = match self.transaction.take() {
            Ok(taken) => taken,
            Err(reply) => return reply,
        };
        let limits = &self.shared.limits;
        let commands = requests.commands(limits, moment);
        match self.exec_data(&commands, &watch, moment) {
            Ok(Some(replies)) => {
                let mut all = Vec::with_capacity(replies.len());
                let mut left = self.shared.services.config.write_room;
                for (command, reply) in commands.iter().zip(replies) {
                    all.push(match (reply, command) {
                        (Some(reply), _) => reply,
                        (None, Ok(_)) if left == 0 => {
                            Reply::error(ErrorCode::TooBig, "the replies of this transaction take too much; this command is not executed")
                        }
                        (None, Ok(command)) => {
                            let reply = self.exec_other(command);
                            left = left.saturating_sub(reply.own_size());
                            reply
                        }
                        (None, Err(wrong)) => wrong.clone().into_reply(),
                    });
                }
                Reply::Array(all)
            }
            Ok(None) => Reply::NullArray,
            Err(refusal) => self.refused(refusal),
        }
    }

    /// The commands that concern data, in one step. `None` where a watched key has changed; for each other command, too.
    fn exec_data(
        &mut self,
        commands: &[Queued<'_>],
        watch: &Watch,
        moment: &Moment,
    ) -> Result<Option<Vec<Option<Reply<'static>>>>, Refusal> {
        let mut keys: Vec<&[u8]> = watch.keys().collect();
        let mut is_all = false;
        for command in commands.iter().flatten() {
            match command {
                Command::One { key, .. } => keys.push(key),
                Command::Several(several) => keys.extend(several.keys()),
                other => is_all |= is_of_all_keys(other),
            }
        }
        if keys.len() > plan::KEYS_MAX {
            return Err(Refusal::TooManyKeys(keys.len()));
        }
        let span = if is_all { Span::All } else { Span::Keys(&keys) };
        let mut brought: Vec<_> = commands.iter().map(|command| command.as_ref().map_or_else(|_| Vec::new(), plan::brought)).collect();
        let (limits, room) = (self.shared.limits, self.shared.services.config.write_room);
        let lookups = Cell::new(Lookups::default());
        let mut run = |view: &View<'_>| -> Result<_, Refusal> {
            if watch.has_changed(view, moment) {
                return Ok((Vec::new(), None));
            }
            let mut plan = Plan::new(view, &limits, moment, room);
            let replies = commands.iter().zip(&mut brought).map(|(command, brought)| {
                let reply = command.as_ref().ok().and_then(|command| plan.run(command, brought));
                reply.map(Reply::into_owned)
            });
            let replies = replies.collect();
            if plan.is_too_large() {
                return Err(Refusal::TooLarge { len: None, room });
            }
            // Of the last run, if there are several: only that one counts.
            lookups.set(plan.lookups);
            Ok((plan.into_effects(), Some(replies)))
        };
        if !commands.iter().flatten().any(Command::may_write) {
            let done = self.shared.services.store.look(span, |view| run(view).map(|(_, replies)| replies));
            self.tally.lookups.add(lookups.get());
            return done;
        }
        let len = commands.iter().flatten().map(plan::size).fold(0, usize::saturating_add);
        let done = self.writes.several(self.level, span, len, moment, run)?;
        self.tally.lookups.add(lookups.get());
        self.tally.writes += 1;
        Ok(done)
    }

    /// In a transaction, behind what concerned data.
    fn exec_other(&mut self, command: &Command<'_>) -> Reply<'static> {
        match command {
            Command::Wait { .. }
            | Command::WaitDurable { .. }
            | Command::Sleep { .. }
            | Command::Status
            | Command::Peers
            | Command::Digest { .. }
            | Command::Compact
            | Command::Resume
            | Command::Info { .. } => long::answer(self, Long::of(command), false),
            other => self.about_connection(other).into_owned(),
        }
    }
}

/// Whether it looks at all keys in a transaction.
fn is_of_all_keys(command: &Command<'_>) -> bool {
    matches!(command, Command::Count | Command::Matching { .. } | Command::Scan { .. } | Command::RandomKey | Command::Flush)
}
