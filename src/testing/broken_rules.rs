//! Negative controls: rules of the design that a test breaks, one at a time, to see that the suite
//! finds it.
//!
//! Only with the feature `testing`; without it every rule is kept, for certain and at no cost. A
//! process breaks the rule that `KVMESH_BREAK` names, be it a node or a simulator. Each switch
//! changes what its rule says and nothing else, and no check knows of any.

/// A rule that can be broken, and what happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenRule {
    /// A delete takes the entry out and leaves nothing.
    NoTombstones,
    /// A tombstone is collected at the next heartbeat, whichever member lacks it (I6 a, b, c).
    CollectAtOnce,
    /// A record counts as durable before the log is synced (I7).
    AckBeforeFsync,
    /// The version vector of a dump is joined at its header (I5).
    SeenBeforeEnd,
    /// A write is stamped, and the next one is sent before it (I2). Peers refuse to read the batch
    /// that comes of it, and the node refuses its own log.
    SendOutOfOrder,
    /// An entry that arrives is merged although the vector covers it.
    MergeCovered,
    /// A peer's newest vector counts as proof for the tombstone GC although this node's own vector
    /// does not cover it (I6 a).
    CollectUncovered,
    /// A peer's vector counts as proof for the tombstone GC for as long as no newer one is heard,
    /// be the peer up or away, and whichever member has lost a disk since (I6 a).
    CountAbsent,
    /// Entries that a full dump has proved deleted are dropped in memory, and not in the log.
    DropsNotLogged,
    /// The stamp clock stays where it is when a peer has stamped above it (I8).
    FloorStands,
    /// A floor under the stamp clock is raised by the time that its message seems to have been
    /// under way (I9).
    FloorEstimated,
    /// An ack counts whatever this node's clock did while the session waited for it (I8).
    AckAfterSleep,
    /// A write of this node that is superseded here before it is acknowledged is written once more,
    /// above the winner (I8).
    SecondStamp,
    /// A node's origin is the same in every incarnation.
    KeepOrigin,
    /// Stamps are of the wall clock, which the stamps of others do not move.
    WallClock,
    /// The appended bytes travel instead of the value that they have led to (I3).
    ReplicateCommands,
    /// Lines of a dump that was given up are merged like any others (I6 c).
    MergeLate,
    /// Folded incarnations in a peer's heartbeat are believed at once, and not at a dump's end line
    /// (I5).
    FoldAtOnce,
    /// Bytes that this node has handed to its operating system count as read by the peer.
    CountWhatLeaves,
    /// The lines that come with the end line of a dump are logged behind what it proves (I5).
    ProofBeforeLines,
    /// The end of a connection that was replaced counts as the end of the newer one (I6 a).
    EndOfReplaced,
    /// The stamp clock does not begin above what is on the disk (I8).
    ClockStartsOver,
    /// A peer is believed whatever it proves.
    BelieveUnproven,
}

impl BrokenRule {
    pub const ALL: [BrokenRule; 23] = [
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
        BrokenRule::ProofBeforeLines,
        BrokenRule::EndOfReplaced,
        BrokenRule::ClockStartsOver,
        BrokenRule::BelieveUnproven,
    ];

    /// The name by which `KVMESH_BREAK` knows the rule.
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
            BrokenRule::ProofBeforeLines => "proof-before-lines",
            BrokenRule::EndOfReplaced => "end-of-replaced",
            BrokenRule::ClockStartsOver => "clock-starts-over",
            BrokenRule::BelieveUnproven => "believe-unproven",
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

    /// The bytes that travel of a write that has made `after` of `before`.
    pub fn of(before: Option<&[u8]>, after: &[u8]) -> Vec<u8> {
        match before.and_then(|before| after.strip_prefix(before)) {
            Some(appended) if before.is_some_and(|before| !before.is_empty()) => [MARK, appended].concat(),
            _ => after.to_vec(),
        }
    }

    /// The value after the command that arrived is executed on the one that is here.
    pub fn execute(here: Option<&[u8]>, arrived: &[u8]) -> Vec<u8> {
        match arrived.strip_prefix(MARK) {
            Some(appended) => [here.unwrap_or_default(), appended].concat(),
            None => arrived.to_vec(),
        }
    }
}
