//! The conduct of the clients of each group of keys, until the run is over.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use kvmesh::wire::ack_level::AckLevel;

use crate::clients::session::Session;
use crate::clients::{Handed, Shared};
use crate::connection::{Action, Answer, Outcome};
use crate::keys::{Group, Key, TAKEN_OVER};

/// Registers of a node in use at the same time, and operations after which new ones are taken: the
/// search through all orders of their operations must end.
const REGISTERS: u32 = 3;
const REGISTER_OPS_MAX: u32 = 300;
/// Keys of a ledger or local writer in use at the same time, and writes after which a key is left
/// alone for ever, so that nothing hides a loss later. Some end with a value. Others have up to two
/// writes more and end with a delete.
const KEYS: u32 = 4;
const WRITES_MIN: u64 = 10;
/// Every so many-th write of a ledger key is a delete.
pub const DELETE_EVERY: u64 = 4;
/// Rounds after which a ledger writer moves to another node by itself.
const ROUNDS_AT_ONE_NODE: u32 = 40;
/// Before a writer goes on at another node. Its writes there are certain to be newer, if they are
/// acknowledged as fast as most are (I8).
const MOVE_PAUSE: Duration = Duration::from_millis(100);
/// Contended keys in use at the same time, and for how long. There are to be many: only the last
/// writes of a key show whether the right one has won.
const CONTENDED: u32 = 2;
const CONTENDED_FOR: Duration = Duration::from_millis(500);
/// From the ack of the first write to the second one. Around the time after which the second one is
/// certain to be newer, so that times a little longer are tried most often.
const PAIR_PAUSE_MS_MAX: u64 = 120;
/// Between two writes of keys that several clients write at the same time. Short, so that the
/// writes meet before either is acknowledged.
const MEETING_MS_MAX: u64 = 10;
/// How often a client reads a key that it is to take over: without a pause first, then with one,
/// before it gives up.
const LOOKS_AT_ONCE: u32 = 20;
const LOOKS_MAX: u32 = 80;
const LOOK_PAUSE: Duration = Duration::from_millis(2);

fn pause(rng: &mut Rng, ms_max: u64) {
    thread::sleep(Duration::from_millis(rng.u64(ms_max / 2..=ms_max)));
}

/// Number of the keys in use now, for groups whose keys change with time.
fn turn(shared: &Shared) -> u32 {
    (shared.began.elapsed().as_millis() / CONTENDED_FOR.as_millis()) as u32
}

/// Writes and reads registers. Several of these share the keys of one node; those at `majority`
/// count as well.
pub fn run_registers(mut session: Session, shared: &Shared, mut rng: Rng) {
    let node = session.node();
    let registers = &shared.registers[usize::from(node) - 1];
    let counts = session.level() != AckLevel::Local;
    while !shared.is_over() {
        if counts && rng.u8(..8) == 0 {
            session.ask(Key { group: Group::Counter, owner: node, number: 0 }, Action::Incr);
        }
        if registers.used.fetch_add(1, Ordering::Relaxed) == REGISTER_OPS_MAX {
            registers.first.fetch_add(REGISTERS, Ordering::Relaxed);
            registers.used.store(0, Ordering::Relaxed);
        }
        let number = registers.first.load(Ordering::Relaxed) + rng.u32(..REGISTERS);
        let action = match rng.u8(..20) {
            0..8 => Action::Get,
            8..13 => Action::Set(shared.number()),
            13..17 => Action::Upd(shared.number()),
            _ => Action::Del,
        };
        session.ask(Key { group: Group::Register, owner: node, number }, action);
        pause(&mut rng, 20);
    }
}

/// One key of a writer of rising numbers.
struct Row {
    key: Key,
    written: u64,
}

impl Row {
    fn is_unfinished(&self) -> bool {
        self.written < WRITES_MIN + u64::from(self.key.number % 3)
    }

    fn next(&mut self) -> (Key, Action) {
        self.written += 1;
        let is_delete = self.key.group == Group::Ledger && self.written.is_multiple_of(DELETE_EVERY);
        (self.key, if is_delete { Action::Del } else { Action::Put(self.written) })
    }
}

/// Writes rising numbers at `majority`, deletes among them, through one node after the other.
pub fn run_ledger(mut session: Session, shared: &Shared, mut rng: Rng) {
    let (owner, mut next) = (session.client(), 0);
    let mut rows: Vec<Row> = Vec::new();
    let mut rounds = 0;
    while !shared.is_over() {
        rows.retain(Row::is_unfinished);
        while rows.len() < KEYS as usize {
            let key = Key { group: Group::Ledger, owner, number: next };
            rows.push(Row { key, written: 0 });
            shared.ledger.add(key);
            next += 1;
        }
        let requests: Vec<(Key, Action)> = rows.iter_mut().map(Row::next).collect();
        let Some(outcomes) = session.round(&requests) else {
            rows.iter_mut().for_each(|row| row.written -= 1);
            session.turn();
            continue;
        };
        rounds += 1;
        // A delete of a key that is not at this node yet is answered with NOTFOUND.
        let is_served = |outcome: &Outcome| matches!(outcome, Outcome::Done(_) | Outcome::Refused("NOTFOUND"));
        if !outcomes.iter().all(is_served) {
            rows.clear();
        }
        if rows.is_empty() || rounds == ROUNDS_AT_ONE_NODE {
            rounds = 0;
            session.turn();
            thread::sleep(MOVE_PAUSE);
        }
        pause(&mut rng, 30);
    }
}

/// Writes steadily at `local`, always at the same node: promises of this node alone, and its
/// latency.
pub fn run_local(mut session: Session, shared: &Shared, mut rng: Rng) {
    let (owner, mut next) = (session.node(), 0);
    let mut rows: Vec<Row> = Vec::new();
    while !shared.is_over() {
        rows.retain(Row::is_unfinished);
        while rows.len() < KEYS as usize {
            rows.push(Row { key: Key { group: Group::Local, owner, number: next }, written: 0 });
            next += 1;
        }
        let index = rng.usize(..rows.len());
        let (key, action) = rows[index].next();
        match session.ask(key, action) {
            Some(Outcome::Done(_)) => {}
            // Every key has one incarnation of its node.
            _ => rows.clear(),
        }
        pause(&mut rng, 15);
    }
}

/// Writes contended keys, as its fellows at the other nodes do.
pub fn run_contended(mut session: Session, shared: &Shared, mut rng: Rng) {
    while !shared.is_over() {
        let key = Key { group: Group::Contended, owner: 0, number: turn(shared) * CONTENDED + rng.u32(..CONTENDED) };
        let action = match rng.u8(..10) {
            0 => Action::Get,
            1 => Action::Del,
            _ => Action::Put(shared.number()),
        };
        let outcome = session.ask(key, action);
        // A write that was acknowledged here must not give way to one that was acknowledged before
        // it.
        if outcome == Some(Outcome::Done(Answer::Written)) && rng.bool() {
            session.ask(key, Action::Get);
        }
        pause(&mut rng, 20);
    }
}

/// Writes a key at one node, and at another node some time after the ack. Then it leaves the key
/// alone: the second write wins, whatever the clocks do.
pub fn run_pairs(mut session: Session, shared: &Shared, mut rng: Rng) {
    let mut other = session.beside();
    let mut number = 0;
    while !shared.is_over() {
        number += 1;
        let key = Key { group: Group::Contended, owner: 1, number };
        if session.node() == other.node() {
            other.turn();
        }
        if let Some(Outcome::Done(_)) = session.ask(key, Action::Put(shared.number())) {
            pause(&mut rng, PAIR_PAUSE_MS_MAX);
            other.ask(key, Action::Put(shared.number()));
        }
        match rng.u8(..16) {
            0 => session.turn(),
            1 => other.turn(),
            _ => {}
        }
        pause(&mut rng, 30);
    }
}

/// Appends to a key and counts another one, as its fellows at the other nodes do.
pub fn run_builders(mut session: Session, shared: &Shared, mut rng: Rng) {
    while !shared.is_over() {
        let (group, action) = match rng.u8(..10) {
            0 => (Group::Tokens, Action::Get),
            1 => (Group::Sum, Action::Get),
            2..6 => (Group::Tokens, Action::Append(shared.number())),
            _ => (Group::Sum, Action::Incr),
        };
        session.ask(Key { group, owner: 0, number: turn(shared) }, action);
        pause(&mut rng, MEETING_MS_MAX);
    }
}

/// Writes keys, and deletes some of them. Another client knows each key before it is there.
pub fn run_hand_over(mut session: Session, shared: &Shared, mut rng: Rng) {
    let mut number = 0;
    while !shared.is_over() {
        number += 1;
        let (group, action) = match rng.u8(..5) {
            0 => (Group::Sum, Action::Incr),
            1 => (Group::Tokens, Action::Append(shared.number())),
            _ => (Group::Handover, Action::Put(shared.number())),
        };
        let key = Key { group, owner: TAKEN_OVER, number };
        let is_deleted = group == Group::Handover && rng.bool();
        *shared.handed.lock() = Some(Handed { key, is_deleted });
        let outcome = session.ask(key, action);
        if is_deleted {
            let is_seen = (0..LOOKS_MAX).any(|_| {
                thread::sleep(LOOK_PAUSE);
                *shared.seen.lock() == Some(key)
            });
            if is_seen {
                session.ask(key, Action::Del);
            }
        }
        if !matches!(outcome, Some(Outcome::Done(_))) || rng.u8(..32) == 0 {
            session.turn();
        }
        pause(&mut rng, 40);
    }
}

/// Waits at another node until it sees such a key, or sees that it is gone again, and then writes
/// it. That may be before the first writer has its reply.
pub fn run_take_over(mut session: Session, shared: &Shared, mut rng: Rng) {
    let mut taken = None;
    while !shared.is_over() {
        let Some(handed) = shared.handed.lock().filter(|handed| taken != Some(*handed)) else {
            thread::sleep(LOOK_PAUSE);
            continue;
        };
        taken = Some(handed);
        let key = handed.key;
        let mut is_there = await_key(&mut session, key, true);
        if is_there && handed.is_deleted {
            *shared.seen.lock() = Some(key);
            is_there = await_key(&mut session, key, false);
        }
        if is_there {
            let action = match key.group {
                Group::Sum => Action::Incr,
                Group::Tokens => Action::Append(shared.number()),
                _ if !handed.is_deleted && rng.bool() => Action::Del,
                _ => Action::Put(shared.number()),
            };
            session.ask(key, action);
        }
        if rng.u8(..32) == 0 {
            session.turn();
        }
    }
}

/// Reads a key until it is there, or until it is gone. Returns whether that was seen.
fn await_key(session: &mut Session, key: Key, is_there: bool) -> bool {
    for look in 0..LOOKS_MAX {
        match session.ask(key, Action::Get) {
            Some(Outcome::Done(shown)) if (shown != Answer::Value(None)) == is_there => return true,
            Some(Outcome::Done(_)) if look < LOOKS_AT_ONCE => {}
            Some(Outcome::Done(_)) => thread::sleep(LOOK_PAUSE),
            _ => return false,
        }
    }
    false
}

/// Writes two keys together, always at the same node, as its fellow does, and reads both.
pub fn run_twins(mut session: Session, shared: &Shared, mut rng: Rng) {
    while !shared.is_over() {
        let key = Key { group: Group::Pair, owner: 0, number: 2 * turn(shared) };
        session.ask(key, Action::PutBoth(shared.number(), rng.bool()));
        session.ask(key, Action::GetBoth);
        pause(&mut rng, MEETING_MS_MAX);
    }
}

/// Writes one key of a pair alone, at another node.
pub fn run_half(mut session: Session, shared: &Shared, mut rng: Rng) {
    while !shared.is_over() {
        let key = Key { group: Group::Pair, owner: 0, number: 2 * turn(shared) };
        session.ask(key, Action::Put(shared.number()));
        pause(&mut rng, MEETING_MS_MAX);
    }
}

/// Creates keys and deletes them, some at another node, and never writes them again.
pub fn run_gone(mut session: Session, shared: &Shared, mut rng: Rng) {
    let mut number = 0;
    while !shared.is_over() {
        number += 1;
        let key = Key { group: Group::Gone, owner: 0, number };
        match session.ask(key, Action::Put(1)) {
            Some(Outcome::Done(_)) => {}
            _ => {
                session.turn();
                continue;
            }
        }
        shared.gone.add(key);
        pause(&mut rng, 40);
        if rng.u8(..4) == 0 {
            session.turn();
        }
        session.ask(key, Action::Del);
    }
}

/// Creates keys that expire, and looks at them.
pub fn run_expiring(mut session: Session, shared: &Shared, mut rng: Rng) {
    let mut number = 0;
    while !shared.is_over() {
        number += 1;
        let key = Key { group: Group::Expiring, owner: 0, number };
        match session.ask(key, Action::PutExpiring(1, rng.u32(200..1_500))) {
            Some(Outcome::Done(Answer::Written)) => {
                shared.expiring.add(key);
                session.ask(key, Action::Get);
            }
            _ => session.turn(),
        }
        pause(&mut rng, 60);
    }
}

/// Reads keys of other clients, on one connection for as long as that holds.
pub fn run_reader(mut session: Session, shared: &Shared, mut rng: Rng) {
    while !shared.is_over() {
        let contended = Key { group: Group::Contended, owner: 0, number: turn(shared) * CONTENDED + rng.u32(..CONTENDED) };
        let chosen = [&shared.ledger, &shared.ledger, &shared.ledger, &shared.gone, &shared.gone, &shared.expiring];
        let keys = chosen.into_iter().filter_map(|shown| shown.choose(&mut rng)).chain([contended]);
        let requests: Vec<(Key, Action)> = keys.map(|key| (key, Action::Get)).collect();
        session.round(&requests);
        pause(&mut rng, 40);
    }
}
