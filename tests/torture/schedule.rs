//! What is done to whom, drawn from the seed: how the nodes are configured, and one round of faults after the other.
//!
//! Values in, values out: the same seed, number of nodes and kinds give the same plan. What a fault is, and what it does, is `fault`.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use fastrand::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Kill,
    Stop,
    Restart,
    Wipe,
    CutOneWay,
    CutTwoWay,
    /// One node alone sees both halves.
    Hub,
    Flap,
    Delay,
    /// A link that is slow and steady.
    Narrow,
    /// The stamps of one node run ahead of the wall clock, and what it says is late at another one.
    ClockAhead,
    DeafPeer,
    DeafClient,
    Reset,
    Flip,
    Duplicate,
    DiskFull,
}

impl Kind {
    pub const ALL: [Kind; 17] = [
        Kind::Kill,
        Kind::Stop,
        Kind::Restart,
        Kind::Wipe,
        Kind::CutOneWay,
        Kind::CutTwoWay,
        Kind::Hub,
        Kind::Flap,
        Kind::Delay,
        Kind::Narrow,
        Kind::ClockAhead,
        Kind::DeafPeer,
        Kind::DeafClient,
        Kind::Reset,
        Kind::Flip,
        Kind::Duplicate,
        Kind::DiskFull,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Stop => "stop",
            Kind::Restart => "restart",
            Kind::Wipe => "wipe",
            Kind::CutOneWay => "cut-one-way",
            Kind::CutTwoWay => "cut-two-way",
            Kind::Hub => "hub",
            Kind::Flap => "flap",
            Kind::Delay => "delay",
            Kind::Narrow => "narrow",
            Kind::ClockAhead => "clock-ahead",
            Kind::DeafPeer => "deaf-peer",
            Kind::DeafClient => "deaf-client",
            Kind::Reset => "reset",
            Kind::Flip => "flip",
            Kind::Duplicate => "duplicate",
            Kind::DiskFull => "disk-full",
        }
    }

    fn is_of_links(self) -> bool {
        use Kind::{CutOneWay, CutTwoWay, DeafPeer, Delay, Duplicate, Flap, Flip, Narrow, Reset};
        matches!(self, CutOneWay | CutTwoWay | Flap | Delay | Narrow | DeafPeer | Reset | Flip | Duplicate)
    }

    /// Whether one link may suffer at the same time. A wiped or full disk is the one loss that an acknowledged write survives: the nodes that still
    /// hold it must be in reach while the victim comes back.
    fn bears_company(self) -> bool {
        matches!(self, Kind::Kill | Kind::Stop | Kind::Restart | Kind::DeafClient) || self.is_of_links()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Kind, String> {
        let names = || Kind::ALL.map(Kind::name).join(", ");
        Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| format!("{text:?} is no kind of fault; there are {}", names()))
    }
}

/// How the nodes of a run are configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub nodes: u16,
    /// Otherwise `everysec`.
    pub fsyncs_always: bool,
    /// Whether logs are short, so that snapshots are written and logs removed all the time.
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
    pub kind: Kind,
    /// Nodes that something is done to; empty for a fault of links.
    pub victims: Vec<u16>,
    /// Who dials whom.
    pub links: Vec<(u16, u16)>,
    pub duration: Duration,
    /// The pause of a delay, or of a narrow link for each piece, or between two turns of a flapping link.
    pub pace: Duration,
    /// Of two ways to do it: see `fault`.
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
            Kind::Delay | Kind::Narrow | Kind::Flap | Kind::ClockAhead => write!(f, " by {} ms", self.pace.as_millis()),
            _ => Ok(()),
        }
    }
}

/// The choices of one run.
pub struct Plan {
    rng: Rng,
    setting: Setting,
    kinds: Vec<Kind>,
    /// Every kind comes before any comes again.
    deck: VecDeque<Kind>,
}

impl Plan {
    /// Of the number of nodes, `None` leaves the choice to the seed. `kinds` is not empty.
    pub fn new(seed: u64, nodes: Option<u16>, kinds: Vec<Kind>) -> Plan {
        let mut rng = Rng::with_seed(seed);
        // Everything is drawn, whatever was asked for, so that what follows does not depend on it.
        let drawn = [3, 3, 3, 4, 5][rng.usize(..5)];
        let setting = Setting { nodes: nodes.unwrap_or(drawn), fsyncs_always: rng.u8(..4) > 0, compacts: rng.bool() };
        Plan { rng, setting, kinds, deck: VecDeque::new() }
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
        let second = self.deck.iter().position(|kind| kind.is_of_links()).and_then(|place| self.deck.remove(place));
        let Some(second) = second else { return vec![first] };
        match self.company(&first, second) {
            Some(fault) => vec![first, fault],
            None => {
                self.deck.push_front(second);
                vec![first]
            }
        }
    }

    fn next_kind(&mut self) -> Kind {
        if self.deck.is_empty() {
            let mut kinds = self.kinds.clone();
            self.rng.shuffle(&mut kinds);
            self.deck = kinds.into();
        }
        self.deck.pop_front().unwrap_or(Kind::Kill)
    }

    fn fault(&mut self, kind: Kind) -> Fault {
        let ids: Vec<u16> = (1..=self.setting.nodes).collect();
        let mut shuffled = ids.clone();
        self.rng.shuffle(&mut shuffled);
        let (one, two) = (shuffled[0], shuffled[1]);
        let both = vec![(one, two), (two, one)];
        // Of `always`, any number of killed processes is survived.
        let killed = if self.setting.fsyncs_always && self.rng.u8(..4) == 0 { self.rng.usize(2..=shuffled.len()) } else { 1 };
        let other_way = self.rng.bool();
        let (victims, links) = match kind {
            Kind::Wipe if other_way => (vec![one], around(one, &ids)),
            Kind::Kill => (shuffled[..killed].to_vec(), Vec::new()),
            Kind::Stop | Kind::Restart | Kind::Wipe | Kind::DeafClient | Kind::DiskFull => (vec![one], Vec::new()),
            Kind::CutTwoWay if self.rng.bool() => (Vec::new(), around(one, &ids)),
            Kind::Narrow if other_way => (Vec::new(), vec![(one, two)]),
            Kind::CutTwoWay | Kind::Flap | Kind::Delay | Kind::Narrow => (Vec::new(), both),
            Kind::CutOneWay | Kind::DeafPeer | Kind::Reset | Kind::Flip | Kind::Duplicate => (Vec::new(), vec![(one, two)]),
            Kind::ClockAhead => (vec![one], vec![(one, two)]),
            Kind::Hub => (Vec::new(), between_halves(&shuffled)),
        };
        let duration = Duration::from_millis(match kind {
            // What breaks connections needs some of them.
            Kind::Reset | Kind::Flip | Kind::Flap | Kind::Duplicate => self.rng.u64(1_200..2_500),
            // Longer than a connection lasts on which nothing moves.
            Kind::Narrow => self.rng.u64(3_500..6_000),
            // Shorter and longer than it takes to be called down.
            _ => self.rng.u64(500..2_800),
        });
        let pace = Duration::from_millis(if matches!(kind, Kind::Delay | Kind::Narrow | Kind::ClockAhead) {
            self.rng.u64(20..200)
        } else {
            self.rng.u64(50..300)
        });
        Fault { kind, victims, links, duration, pace, other_way }
    }

    /// A fault of this kind on a link that the first one leaves whole; none if there is no such link.
    fn company(&mut self, first: &Fault, kind: Kind) -> Option<Fault> {
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

/// All links between two halves of all nodes but the first, which so is the only one that sees both.
fn between_halves(ids: &[u16]) -> Vec<(u16, u16)> {
    let (one, two) = ids[1..].split_at(ids.len() / 2);
    one.iter().flat_map(|a| two.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(seed: u64, count: usize) -> Vec<Vec<Fault>> {
        let mut plan = Plan::new(seed, None, Kind::ALL.to_vec());
        (0..count).map(|_| plan.draw()).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_plan_and_another_one_another() {
        assert_eq!(rounds(7, 100), rounds(7, 100));
        assert_ne!(rounds(7, 100), rounds(8, 100));
        assert_eq!(Plan::new(7, None, vec![Kind::Kill]).setting(), Plan::new(7, None, vec![Kind::Flap]).setting());
    }

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        for seed in 0..50 {
            let drawn: Vec<Kind> = rounds(seed, Kind::ALL.len()).concat().into_iter().map(|fault| fault.kind).collect();
            assert!(Kind::ALL.iter().all(|kind| drawn.contains(kind)), "seed {seed}: {drawn:?}");
        }
    }

    #[test]
    fn a_disk_is_lost_or_full_only_while_everything_else_is_well() {
        for round in (0..200).flat_map(|seed| rounds(seed, 30)) {
            assert!(round.iter().all(|fault| !fault.victims.is_empty() || !fault.links.is_empty()), "{round:?}");
            // Where it is cut off before it loses its disk, it is cut off from all.
            let disk = round.iter().find(|fault| matches!(fault.kind, Kind::Wipe | Kind::DiskFull));
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
