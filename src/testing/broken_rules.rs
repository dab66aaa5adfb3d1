//! Negative controls: rules of the design that a test breaks, one at a time, to see that the suite finds it.
//!
//! Only with the feature `testing`; without it every rule is kept, for certain and at no cost. A process breaks the rule that `KVMESH_BREAK` names, be it a node or a
//! simulator. Each switch changes what its rule says and nothing else, and no check knows of any.

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenRule {
    /// A delete takes the entry out and leaves nothing.
    NoTombstones,
    /// A tombstone is collected at the next beat, whoever lacks it (I6 a, b, c).
    CollectAtOnce,
    /// What is written to the log counts as durable before it is synced (I7).
    AckBeforeFsync,
    /// A dump's vector is joined at its header (I5).
    SeenBeforeEnd,
    /// A stamp is taken, and another one is sent before it (I2). What comes of it peers refuse to read, and the node itself its own log.
    SendOutOfOrder,
    /// What arrives is merged although the vector covers it.
    MergeCovered,
    /// A peer's newest vector counts as proof for the collector although this node's own does not cover it (I6 a).
    CollectUncovered,
    /// A peer's vector counts as proof for the collector for as long as nobody hears a newer one, be the peer up or away, and whoever has lost a disk since (I6 a).
    CountAbsent,
    /// What a full dump has proved deleted is dropped in memory, and the log does not hear of it.
    DropsNotLogged,
    /// What a peer has stamped is passed, and the stamp clock stays where it is (I8).
    FloorStands,
    /// A floor under the stamp clock is raised by the time that it seems to have been under way (I8).
    FloorEstimated,
    /// An ack counts whatever this node's clock did while it was waited for (I8).
    AckAfterSleep,
    /// A write of this node that loses here before it is acknowledged is written once more, above the winner (I8).
    SecondStamp,
    /// A node's origin is the same in every incarnation.
    KeepOrigin,
    /// Stamps are of the wall clock: what others have stamped does not move it.
    WallClock,
    /// What was appended travels instead of the value that this has led to (I3).
    ReplicateCommands,
    /// What comes of a dump that was given up is merged like anything else (I6 c).
    MergeLate,
    /// That incarnations are folded is believed at once, and not at a dump's end line (I5).
    FoldAtOnce,
    /// What this node has handed to its system counts as what the peer takes.
    CountWhatLeaves,
}

impl BrokenRule {
    pub const ALL: [BrokenRule; 19] = [
        BrokenRule::NoTombstones,
        BrokenRule::CollectAtOnce,
        BrokenRule::AckBeforeFsync,
        BrokenRule::SeenBeforeEnd,
        BrokenRule::SendOutOfOrder,
        BrokenRule::MergeCovered,
        BrokenRule::CollectUncovered,
        BrokenRule::CountAbsent,
        BrokenRule::DropsNotLogged,
        BrokenRule::FloorStands,
        BrokenRule::FloorEstimated,
        BrokenRule::AckAfterSleep,
        BrokenRule::SecondStamp,
        BrokenRule::KeepOrigin,
        BrokenRule::WallClock,
        BrokenRule::ReplicateCommands,
        BrokenRule::MergeLate,
        BrokenRule::FoldAtOnce,
        BrokenRule::CountWhatLeaves,
    ];

    /// As `KVMESH_BREAK` has it.
    pub const fn name(self) -> &'static str {
        match self {
            BrokenRule::NoTombstones => "no-tombstones",
            BrokenRule::CollectAtOnce => "collect-at-once",
            BrokenRule::AckBeforeFsync => "ack-before-fsync",
            BrokenRule::SeenBeforeEnd => "seen-before-end",
            BrokenRule::SendOutOfOrder => "send-out-of-order",
            BrokenRule::MergeCovered => "merge-covered",
            BrokenRule::CollectUncovered => "collect-uncovered",
            BrokenRule::CountAbsent => "count-absent",
            BrokenRule::DropsNotLogged => "drops-not-logged",
            BrokenRule::FloorStands => "floor-stands",
            BrokenRule::FloorEstimated => "floor-estimated",
            BrokenRule::AckAfterSleep => "ack-after-sleep",
            BrokenRule::SecondStamp => "second-stamp",
            BrokenRule::KeepOrigin => "keep-origin",
            BrokenRule::WallClock => "wall-clock",
            BrokenRule::ReplicateCommands => "replicate-commands",
            BrokenRule::MergeLate => "merge-late",
            BrokenRule::FoldAtOnce => "fold-at-once",
            BrokenRule::CountWhatLeaves => "count-what-leaves",
        }
    }

    #[cfg(feature = "testing")]
    fn from_name(name: &str) -> Option<BrokenRule> {
        BrokenRule::ALL.into_iter().find(|rule| rule.name() == name)
    }

    #[cfg(not(feature = "testing"))]
    #[inline(always)]
    pub const fn is_on(self) -> bool {
        false
    }

    #[cfg(feature = "testing")]
    #[inline]
    pub fn is_on(self) -> bool {
        *BROKEN == Some(self)
    }
}

#[cfg(feature = "testing")]
static BROKEN: std::sync::LazyLock<Option<BrokenRule>> = std::sync::LazyLock::new(|| {
    let name = std::env::var("KVMESH_BREAK").ok()?;
    let named = BrokenRule::from_name(&name);
    Some(named.unwrap_or_else(|| panic!("KVMESH_BREAK: there is no rule \"{name}\" to break")))
});

/// For [`BrokenRule::ReplicateCommands`]: commands in the place of values.
#[cfg(feature = "testing")]
pub mod command {
    const MARK: &[u8] = b"\0append\0";

    /// What travels of a write that has made `after` of `before`.
    pub fn of(before: Option<&[u8]>, after: &[u8]) -> Vec<u8> {
        match before.and_then(|before| after.strip_prefix(before)) {
            Some(appended) if before.is_some_and(|before| !before.is_empty()) => [MARK, appended].concat(),
            _ => after.to_vec(),
        }
    }

    /// What has arrived, executed on what is here.
    pub fn execute(here: Option<&[u8]>, arrived: &[u8]) -> Vec<u8> {
        match arrived.strip_prefix(MARK) {
            Some(appended) => [here.unwrap_or_default(), appended].concat(),
            None => arrived.to_vec(),
        }
    }
}
