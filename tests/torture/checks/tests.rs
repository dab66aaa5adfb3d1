//! Each check is given a history in which it must hold, and one with the very fault that it is
//! there for.

use kvmesh::data::clock::Stamp;
use kvmesh::data::version::{NodeId, Origin, Version};
use kvmesh::wire::ack_level::AckLevel;

use super::*;
use crate::connection::{Action, Answer, OTHER, Outcome, UnknownCause};

const DONE: Outcome = Outcome::Done(Answer::Written);
const UNKNOWN: Outcome = Outcome::Unknown(UnknownCause::Broken);
const REFUSED: Outcome = Outcome::Refused("NOQUORUM");

fn key(group: Group) -> Key {
    Key { group, owner: 1, number: 1 }
}

fn shows(number: Option<u64>) -> Outcome {
    Outcome::Done(Answer::Value(number))
}

/// A history of one key. Each operation starts a millisecond and a half after the one before it and
/// takes half a millisecond, at node 1, in its first incarnation, at `majority`.
struct Case {
    group: Group,
    ops: Vec<Op>,
    held: Option<u64>,
    losses: Vec<Loss>,
    converged: Vec<Converged>,
    starts: Vec<Start>,
    quiet: Vec<Quiet>,
}

fn case(group: Group) -> Case {
    Case { group, ops: Vec::new(), held: None, losses: Vec::new(), converged: Vec::new(), starts: Vec::new(), quiet: Vec::new() }
}

impl Case {
    fn op(mut self, action: Action, outcome: Outcome) -> Case {
        let invoked = 1_000 + 1_500 * self.ops.len() as u64;
        let completed = if matches!(outcome, Outcome::Unknown(_)) { u64::MAX } else { invoked + 500 };
        let key = key(self.group);
        self.ops.push(Op {
            client: 1,
            connection: 1,
            node: 1,
            incarnation: 1,
            key,
            action,
            level: AckLevel::Majority,
            invoked,
            completed,
            outcome,
        });
        self
    }

    /// Changes the last operation.
    fn but(mut self, change: impl FnOnce(&mut Op)) -> Case {
        change(self.ops.last_mut().unwrap());
        self
    }

    fn group(mut self, group: Group) -> Case {
        self.group = group;
        self.ops.iter_mut().for_each(|op| op.key = key(group));
        self
    }

    /// Sets what the node holds at the end: nothing, unless this is called.
    fn left(mut self, number: u64) -> Case {
        self.held = Some(number);
        self
    }

    fn verdict(&self, check: fn(&Evidence<'_>) -> Verdict) -> bool {
        let name: Bytes = key(self.group).to_string().as_bytes().into();
        let version = Version { stamp: Stamp::from_bits(1), origin: Origin { node: NodeId(1), nonce: 1 } };
        let entry = |number| {
            let key = key(self.group);
            let value = if self.group == Group::Tokens { key.token(number) } else { key.value(number) };
            Entry::new(&name, Some(value.as_bytes()), None, version)
        };
        let entries = self.held.map(|number| (name.clone(), entry(number))).into_iter().collect();
        let dumps = [NodeDump { node: 1, vector: VersionVector::default(), entries }];
        let pauses = HashMap::from([(2, vec![(0, u64::MAX)])]);
        check(&Evidence {
            ops: &self.ops,
            by_key: Evidence::index(&self.ops),
            dumps: &dumps,
            dumped_wall_ms: 0,
            losses: &self.losses,
            converged: &self.converged,
            starts: &self.starts,
            pauses: &pauses,
            quiet: &self.quiet,
        })
        .holds()
    }

    #[track_caller]
    fn holds(&self, check: fn(&Evidence<'_>) -> Verdict) {
        assert!(self.verdict(check), "{:?}", self.ops);
    }

    #[track_caller]
    fn fails(&self, check: fn(&Evidence<'_>) -> Verdict) {
        assert!(!self.verdict(check), "{:?}", self.ops);
    }
}

#[test]
fn a_lost_acknowledged_write_is_found() {
    let two = || case(Group::Ledger).op(Action::Put(1), DONE).op(Action::Put(2), DONE);
    two().left(2).holds(survival::majority);
    two().left(1).fails(survival::majority);
    two().fails(survival::majority);
    two().op(Action::Put(3), UNKNOWN).left(3).holds(survival::majority);
    two().op(Action::Put(3), UNKNOWN).left(2).holds(survival::majority);
    two().op(Action::Put(3), UNKNOWN).left(1).fails(survival::majority);
    two().op(Action::Put(3), DONE).op(Action::Del, DONE).holds(survival::majority);
    two().op(Action::Put(3), DONE).op(Action::Del, DONE).left(3).fails(survival::majority);
}

#[test]
fn a_write_that_was_refused_and_applied_all_the_same_is_found() {
    let refused = || case(Group::Ledger).op(Action::Put(1), DONE).op(Action::Put(2), REFUSED);
    refused().left(1).holds(survival::majority);
    refused().left(2).fails(survival::majority);
    refused().op(Action::Get, shows(Some(2))).fails(reads::nobody_wrote);
    refused().op(Action::Get, shows(Some(1))).holds(reads::nobody_wrote);
}

#[test]
fn a_local_write_is_excused_only_where_its_node_lost_it() {
    let two = || case(Group::Local).op(Action::Put(1), DONE).op(Action::Put(2), DONE);
    two().left(2).holds(survival::local);
    two().left(1).fails(survival::local);
    let between = 2_100;
    for (loss, is_excused) in
        [((1, 1, between), true), ((1, 2, between), false), ((2, 1, between), false), ((1, 1, between + 2_000), false)]
    {
        let (node, incarnation, safe) = loss;
        let mut case = two().left(1);
        case.losses.push(Loss { node, incarnation, safe });
        assert_eq!(case.verdict(survival::local), is_excused, "{loss:?}");
        // The first one was safe.
        case.held = None;
        case.fails(survival::local);
    }
}

#[test]
fn a_deleted_key_that_is_back_is_found() {
    let deleted = || case(Group::Gone).op(Action::Put(1), DONE).op(Action::Get, shows(Some(1))).op(Action::Del, DONE);
    deleted().holds(gone::check);
    deleted().left(1).fails(gone::check);
    // A node that has not received it yet.
    deleted().op(Action::Get, shows(Some(1))).op(Action::Get, shows(None)).holds(gone::check);
    deleted().op(Action::Get, shows(None)).op(Action::Get, shows(Some(1))).fails(gone::check);
    deleted().op(Action::Get, shows(None)).op(Action::Get, shows(Some(1))).but(|op| op.incarnation = 2).holds(gone::check);
    let mut converged = deleted().op(Action::Get, shows(Some(1))).but(|op| op.incarnation = 2);
    converged.converged.push(Converged { from: 4_600, until: 5_000 });
    converged.fails(gone::check);
    converged.converged = vec![Converged { from: 4_400, until: 5_000 }];
    converged.holds(gone::check);
}

#[test]
fn a_value_that_nobody_wrote_is_found_wherever_it_shows() {
    let one = || case(Group::Contended).op(Action::Put(1), DONE);
    one().op(Action::Get, shows(Some(1))).left(1).holds(reads::nobody_wrote);
    one().op(Action::Get, shows(Some(2))).left(1).fails(reads::nobody_wrote);
    one().left(2).fails(reads::nobody_wrote);
    one().op(Action::Get, Outcome::Done(Answer::Foreign("x".into()))).left(1).fails(reads::nobody_wrote);
    // Before it was written.
    case(Group::Contended).op(Action::Get, shows(Some(1))).op(Action::Put(1), DONE).left(1).fails(reads::nobody_wrote);
}

#[test]
fn a_read_that_goes_back_is_found_on_the_same_connection() {
    let writes = || case(Group::Ledger).op(Action::Put(1), DONE).op(Action::Put(2), DONE).op(Action::Get, shows(Some(2)));
    writes().op(Action::Get, shows(Some(2))).holds(reads::never_go_back);
    writes().op(Action::Get, shows(Some(1))).fails(reads::never_go_back);
    writes().op(Action::Get, shows(Some(1))).but(|op| op.connection = 2).holds(reads::never_go_back);
    writes().op(Action::Get, shows(None)).fails(reads::never_go_back);
    let deleted = || writes().op(Action::Del, DONE).op(Action::Get, shows(None));
    deleted().holds(reads::never_go_back);
    deleted().op(Action::Get, shows(Some(2))).fails(reads::never_go_back);
    writes().op(Action::Del, REFUSED).op(Action::Get, shows(None)).fails(reads::never_go_back);
}

#[test]
fn an_order_that_cannot_be_is_found_in_each_life_by_itself() {
    let two = || case(Group::Register).op(Action::Set(1), DONE).op(Action::Upd(2), DONE);
    two().op(Action::Get, shows(Some(2))).holds(linearizable);
    two().op(Action::Get, shows(Some(1))).fails(linearizable);
    two().op(Action::Get, shows(Some(1))).but(|op| op.incarnation = 2).holds(linearizable);
    two().op(Action::Get, shows(Some(3))).but(|op| op.incarnation = 2).fails(linearizable);
    two().op(Action::Set(3), DONE).fails(linearizable);
    two().op(Action::Set(3), Outcome::Refused("EXISTS")).holds(linearizable);
}

#[test]
fn a_count_that_is_lost_or_comes_twice_is_found() {
    let count = |number| Outcome::Done(Answer::Count(number));
    let two = || case(Group::Counter).op(Action::Incr, count(1)).op(Action::Incr, count(2));
    two().left(2).holds(counters::check);
    two().left(1).fails(counters::check);
    two().left(3).fails(counters::check);
    two().op(Action::Incr, UNKNOWN).left(3).holds(counters::check);
    two().op(Action::Incr, UNKNOWN).left(4).fails(counters::check);
    two().op(Action::Incr, count(2)).left(3).fails(counters::check);
    case(Group::Counter).op(Action::Incr, count(2)).op(Action::Incr, count(1)).left(2).fails(counters::check);
}

#[test]
fn an_earlier_acknowledged_write_that_wins_is_found() {
    let two = || case(Group::Contended).op(Action::Put(1), DONE).op(Action::Put(2), DONE);
    two().left(2).holds(contended::check);
    two().left(1).fails(contended::check);
    two().fails(contended::check);
    // At the same time, or without a majority, either may win.
    two().but(|op| op.invoked = 1_200).left(1).holds(contended::check);
    two().but(|op| op.level = AckLevel::Local).left(1).holds(contended::check);
    two().op(Action::Del, DONE).holds(contended::check);
    two().op(Action::Del, DONE).left(2).fails(contended::check);
    two().op(Action::Put(3), UNKNOWN).left(3).holds(contended::check);

    // Where the later one was acknowledged, the earlier one is not shown any more.
    two().op(Action::Get, shows(Some(2))).left(2).holds(contended::check);
    two().op(Action::Get, shows(Some(1))).left(2).fails(contended::check);
    two().op(Action::Get, shows(None)).left(2).fails(contended::check);
    two().op(Action::Get, shows(Some(1))).but(|op| op.node = 2).left(2).holds(contended::check);
    two().op(Action::Get, shows(Some(1))).but(|op| op.incarnation = 2).left(2).holds(contended::check);
    two().op(Action::Del, UNKNOWN).op(Action::Get, shows(None)).left(2).holds(contended::check);
    // A refused write leaves nothing, and never did.
    two().op(Action::Del, Outcome::Refused("NOTFOUND")).op(Action::Get, shows(None)).left(2).fails(contended::check);
}

#[test]
fn through_another_node_the_later_write_wins_after_one_ack_and_fifty_milliseconds() {
    // From 1 000 to 1 500 us at node 1, and after a pause as long at node 2.
    let second = |after: u64, lasting: u64| {
        let there = move |op: &mut Op| {
            (op.node, op.invoked) = (2, 1_500 + after);
            op.completed = op.invoked + lasting;
        };
        case(Group::Contended).op(Action::Put(1), DONE).op(Action::Put(2), DONE).but(there)
    };
    second(49_000, 1).left(1).holds(contended::check);
    second(51_000, 1).left(1).fails(contended::check);
    second(51_000, 2_000).left(1).holds(contended::check);
    second(53_000, 2_000).left(1).fails(contended::check);
    second(53_000, 2_000).left(2).holds(contended::check);
    second(53_000, 2_000).but(|op| op.level = AckLevel::Local).left(1).holds(contended::check);
    // As the writer of a ledger, and where it is read.
    second(51_000, 2_000).group(Group::Ledger).left(1).holds(survival::majority);
    second(53_000, 2_000).group(Group::Ledger).left(1).fails(survival::majority);
    let shows_one = |after| {
        second(after, 2_000).left(2).op(Action::Get, shows(Some(1))).but(|op| {
            (op.node, op.invoked, op.completed) = (2, 90_000, 90_500);
        })
    };
    shows_one(51_000).holds(contended::check);
    shows_one(53_000).fails(contended::check);

    // The member that both majorities share may have been restarted between, and is not the one
    // that stamped the later.
    for (node, at, is_excused) in [(3, 30_000, true), (1, 30_000, true), (2, 30_000, false), (3, 900, false), (3, 60_000, false)] {
        let mut case = second(53_000, 2_000).left(1);
        case.starts.push(Start { node, at });
        assert_eq!(case.verdict(contended::check), is_excused, "n{node} at {at} us");
    }
}

#[test]
fn a_token_that_comes_twice_or_that_nobody_sent_is_found() {
    let tokens = |numbers: &[u64]| Outcome::Done(Answer::Tokens(numbers.into()));
    let two = || case(Group::Tokens).op(Action::Append(1), DONE).op(Action::Append(2), UNKNOWN).left(1);
    two().op(Action::Get, tokens(&[1, 2])).holds(tokens::check);
    two().op(Action::Get, tokens(&[2, 1])).holds(tokens::check);
    two().op(Action::Get, shows(None)).holds(tokens::check);
    two().op(Action::Get, tokens(&[1, 2, 1])).fails(tokens::check);
    two().op(Action::Get, tokens(&[1, 3])).fails(tokens::check);
    two().left(3).fails(tokens::check);
    two().op(Action::Append(3), REFUSED).op(Action::Get, tokens(&[1, 3])).fails(tokens::check);
    two().op(Action::Get, tokens(&[1, 3])).op(Action::Append(3), DONE).fails(tokens::check);
    two().op(Action::Get, Outcome::Done(Answer::Foreign("<1><".into()))).fails(tokens::check);
}

#[test]
fn a_count_above_what_was_asked_for_is_found() {
    let count = |number| Outcome::Done(Answer::Count(number));
    let two = || case(Group::Sum).op(Action::Incr, count(1)).op(Action::Incr, count(1)).but(|op| op.node = 2);
    two().left(1).holds(sums::check);
    two().left(2).holds(sums::check);
    two().left(3).fails(sums::check);
    two().op(Action::Incr, UNKNOWN).left(3).holds(sums::check);
    two().op(Action::Incr, REFUSED).left(3).fails(sums::check);
    two().op(Action::Get, count(3)).op(Action::Incr, count(2)).left(2).fails(sums::check);
    two().op(Action::Incr, count(4)).left(2).fails(sums::check);
}

#[test]
fn what_was_seen_and_written_over_is_found_if_it_stands() {
    let count = |number| Outcome::Done(Answer::Count(number));
    let at_two = |op: &mut Op| (op.node, op.connection) = (2, 2);
    let seen = || {
        let written = case(Group::Handover).op(Action::Put(7), DONE).but(|op| op.completed = 90_000);
        written.op(Action::Get, shows(None)).but(at_two).op(Action::Get, shows(Some(7))).but(at_two)
    };
    seen().op(Action::Del, DONE).but(at_two).holds(handover::check);
    seen().op(Action::Del, DONE).but(at_two).left(7).fails(handover::check);
    seen().op(Action::Put(8), DONE).but(at_two).left(8).holds(handover::check);
    seen().op(Action::Put(8), DONE).but(at_two).left(7).fails(handover::check);
    // A delete that was seen, too, but only by a client that had seen something to delete.
    let deleted = || seen().op(Action::Del, DONE).op(Action::Get, shows(None)).but(at_two);
    deleted().op(Action::Put(8), DONE).but(at_two).left(8).holds(handover::check);
    deleted().op(Action::Put(8), DONE).but(at_two).fails(handover::check);
    let unseen = || case(Group::Handover).op(Action::Put(7), DONE).op(Action::Del, DONE).op(Action::Get, shows(None)).but(at_two);
    unseen().op(Action::Put(8), DONE).but(at_two).holds(handover::check);
    // Unknown, refused, or on a connection on which it was not seen: no promise.
    seen().op(Action::Del, UNKNOWN).but(at_two).left(7).holds(handover::check);
    seen().op(Action::Del, REFUSED).but(at_two).left(7).holds(handover::check);
    seen().op(Action::Del, DONE).but(|op| op.connection = 3).left(7).holds(handover::check);
    let counted =
        || case(Group::Sum).op(Action::Incr, count(1)).op(Action::Get, count(1)).but(at_two).op(Action::Incr, count(2)).but(at_two);
    counted().left(2).holds(handover::check);
    counted().left(1).fails(handover::check);
}

#[test]
fn halves_of_two_pairs_are_found_where_both_were_written() {
    let both = |one, other| Outcome::Done(Answer::Both(Some(one), Some(other)));
    let three = || {
        let pairs =
            case(Group::Pair).op(Action::PutBoth(1, false), DONE).op(Action::PutBoth(2, true), Outcome::Unknown(UnknownCause::TimedOut));
        pairs.op(Action::Put(3), DONE).but(|op| op.node = 2)
    };
    let read = |one, other| three().op(Action::GetBoth, both(one, other));
    read(2, 2).holds(pairs::check);
    read(3, 2).holds(pairs::check);
    read(1, 2).fails(pairs::check);
    read(2, 1).fails(pairs::check);
    // In another incarnation, or at another node.
    read(1, 2).but(|op| op.incarnation = 2).holds(pairs::check);
    read(1, 2).but(|op| op.node = 2).holds(pairs::check);
    // And each half was written.
    read(1, 4).fails(reads::nobody_wrote);
    read(3, 2).holds(reads::nobody_wrote);
}

#[test]
fn a_key_that_outlives_its_expiry_or_goes_before_it_is_found() {
    let put = || case(Group::Expiring).op(Action::PutExpiring(1, 1_000), DONE);
    put().op(Action::Get, shows(Some(1))).holds(expiring::check);
    put().op(Action::Get, shows(None)).fails(expiring::check);
    put().op(Action::Get, shows(None)).but(|op| op.connection = 2).holds(expiring::check);
    let late = |op: &mut Op| (op.invoked, op.completed) = (2_000_000, 2_000_500);
    put().op(Action::Get, shows(None)).but(late).holds(expiring::check);
    put().op(Action::Get, shows(Some(1))).but(late).fails(expiring::check);
}

#[test]
fn a_request_without_an_answer_is_found_unless_its_node_stood_still() {
    let asked = |outcome| case(Group::Local).op(Action::Put(1), outcome);
    asked(DONE).holds(reads::are_answered);
    asked(UNKNOWN).holds(reads::are_answered);
    asked(Outcome::Unknown(UnknownCause::Silent)).fails(reads::are_answered);
    asked(Outcome::Unknown(UnknownCause::Silent)).but(|op| op.node = 2).holds(reads::are_answered);
    asked(Outcome::Refused("NOQUORUM")).holds(reads::are_answered);
    asked(Outcome::Refused(OTHER)).fails(reads::are_answered);
}

#[test]
fn a_refusal_that_a_fault_would_explain_is_found_while_there_is_none() {
    // The request goes from 1 000 to 1 500 us.
    let refused = |code, from, until| {
        let mut case = case(Group::Local).op(Action::Put(1), Outcome::Refused(code));
        case.quiet = vec![Quiet { from: 0, until: 10 }, Quiet { from, until }];
        case
    };
    for code in ["NOQUORUM", "NOREPLICAS", "READONLY", "LOADING", "BUSY"] {
        refused(code, 1_000, 1_500).fails(reads::are_answered);
        refused(code, 1_001, 1_500).holds(reads::are_answered);
        refused(code, 1_000, 1_499).holds(reads::are_answered);
    }
    refused("EXISTS", 1_000, 1_500).holds(reads::are_answered);
}
