//! The table and its sleeping sessions, against a list of rounds in which everything is looked up anew after every step.

use std::thread::{Scope, ScopedJoinHandle};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const PEERS: usize = 4;
const MAJORITY: usize = 3;
/// Of a session that sleeps and should not, and of the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// What may happen. An `Index` chooses among what is there by then; where nothing is, nothing happens.
#[derive(Clone, Debug)]
enum Step {
    Open(AckLevel),
    Write(Index),
    Wait(Index),
    GiveUp(Index),
    Ack {
        peer: usize,
        from: Option<Index>,
        upto: Index,
        beaten: Option<Index>,
    },
    Reset(usize),
    SetUp(usize, bool),
    Durable(Index),
    Beaten(Index),
    /// A write loses here, to one of another origin at this place.
    Losing(Index, u64),
    Acknowledged(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let level = prop_oneof![1 => Just(AckLevel::Local), 4 => Just(AckLevel::Majority), 2 => Just(AckLevel::All)];
    let (index, now_and_then) = (any::<Index>, |share| prop::option::weighted(share, any::<Index>()));
    let ack = (0..PEERS, now_and_then(0.2), index(), now_and_then(0.2));
    prop_oneof![
        4 => level.prop_map(Step::Open),
        8 => index().prop_map(Step::Write),
        5 => index().prop_map(Step::Wait),
        1 => index().prop_map(Step::GiveUp),
        8 => ack.prop_map(|(peer, from, upto, beaten)| Step::Ack { peer, from, upto, beaten }),
        1 => (0..PEERS).prop_map(Step::Reset),
        1 => (0..PEERS, any::<bool>()).prop_map(|(peer, up)| Step::SetUp(peer, up)),
        3 => index().prop_map(Step::Durable),
        1 => index().prop_map(Step::Beaten),
        1 => (index(), 1..6u64).prop_map(|(lost, winner)| Step::Losing(lost, winner)),
        1 => (1..6u64).prop_map(Step::Acknowledged),
    ]
}

/// A session, and what counts of its round: what was beaten is stamped again.
struct Member<'env, 'scope> {
    level: AckLevel,
    stamps: Vec<Stamp>,
    is: Is<'env, 'scope>,
}

enum Is<'env, 'scope> {
    Writing(Round<'env>),
    Asleep(ScopedJoinHandle<'scope, (Round<'env>, Waited)>),
}

/// What is true, without any of the table's shortcuts.
struct Truth {
    /// Of each peer what it vouches for, and whether it is up.
    peers: [(Stamp, Stamp, bool); PEERS],
    own: Stamp,
    issued: Vec<Stamp>,
    beaten: Vec<Stamp>,
    losing: Vec<(Stamp, u64)>,
}

impl Truth {
    fn outcome(&self, level: AckLevel, stamps: &[Stamp]) -> Option<Waited> {
        let beaten: Vec<Stamp> = stamps.iter().filter(|stamp| self.beaten.contains(stamp)).copied().collect();
        if level != AckLevel::Local && !beaten.is_empty() {
            return Some(Waited::Beaten(beaten));
        }
        let are_in = |from: Stamp, upto: Stamp| stamps.iter().all(|stamp| from < *stamp && *stamp <= upto);
        let here = are_in(Stamp::ZERO, self.own);
        let holders = usize::from(here) + self.peers.iter().filter(|(from, upto, _)| are_in(*from, *upto)).count();
        let is_met = match level {
            AckLevel::Local => here,
            AckLevel::Majority => holders >= MAJORITY,
            AckLevel::All => here && holders >= MAJORITY && self.peers.iter().all(|(from, upto, is_up)| !is_up || are_in(*from, *upto)),
        };
        is_met.then_some(Waited::Met)
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
                let is = Is::Writing(acks.open_round(*level, truth.last()));
                self.members.push(Member { level: *level, stamps: vec![truth.issue()], is });
            }
            Step::Write(index) => {
                if let Some(member) = writing(&self.members, index) {
                    self.members[member].stamps.push(truth.issue());
                }
            }
            Step::Wait(index) => {
                if let Some(member) = writing(&self.members, index) {
                    let Member { level, stamps, is } = self.members.swap_remove(member);
                    let Is::Writing(round) = is else { unreachable!() };
                    let waited_for = stamps.clone();
                    let is = Is::Asleep(self.scope.spawn(move || {
                        let waited = round.wait(&waited_for, &Deadline::within(PATIENCE));
                        (round, waited)
                    }));
                    self.members.push(Member { level, stamps, is });
                }
            }
            Step::GiveUp(index) => {
                if let Some(member) = writing(&self.members, index) {
                    self.members.swap_remove(member);
                }
            }
            Step::Ack { peer, from, upto, beaten } => {
                let upto = truth.chosen(upto);
                let from = from.as_ref().map_or(Stamp::ZERO, |from| truth.chosen(from).min(upto));
                let beaten = Vec::from_iter(beaten.as_ref().map(|beaten| truth.chosen(beaten)));
                (truth.peers[*peer].0, truth.peers[*peer].1) = (from, upto);
                truth.beaten.extend(&beaten);
                acks.acknowledge(*peer, &Ack { from, beaten, ..ack(upto.to_bits()) });
            }
            Step::Reset(peer) => {
                (truth.peers[*peer].0, truth.peers[*peer].1) = (Stamp::ZERO, Stamp::ZERO);
                acks.reset(*peer, true);
            }
            Step::SetUp(peer, is_up) => {
                truth.peers[*peer].2 = *is_up;
                acks.set_up(*peer, *is_up);
            }
            Step::Durable(upto) => {
                let upto = truth.chosen(upto);
                truth.own = truth.own.max(upto);
                acks.durable(upto);
            }
            Step::Beaten(index) => {
                let lost = truth.chosen(index);
                truth.beaten.push(lost);
                acks.note_beaten(&[lost]);
            }
            Step::Losing(index, winner) => {
                let lost = truth.chosen(index);
                truth.losing.push((lost, *winner));
                acks.note_losing(WINNER, stamp(*winner), vec![lost]);
            }
            Step::Acknowledged(winner) => {
                truth.beaten.extend(truth.losing.extract_if(.., |(_, upto)| *upto <= *winner).map(|(lost, _)| lost));
                acks.acknowledged(WINNER, stamp(*winner));
            }
        }
        self.look();
    }

    /// Who sleeps and should not is waited for, and would time out; all others are in the table as sleeping.
    fn look(&mut self) {
        let mut asleep = 0;
        for Member { level, mut stamps, is } in std::mem::take(&mut self.members) {
            let outcome = self.truth.outcome(level, &stamps);
            let is = match (is, outcome) {
                (Is::Asleep(session), Some(expected)) => {
                    let (round, waited) = session.join().unwrap();
                    assert_eq!(waited, expected, "{stamps:?} at {level:?}");
                    let Waited::Beaten(beaten) = waited else { continue };
                    stamps.retain(|stamp| !beaten.contains(stamp));
                    stamps.extend(beaten.iter().map(|_| self.truth.issue()));
                    Is::Writing(round)
                }
                (is, _) => is,
            };
            asleep += usize::from(matches!(is, Is::Asleep(_)));
            self.members.push(Member { level, stamps, is });
        }
        let until = Instant::now() + PATIENCE;
        while self.acks.waiting_len() != asleep {
            assert!(Instant::now() < until, "{} are asleep, and should be {asleep}", self.acks.waiting_len());
            thread::yield_now();
        }
    }

    fn end(mut self) {
        let last = self.truth.last();
        self.truth.own = last;
        self.truth.peers = [(Stamp::ZERO, last, true); PEERS];
        self.acks.durable(last);
        for peer in 0..PEERS {
            self.acks.set_up(peer, true);
            self.acks.acknowledge(peer, &ack(last.to_bits()));
        }
        self.look();
        assert!(self.members.iter().all(|member| matches!(member.is, Is::Writing(_))));
        self.members.clear();
        let table = self.acks.table.lock();
        assert!(table.open.is_empty() && table.beaten.is_empty() && table.losing.is_empty());
    }
}

fn writing(members: &[Member], index: &Index) -> Option<usize> {
    let writing: Vec<usize> = (0..members.len()).filter(|member| matches!(members[*member].is, Is::Writing(_))).collect();
    if writing.is_empty() { None } else { Some(*index.get(&writing)) }
}

proptest! {
    // Whoever sleeps on does it until his patience ends.
    #![proptest_config(ProptestConfig { max_shrink_time: 120_000, ..ProptestConfig::default() })]

    #[test]
    fn a_session_sleeps_as_long_as_its_round_is_open_and_no_longer(steps in prop::collection::vec(any_step(), 1..80)) {
        let acks = Acks::new(PEERS, MAJORITY, PATIENCE, true);
        thread::scope(|scope| {
            let truth = Truth { peers: Default::default(), own: Stamp::ZERO, issued: Vec::new(), beaten: Vec::new(), losing: Vec::new() };
            let mut run = Run { acks: &acks, scope, truth, members: Vec::new() };
            steps.iter().for_each(|step| run.step(step));
            run.end();
        });
    }
}
