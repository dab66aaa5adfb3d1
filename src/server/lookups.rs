//! Keys that were looked for, and whether they were there, as Redis counts them: by commands that read a value or ask something of one; not by those that
//! only write, by MEMORY USAGE, or by walks through all keys.

use crate::wire::command::{Action, SetAnswer};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lookups {
    pub hits: u64,
    pub misses: u64,
}

impl Lookups {
    pub fn note(&mut self, is_there: bool) {
        *(if is_there { &mut self.hits } else { &mut self.misses }) += 1;
    }

    /// What an action has found, if it is one that counts.
    pub fn note_action(&mut self, action: &Action<'_>, is_there: bool) {
        if is_lookup(action) {
            self.note(is_there);
        }
    }

    pub fn add(&mut self, more: Lookups) {
        self.hits += more.hits;
        self.misses += more.misses;
    }
}

fn is_lookup(action: &Action<'_>) -> bool {
    match action {
        Action::Get
        | Action::Exists
        | Action::Len
        | Action::Range { .. }
        | Action::Expiry(_)
        | Action::Type
        | Action::Encoding
        | Action::GetDelete
        | Action::GetWrong { .. }
        | Action::GetExpire { .. } => true,
        Action::Set(set) => set.answer == SetAnswer::Former,
        Action::Footprint
        | Action::Delete { .. }
        | Action::Append { .. }
        | Action::Overwrite { .. }
        | Action::Add { .. }
        | Action::AddDecimal { .. }
        | Action::Expire { .. }
        | Action::Persist => false,
    }
}
