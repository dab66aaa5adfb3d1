//! Where the keys are among the words of a command, and what becomes of them: Redis's "key
//! specifications".

/// KeySpec at places that follow from one number each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Words that tell what becomes of them, with spaces between.
    pub flags: &'static str,
    /// The index of the first one.
    pub first: i8,
    /// The index of the last one: relative to the first, or to the end if negative (as in COMMAND
    /// INFO).
    pub last: i8,
    /// The distance from one to the next.
    pub step: i8,
}

pub(super) const READ: &[KeySpec] = &[one("RO access")];
/// A command that asks whether the key is there, or how long its value is.
pub(super) const LOOKED_UP: &[KeySpec] = &[one("RO")];
pub(super) const SET: &[KeySpec] = &[one("RW access update variable_flags")];
pub(super) const CREATED: &[KeySpec] = &[one("OW insert")];
pub(super) const WRITTEN: &[KeySpec] = &[one("OW update")];
pub(super) const CHANGED: &[KeySpec] = &[one("RW access update")];
pub(super) const ALTERED: &[KeySpec] = &[one("RW update")];
pub(super) const EXTENDED: &[KeySpec] = &[one("RW insert")];
pub(super) const TAKEN: &[KeySpec] = &[one("RW access delete")];

pub(super) const ALL_READ: &[KeySpec] = &[all("RO access", 1)];
pub(super) const ALL_LOOKED_UP: &[KeySpec] = &[all("RO", 1)];
pub(super) const ALL_DELETED: &[KeySpec] = &[all("RM delete", 1)];
/// Keys that are each followed by a value.
pub(super) const PAIRS_CREATED: &[KeySpec] = &[all("OW insert", 2)];
pub(super) const PAIRS_WRITTEN: &[KeySpec] = &[all("OW update", 2)];

pub(super) const RENAMED: &[KeySpec] = &[one("RW access delete"), second("OW update")];
pub(super) const RENAMED_NX: &[KeySpec] = &[one("RW access delete"), second("OW insert")];
/// A key behind a subcommand.
pub(super) const SECOND_LOOKED_UP: &[KeySpec] = &[second("RO")];

const fn one(flags: &'static str) -> KeySpec {
    KeySpec { flags, first: 1, last: 0, step: 1 }
}

const fn second(flags: &'static str) -> KeySpec {
    KeySpec { flags, first: 2, last: 0, step: 1 }
}

const fn all(flags: &'static str, step: i8) -> KeySpec {
    KeySpec { flags, first: 1, last: -1, step }
}
