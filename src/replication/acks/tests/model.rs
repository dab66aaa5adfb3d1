//! The table and its sleeping sessions, against a list of rounds in which everything is looked up
//! anew after every step.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::sync::thread::{Scope, ScopedJoinHandle};

const PEERS: usize = 4;
const MAJORITY: usize = 3;
/// Patience of a session that sleeps and should not.
const PATIENCE: Duration = Duration::from_secs(60);

/// One step. An `Index` chooses among what is there by then; where nothing is, nothing happens.
#[derive(Clone, Debug)]
enum Step {
    Open(AckLevel),
    Write(Index),
    Wait(Index),
    GiveUp(Index),
    /// By a clock that is far ahead, or not.
    Ack {
        peer: usize,
        upto: Index,
        is_ahead: bool,
    },
    Reset(usize),
    SetUp(usize, bool),
    Durable(Index),
}

fn any_step() -> impl Strategy<Value = Step> {
    let level = prop_oneof![1 => Just(AckLevel::Local), 4 => Just(AckLevel::Majority), 2 => Just(AckLevel::All)];
    let index = any::<Index>;
    prop_oneof![
        4 => level.prop_map(Step::Open),
        8 => index().prop_map(Step::Write),
        5 => index().prop_map(Step::Wait),
        1 => index().prop_map(Step::GiveUp),
        8 => (0..PEERS, index(), prop::bool::weighted(0.2)).prop_map(|(peer, upto, is_ahead)| Step::Ack { peer, upto, is_ahead }),
        1 => (0..PEERS).prop_map(Step::Reset),
        1 => (0..PEERS, any::<bool>()).prop_map(|(peer, up)| Step::SetUp(peer, up)),
        3 => index().prop_map(Step::Durable),
    ]
}

/// A session, and the last stamp of its round.
struct Member<'env, 'scope> {
    level: AckLevel,
    upto: Stamp,
    is: Is<'env, 'scope>,
}

enum Is<'env, 'scope> {
    Writing(Round<'env>),
    Asleep(ScopedJoinHandle<'scope, (Round<'env>, AckOutcome)>),
}

/// The truth, without any of the table's shortcuts.
struct Truth {
    /// For each peer, what it has acknowledged, whether it is up, and whether its clock counts.
    peers: [(Stamp, bool, bool); PEERS],
    own: Stamp,
    issued: Vec<Stamp>,
}

impl Truth {
    fn is_met(&self, level: AckLevel, upto: Stamp) -> bool {
        let here = self.own >= upto;
        let has = |(acked, _, is_ahead): &(Stamp, bool, bool)| *acked >= upto && !is_ahead;
        let holders = usize::from(here) + self.peers.iter().filter(|peer| has(peer)).count();
        match level {
            AckLevel::Local => here,
            AckLevel::Majority => holders >= MAJORITY,
            AckLevel::All => here && holders >= MAJORITY && self.peers.iter().all(|peer| !peer.1 || has(peer)),
        }
    }

    fn last(&self) -> Stamp {
        stamp(self.issued.len() as u64)
    }

    fn issue(&mut self) -> Stamp {
        self.issued.push(stamp(self.issued.len() as u64 + 1));
        self.last()
    }

    fn chosen(&self, index: &Index) -> Stamp {
        if self.issued.is_empty() { Stamp::ZERO } else { *index.get(&self.issued) }
    }
}

struct Run<'env, 'scope> {
    acks: &'env Acks,
    scope: &'scope Scope<'scope, 'env>,
    truth: Truth,
    members: Vec<Member<'env, 'scope>>,
}

impl<'env, 'scope> Run<'env, 'scope> {
    fn step(&mut self, step: &Step) {
        let (acks, truth) = (self.acks, &mut self.truth);
        match step {
            Step::Open(level) => {
                let is = Is::Writing(acks.open_round(*level));
                self.members.push(Member { level: *level, upto: truth.issue(), is });
            }
            Step::Write(index) => {
                if let Some(member) = writing(&self.members, index) {
                    self.members[member].upto = truth.issue();
                }
            }
            Step::Wait(index) => {
                if let Some(member) = writing(&self.members, index) {
                    let Member { level, upto, is } = self.members.swap_remove(member);
                    let Is::Writing(round) = is else { unreachable!() };
                    let is = Is::Asleep(self.scope.spawn(move || {
                        let waited = round.wait(Written::at(upto, Duration::ZERO), &Deadline::within(PATIENCE));
                        (round, waited)
                    }));
                    self.members.push(Member { level, upto, is });
                }
            }
            Step::GiveUp(index) => {
                if let Some(member) = writing(&self.members, index) {
                    self.members.swap_remove(member);
                }
            }
            Step::Ack { peer, upto, is_ahead } => {
                let upto = truth.chosen(upto);
                (truth.peers[*peer].0, truth.peers[*peer].2) = (truth.peers[*peer].0.max(upto), *is_ahead);
                let clocks = is_ahead.then_some(Clocks { reference_us: 0, stamp_us: 60_000 });
                acks.acknowledge(*peer, &Ack { clocks, ..ack(upto.to_bits()) }, Duration::ZERO);
            }
            Step::Reset(peer) => {
                truth.peers[*peer].0 = Stamp::ZERO;
                acks.reset(*peer, true);
            }
            Step::SetUp(peer, is_up) => {
                truth.peers[*peer].1 = *is_up;
                acks.set_up(*peer, *is_up);
            }
            Step::Durable(upto) => {
                let upto = truth.chosen(upto);
                truth.own = truth.own.max(upto);
                acks.durable(upto);
            }
        }
        self.look();
    }

    /// Checks the sleepers. A session that sleeps and should not is waited for, and would time out;
    /// all others are in the table as sleeping.
    fn look(&mut self) {
        let mut asleep = 0;
        for Member { level, upto, is } in std::mem::take(&mut self.members) {
            let is = match is {
                Is::Asleep(session) if self.truth.is_met(level, upto) => {
                    let (_, waited) = session.join().unwrap();
                    assert_eq!(waited, AckOutcome::Reached, "{upto} at {level:?}");
                    continue;
                }
                is => is,
            };
            asleep += usize::from(matches!(is, Is::Asleep(_)));
            self.members.push(Member { level, upto, is });
        }
        until(&format!("{asleep} are asleep"), || self.acks.waiting_len() == asleep);
    }

    fn end(mut self) {
        let last = self.truth.last();
        self.truth.own = last;
        self.truth.peers = [(last, true, false); PEERS];
        self.acks.durable(last);
        for peer in 0..PEERS {
            self.acks.set_up(peer, true);
            self.acks.acknowledge(peer, &ack(last.to_bits()), Duration::ZERO);
        }
        self.look();
        assert!(self.members.iter().all(|member| matches!(member.is, Is::Writing(_))));
        self.members.clear();
        assert_eq!(self.acks.table.lock().waiting.len(), 0);
        assert!(!self.acks.is_awaited());
    }
}

fn writing(members: &[Member<'_, '_>], index: &Index) -> Option<usize> {
    let writing: Vec<usize> = (0..members.len()).filter(|member| matches!(members[*member].is, Is::Writing(_))).collect();
    if writing.is_empty() { None } else { Some(*index.get(&writing)) }
}

proptest! {
    // A session that sleeps on does so until its patience ends.
    #![proptest_config(ProptestConfig { max_shrink_time: 120_000, ..ProptestConfig::default() })]

    #[test]
    fn a_session_sleeps_as_long_as_its_round_is_open_and_no_longer(steps in prop::collection::vec(any_step(), 1..80)) {
        let acks = Acks::new(PEERS, MAJORITY, PATIENCE, true);
        thread::scope(|scope| {
            let truth = Truth { peers: Default::default(), own: Stamp::ZERO, issued: Vec::new() };
            let mut run = Run { acks: &acks, scope, truth, members: Vec::new() };
            steps.iter().for_each(|step| run.step(step));
            run.end();
        });
    }
}
