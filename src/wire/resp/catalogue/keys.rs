//! Where the keys are among the words of a command, and what becomes of them: Redis's "key specifications".

/// Keys at places that follow from one number each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Words that tell what becomes of them, with spaces between.
    pub flags: &'static str,
    /// The place of the first one.
    pub first: i8,
    /// That of the last one, from the first one or, if negative, from the end of the command.
    pub last: i8,
    /// From one to the next.
    pub step: i8,
}

pub(super) const READ: &[Keys] = &[one("RO access")];
/// Only whether it is there, or how long its value is.
pub(super) const LOOKED_UP: &[Keys] = &[one("RO")];
pub(super) const SET: &[Keys] = &[one("RW access update variable_flags")];
pub(super) const CREATED: &[Keys] = &[one("OW insert")];
pub(super) const WRITTEN: &[Keys] = &[one("OW update")];
pub(super) const CHANGED: &[Keys] = &[one("RW access update")];
pub(super) const ALTERED: &[Keys] = &[one("RW update")];
pub(super) const EXTENDED: &[Keys] = &[one("RW insert")];
pub(super) const TAKEN: &[Keys] = &[one("RW access delete")];

pub(super) const ALL_READ: &[Keys] = &[all("RO access", 1)];
pub(super) const ALL_LOOKED_UP: &[Keys] = &[all("RO", 1)];
pub(super) const ALL_DELETED: &[Keys] = &[all("RM delete", 1)];
/// Each is followed by its value.
pub(super) const PAIRS_CREATED: &[Keys] = &[all("OW insert", 2)];
pub(super) const PAIRS_WRITTEN: &[Keys] = &[all("OW update", 2)];

pub(super) const RENAMED: &[Keys] = &[one("RW access delete"), second("OW update")];
pub(super) const RENAMED_NX: &[Keys] = &[one("RW access delete"), second("OW insert")];
/// Behind a subcommand.
pub(super) const SECOND_LOOKED_UP: &[Keys] = &[second("RO")];

const fn one(flags: &'static str) -> Keys {
    Keys { flags, first: 1, last: 0, step: 1 }
}

const fn second(flags: &'static str) -> Keys {
    Keys { flags, first: 2, last: 0, step: 1 }
}

const fn all(flags: &'static str, step: i8) -> Keys {
    Keys { flags, first: 1, last: -1, step }
}
