//! Linearizability of one key: whether some order explains what its clients saw, in which each
//! operation takes effect at one moment between its invocation and its completion.
//!
//! The search is that of Wing and Gong, with Lowe's memory of what was tried ("Testing for
//! Linearizability", 2017). A set of operations that have taken effect is visited once with each
//! state that it leads to. An operation of unknown outcome may take effect at any time after its
//! invocation, or never. The search is bounded: beyond [`STEPS_MAX`] it is undecided, which is no
//! success.

use std::collections::HashSet;

use crate::connection::{Action, Answer, Outcome};
use crate::history::Op;

/// Operations of one search. The clients take new keys long before.
const CALLS_MAX: usize = 512;
/// Sets and states visited in one search: a hundred megabytes.
const STEPS_MAX: usize = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Legal,
    /// No order explains what was seen.
    Illegal,
    Undecided,
}

/// One operation, as far as it matters here.
#[derive(Clone, Copy, Debug)]
struct Call {
    invoked: u64,
    /// `u64::MAX` for one that may still take effect, or never.
    completed: u64,
    access: Access,
}

/// The effect of an operation, and what that tells of the state before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Creates: there was nothing.
    Create(u64),
    /// Changes: there was something.
    Change(u64),
    /// Deletes: there was something.
    Delete,
    /// Refused because there was something.
    SawSomething,
    /// Refused because there was nothing.
    SawNothing,
    Read(Option<u64>),
}

/// The state of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// After a restart: anything that was written before, or nothing, until the next write.
    Any,
    Nothing,
    Value(u64),
}

/// Checks the operations on one key in one incarnation of its node, in the order of invocation.
/// `earlier` are the numbers that may have been written in earlier incarnations; `None` if the key
/// was made in this one.
pub fn check(ops: &[&Op], earlier: Option<&HashSet<u64>>) -> Found {
    let calls: Vec<Call> = ops.iter().filter_map(|op| call(op)).collect();
    if calls.len() > CALLS_MAX {
        return Found::Undecided;
    }
    search(&calls, earlier, STEPS_MAX)
}

fn call(op: &Op) -> Option<Call> {
    let access = match (op.action, &op.outcome) {
        (_, Outcome::Done(Answer::Foreign(_))) => return None,
        (Action::Get, Outcome::Done(Answer::Value(shown))) => Access::Read(*shown),
        (Action::Get, _) => return None,
        (_, Outcome::Refused("EXISTS")) => Access::SawSomething,
        (_, Outcome::Refused("NOTFOUND")) => Access::SawNothing,
        (_, Outcome::Refused(_)) => return None,
        (Action::Set(number), _) => Access::Create(number),
        (Action::Upd(number), _) => Access::Change(number),
        (Action::Del, _) => Access::Delete,
        _ => return None,
    };
    Some(Call { invoked: op.invoked, completed: op.completed, access })
}

/// Calls that have taken effect.
type Taken = [u64; CALLS_MAX / 64];

struct Step {
    taken: Taken,
    state: State,
    /// Completed calls that have not taken effect.
    left: usize,
    /// Calls that may be the next one and were not tried.
    untried: Vec<usize>,
}

fn search(calls: &[Call], earlier: Option<&HashSet<u64>>, steps_max: usize) -> Found {
    let state = if earlier.is_some() { State::Any } else { State::Nothing };
    let left = calls.iter().filter(|call| call.completed != u64::MAX).count();
    if left == 0 {
        return Found::Legal;
    }
    let mut seen: HashSet<(Taken, State)> = HashSet::new();
    let mut steps = vec![Step { taken: Taken::default(), state, left, untried: next_calls(calls, &Taken::default()) }];
    while let Some(step) = steps.last_mut() {
        let Some(index) = step.untried.pop() else {
            steps.pop();
            continue;
        };
        let Some(state) = apply(step.state, calls[index].access, earlier) else { continue };
        let mut taken = step.taken;
        taken[index / 64] |= 1 << (index % 64);
        let left = step.left - usize::from(calls[index].completed != u64::MAX);
        if left == 0 {
            return Found::Legal;
        }
        if seen.insert((taken, state)) {
            if seen.len() > steps_max {
                return Found::Undecided;
            }
            steps.push(Step { taken, state, left, untried: next_calls(calls, &taken) });
        }
    }
    Found::Illegal
}

/// Calls that were invoked before any that is still to come has completed. The last one is to be
/// tried first: completed ones, the first completed of them last.
fn next_calls(calls: &[Call], taken: &Taken) -> Vec<usize> {
    let is_left = |index: &usize| taken[index / 64] & 1 << (index % 64) == 0;
    let horizon = (0..calls.len()).filter(is_left).map(|index| calls[index].completed).min().unwrap_or(u64::MAX);
    let mut next: Vec<usize> = (0..calls.len()).filter(is_left).take_while(|index| calls[*index].invoked <= horizon).collect();
    next.sort_by_key(|index| std::cmp::Reverse(calls[*index].completed));
    next
}

/// The state after it; `None` if it cannot happen in this state.
fn apply(state: State, access: Access, earlier: Option<&HashSet<u64>>) -> Option<State> {
    let may_be_nothing = state == State::Any || state == State::Nothing;
    let may_be_something = state != State::Nothing;
    match access {
        Access::Create(number) => may_be_nothing.then_some(State::Value(number)),
        Access::Change(number) => may_be_something.then_some(State::Value(number)),
        Access::Delete => may_be_something.then_some(State::Nothing),
        Access::SawSomething => may_be_something.then_some(state),
        Access::SawNothing => may_be_nothing.then_some(state),
        Access::Read(None) => may_be_nothing.then_some(state),
        Access::Read(Some(number)) => match state {
            State::Value(value) => (value == number).then_some(state),
            State::Any => earlier.is_some_and(|earlier| earlier.contains(&number)).then_some(state),
            State::Nothing => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::Access::{Change, Create, Delete, Read, SawNothing, SawSomething};
    use super::*;

    const PENDING: u64 = u64::MAX;

    fn found(calls: &[(u64, u64, Access)]) -> Found {
        after(None, calls)
    }

    fn after(earlier: Option<&[u64]>, calls: &[(u64, u64, Access)]) -> Found {
        let calls: Vec<Call> =
            calls.iter().map(|(invoked, completed, access)| Call { invoked: *invoked, completed: *completed, access: *access }).collect();
        assert!(calls.is_sorted_by_key(|call| call.invoked));
        search(&calls, earlier.map(|earlier| earlier.iter().copied().collect()).as_ref(), 10_000)
    }

    #[test]
    fn one_after_the_other_is_legal() {
        let calls =
            [(0, 1, Read(None)), (2, 3, Create(1)), (4, 5, SawSomething), (6, 7, Change(2)), (8, 9, Read(Some(2))), (10, 11, Delete)];
        assert_eq!(found(&calls), Found::Legal);
        assert_eq!(found(&[(0, 1, SawNothing)]), Found::Legal);
    }

    #[test]
    fn a_lost_update_is_found() {
        assert_eq!(found(&[(0, 1, Create(1)), (2, 3, Change(2)), (4, 5, Read(Some(1)))]), Found::Illegal);
        assert_eq!(found(&[(0, 1, Create(1)), (2, 3, Delete), (4, 5, Read(Some(1)))]), Found::Illegal);
    }

    #[test]
    fn a_stale_read_is_found_also_beside_a_write_that_takes_long() {
        assert_eq!(found(&[(0, 1, Create(1)), (2, 9, Change(2)), (3, 4, Read(Some(2))), (5, 6, Read(Some(1)))]), Found::Illegal);
        assert_eq!(found(&[(0, 1, Create(1)), (2, 9, Change(2)), (3, 4, Read(Some(1))), (5, 6, Read(Some(2)))]), Found::Legal);
    }

    #[test]
    fn a_key_that_is_created_twice_without_a_delete_between_is_found() {
        assert_eq!(found(&[(0, 1, Create(1)), (2, 3, Create(2))]), Found::Illegal);
        assert_eq!(found(&[(0, 4, Create(1)), (1, 5, Create(2))]), Found::Illegal);
        assert_eq!(found(&[(0, 4, Create(1)), (1, 5, Create(2)), (2, 6, Delete)]), Found::Legal);
        assert_eq!(found(&[(0, 4, Create(1)), (1, 5, Create(2)), (2, PENDING, Delete)]), Found::Legal);
    }

    #[test]
    fn a_write_of_unknown_outcome_may_happen_late_or_never_but_not_come_and_go() {
        let begun = [(0, 1, Create(1)), (2, PENDING, Change(2))];
        let with = |more: &[(u64, u64, Access)]| found(&[&begun[..], more].concat());
        assert_eq!(with(&[(3, 4, Read(Some(1)))]), Found::Legal);
        assert_eq!(with(&[(3, 4, Read(Some(1))), (5, 6, Read(Some(2)))]), Found::Legal);
        assert_eq!(with(&[(3, 4, Read(Some(2))), (5, 6, Read(Some(1)))]), Found::Illegal);
        assert_eq!(with(&[(3, 4, Change(3)), (5, 6, Read(Some(2)))]), Found::Legal);
        assert_eq!(with(&[(3, 4, Read(Some(2))), (5, 6, Change(3)), (7, 8, Read(Some(2)))]), Found::Illegal);
        // Not before it was asked for.
        assert_eq!(found(&[(0, 1, Create(1)), (2, 3, Read(Some(2))), (4, PENDING, Change(2))]), Found::Illegal);
    }

    #[test]
    fn concurrent_operations_may_take_effect_in_any_order_that_explains_all() {
        let calls =
            [(0, 1, Create(1)), (2, 10, Change(2)), (3, 10, Change(3)), (4, 10, Delete), (11, 12, Create(4)), (13, 14, Read(Some(4)))];
        assert_eq!(found(&calls), Found::Legal);
        let calls = [(0, 1, Create(1)), (2, 10, Change(2)), (3, 10, Change(3)), (11, 12, Read(Some(3))), (13, 14, Read(Some(2)))];
        assert_eq!(found(&calls), Found::Illegal);
    }

    #[test]
    fn after_a_restart_anything_written_before_may_be_there_until_the_next_write() {
        let earlier = Some(&[1, 2][..]);
        assert_eq!(after(earlier, &[(0, 1, Read(Some(2)))]), Found::Legal);
        assert_eq!(after(earlier, &[(0, 1, Read(None)), (2, 3, Create(3))]), Found::Legal);
        assert_eq!(after(earlier, &[(0, 1, Read(Some(3)))]), Found::Illegal);
        assert_eq!(after(earlier, &[(0, 1, Change(3)), (2, 3, Read(Some(1)))]), Found::Illegal);
    }

    #[test]
    fn a_search_that_would_not_end_is_undecided() {
        // So many that may or may not have happened, and a read that nothing explains.
        let mut calls: Vec<(u64, u64, Access)> = (0..40).map(|number| (number, PENDING, Change(number))).collect();
        calls.insert(0, (0, 1, Create(100)));
        calls.push((100, 101, Read(Some(1_000))));
        assert_eq!(found(&calls), Found::Undecided);
    }
}
