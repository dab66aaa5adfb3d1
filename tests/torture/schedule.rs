//! The schedule of a run, drawn from its seed: how the nodes are configured, and one round of
//! faults after the other.
//!
//! Values in, values out: the same seed, number of nodes and kinds give the same schedule. `fault`
//! does the faults.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use fastrand::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    Kill,
    Stop,
    Restart,
    Wipe,
    CutOneWay,
    CutTwoWay,
    /// One node alone can reach both halves.
    Hub,
    Flap,
    Delay,
    /// A link that is slow and steady.
    Narrow,
    /// The stamps of one node run ahead of the wall clock, and arrive late at another node.
    ClockAhead,
    DeafPeer,
    DeafClient,
    Reset,
    Flip,
    Duplicate,
    DiskFull,
}

impl FaultKind {
    pub const ALL: [(FaultKind, &'static str); 17] = [
        (FaultKind::Kill, "kill"),
        (FaultKind::Stop, "stop"),
        (FaultKind::Restart, "restart"),
        (FaultKind::Wipe, "wipe"),
        (FaultKind::CutOneWay, "cut-one-way"),
        (FaultKind::CutTwoWay, "cut-two-way"),
        (FaultKind::Hub, "hub"),
        (FaultKind::Flap, "flap"),
        (FaultKind::Delay, "delay"),
        (FaultKind::Narrow, "narrow"),
        (FaultKind::ClockAhead, "clock-ahead"),
        (FaultKind::DeafPeer, "deaf-peer"),
        (FaultKind::DeafClient, "deaf-client"),
        (FaultKind::Reset, "reset"),
        (FaultKind::Flip, "flip"),
        (FaultKind::Duplicate, "duplicate"),
        (FaultKind::DiskFull, "disk-full"),
    ];

    pub fn all() -> Vec<FaultKind> {
        FaultKind::ALL.iter().map(|(kind, _)| *kind).collect()
    }

    pub fn name(self) -> &'static str {
        FaultKind::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    fn is_of_links(self) -> bool {
        use FaultKind::{CutOneWay, CutTwoWay, DeafPeer, Delay, Duplicate, Flap, Flip, Narrow, Reset};
        matches!(self, CutOneWay | CutTwoWay | Flap | Delay | Narrow | DeafPeer | Reset | Flip | Duplicate)
    }

    /// Returns whether one link may have a fault at the same time. An acknowledged write survives
    /// one lost or full disk, so the nodes that still hold it must be in reach while the victim
    /// comes back.
    fn bears_company(self) -> bool {
        matches!(self, FaultKind::Kill | FaultKind::Stop | FaultKind::Restart | FaultKind::DeafClient) || self.is_of_links()
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for FaultKind {
    type Err = String;
    fn from_str(text: &str) -> Result<FaultKind, String> {
        let names = || FaultKind::ALL.map(|(_, name)| name).join(", ");
        FaultKind::all()
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("{text:?} is no kind of fault; there are {}", names()))
    }
}

/// How the nodes of a run are configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub nodes: u16,
    /// Otherwise `everysec`.
    pub fsyncs_always: bool,
    /// Short logs: snapshots are written and logs removed all the time.
    pub compacts: bool,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fsync = if self.fsyncs_always { "always" } else { "everysec" };
        let logs = if self.compacts { "compacted often" } else { "never compacted" };
        write!(f, "{} nodes, fsync {fsync}, logs {logs}", self.nodes)
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    /// Nodes that are killed, stopped or otherwise harmed; empty for a fault of links.
    pub victims: Vec<u16>,
    /// Links as (node that dials, peer).
    pub links: Vec<(u16, u16)>,
    pub duration: Duration,
    /// Pause of a delay, of each piece on a narrow link, or between two turns of a flapping link.
    pub pace: Duration,
    /// The second of two ways to do it; see `fault`.
    pub other_way: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        for victim in &self.victims {
            write!(f, " n{victim}")?;
        }
        const SHOWN: usize = 4;
        for (from, to) in self.links.iter().take(SHOWN) {
            write!(f, " n{from}>n{to}")?;
        }
        if self.links.len() > SHOWN {
            write!(f, " and {} more", self.links.len() - SHOWN)?;
        }
        write!(f, " for {} ms", self.duration.as_millis())?;
        match self.kind {
            FaultKind::Delay | FaultKind::Narrow | FaultKind::Flap | FaultKind::ClockAhead => write!(f, " by {} ms", self.pace.as_millis()),
            _ => Ok(()),
        }
    }
}

/// The choices of one run, as they are drawn.
pub struct Schedule {
    rng: Rng,
    setting: Setting,
    kinds: Vec<FaultKind>,
    /// Kinds still to come before any comes again.
    deck: VecDeque<FaultKind>,
}

impl Schedule {
    /// `None` leaves the number of nodes to the seed. `kinds` is not empty.
    pub fn new(seed: u64, nodes: Option<u16>, kinds: Vec<FaultKind>) -> Schedule {
        let mut rng = Rng::with_seed(seed);
        // Everything is drawn, whatever was asked for: later draws do not depend on it.
        let drawn = [3, 3, 3, 4, 5][rng.usize(..5)];
        let setting = Setting { nodes: nodes.unwrap_or(drawn), fsyncs_always: rng.u8(..4) > 0, compacts: rng.bool() };
        Schedule { rng, setting, kinds, deck: VecDeque::new() }
    }

    pub fn setting(&self) -> Setting {
        self.setting
    }

    /// The next round: one fault, or two that do not touch each other.
    pub fn draw(&mut self) -> Vec<Fault> {
        let kind = self.next_kind();
        let first = self.fault(kind);
        let may_have_company = kind.bears_company() && first.victims.len() < 2 && (self.setting.fsyncs_always || kind.is_of_links());
        if !may_have_company || self.rng.u8(..3) > 0 {
            return vec![first];
        }
        let second = self.deck.iter().position(|kind| kind.is_of_links()).and_then(|index| self.deck.remove(index));
        let Some(second) = second else { return vec![first] };
        match self.company(&first, second) {
            Some(fault) => vec![first, fault],
            None => {
                self.deck.push_front(second);
                vec![first]
            }
        }
    }

    fn next_kind(&mut self) -> FaultKind {
        if self.deck.is_empty() {
            let mut kinds = self.kinds.clone();
            self.rng.shuffle(&mut kinds);
            self.deck = kinds.into();
        }
        self.deck.pop_front().unwrap_or(FaultKind::Kill)
    }

    fn fault(&mut self, kind: FaultKind) -> Fault {
        let ids: Vec<u16> = (1..=self.setting.nodes).collect();
        let mut shuffled = ids.clone();
        self.rng.shuffle(&mut shuffled);
        let (one, two) = (shuffled[0], shuffled[1]);
        let both = vec![(one, two), (two, one)];
        // With `fsync: always`, any number of kills is survived.
        let killed = if self.setting.fsyncs_always && self.rng.u8(..4) == 0 { self.rng.usize(2..=shuffled.len()) } else { 1 };
        let other_way = self.rng.bool();
        let (victims, links) = match kind {
            FaultKind::Wipe if other_way => (vec![one], around(one, &ids)),
            FaultKind::Kill => (shuffled[..killed].to_vec(), Vec::new()),
            FaultKind::Stop | FaultKind::Restart | FaultKind::Wipe | FaultKind::DeafClient | FaultKind::DiskFull => (vec![one], Vec::new()),
            FaultKind::CutTwoWay if self.rng.bool() => (Vec::new(), around(one, &ids)),
            FaultKind::Narrow if other_way => (Vec::new(), vec![(one, two)]),
            FaultKind::CutTwoWay | FaultKind::Flap | FaultKind::Delay | FaultKind::Narrow => (Vec::new(), both),
            FaultKind::CutOneWay | FaultKind::DeafPeer | FaultKind::Reset | FaultKind::Flip | FaultKind::Duplicate => {
                (Vec::new(), vec![(one, two)])
            }
            FaultKind::ClockAhead => (vec![one], vec![(one, two)]),
            FaultKind::Hub => (Vec::new(), between_halves(&shuffled)),
        };
        let duration = Duration::from_millis(match kind {
            // These need open connections that they can break.
            FaultKind::Reset | FaultKind::Flip | FaultKind::Flap | FaultKind::Duplicate => self.rng.u64(1_200..2_500),
            // Longer than an idle connection lasts.
            FaultKind::Narrow => self.rng.u64(3_500..6_000),
            // Shorter and longer than it takes until a peer is called down.
            _ => self.rng.u64(500..2_800),
        });
        let pace = Duration::from_millis(if matches!(kind, FaultKind::Delay | FaultKind::Narrow | FaultKind::ClockAhead) {
            self.rng.u64(20..200)
        } else {
            self.rng.u64(50..300)
        });
        Fault { kind, victims, links, duration, pace, other_way }
    }

    /// A fault of this kind on a link that the first fault leaves whole; `None` if there is no such
    /// link.
    fn company(&mut self, first: &Fault, kind: FaultKind) -> Option<Fault> {
        let touched = |id: u16| first.victims.contains(&id);
        let ids = 1..=self.setting.nodes;
        let pairs = ids.clone().flat_map(|from| ids.clone().map(move |to| (from, to))).filter(|(from, to)| from != to);
        let is_free = |(from, to): &(u16, u16)| !touched(*from) && !touched(*to) && !first.links.contains(&(*from, *to));
        let free: Vec<(u16, u16)> = pairs.filter(is_free).collect();
        let (from, to) = self.rng.choice(&free).copied()?;
        let mut fault = self.fault(kind);
        fault.links = if fault.links.len() > 1 && free.contains(&(to, from)) { vec![(from, to), (to, from)] } else { vec![(from, to)] };
        Some(fault)
    }
}

/// All links of one node.
fn around(id: u16, ids: &[u16]) -> Vec<(u16, u16)> {
    ids.iter().filter(|other| **other != id).flat_map(|other| [(id, *other), (*other, id)]).collect()
}

/// All links between two halves of the nodes without the first, which so is the only one that can
/// reach both.
fn between_halves(ids: &[u16]) -> Vec<(u16, u16)> {
    let (one, two) = ids[1..].split_at(ids.len() / 2);
    one.iter().flat_map(|a| two.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(seed: u64, count: usize) -> Vec<Vec<Fault>> {
        let mut schedule = Schedule::new(seed, None, FaultKind::all());
        (0..count).map(|_| schedule.draw()).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_plan_and_another_one_another() {
        assert_eq!(rounds(7, 100), rounds(7, 100));
        assert_ne!(rounds(7, 100), rounds(8, 100));
        assert_eq!(Schedule::new(7, None, vec![FaultKind::Kill]).setting(), Schedule::new(7, None, vec![FaultKind::Flap]).setting());
    }

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        for seed in 0..50 {
            let drawn: Vec<FaultKind> = rounds(seed, FaultKind::ALL.len()).concat().into_iter().map(|fault| fault.kind).collect();
            assert!(FaultKind::all().iter().all(|kind| drawn.contains(kind)), "seed {seed}: {drawn:?}");
        }
    }

    #[test]
    fn a_disk_is_lost_or_full_only_while_everything_else_is_well() {
        for round in (0..200).flat_map(|seed| rounds(seed, 30)) {
            assert!(round.iter().all(|fault| !fault.victims.is_empty() || !fault.links.is_empty()), "{round:?}");
            // A node that is cut off before it loses its disk is cut off from all.
            let disk = round.iter().find(|fault| matches!(fault.kind, FaultKind::Wipe | FaultKind::DiskFull));
            if let Some(disk) = disk {
                assert!(round.len() == 1 && disk.victims.len() == 1, "{round:?}");
            }
            if let [first, second] = &round[..] {
                let links = second.links.iter();
                let touches = |(from, to): &(u16, u16)| {
                    first.victims.contains(from) || first.victims.contains(to) || first.links.contains(&(*from, *to))
                };
                assert!(second.victims.is_empty() && !links.clone().any(touches), "{round:?}");
            }
        }
    }

    #[test]
    fn a_hub_sees_everybody_and_the_halves_do_not_see_each_other() {
        let mut links = between_halves(&[2, 1, 3]);
        links.sort();
        assert_eq!(links, [(1, 3), (3, 1)]);
        let links = between_halves(&[5, 1, 2, 3, 4]);
        assert_eq!(links.len(), 8);
        assert!(links.iter().all(|(from, to)| *from != 5 && *to != 5));
    }
}
