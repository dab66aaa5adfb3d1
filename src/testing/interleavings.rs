//! Tests of interleavings: a program of a few threads is run under a scheduler (shuttle), in one
//! order of its steps after another. It fails where it panics, and where all its threads sleep.
//!
//! Half of the orders are drawn step by step; half let the threads run by drawn priorities, which
//! change a few times. Both are drawn from a seed, so each run is the same. How long a message is,
//! which depends on the time, must not decide how many steps a program takes.
//!
//! Not tried: that one processor sees the stores of another in another order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, Runner};

use crate::testing::broken_hand_overs::BrokenHandOver;

/// Orders of either kind. `KVMESH_INTERLEAVINGS` is another number.
const ORDERS: usize = 2_000;

/// The orders are drawn from this seed. `SHUTTLE_RANDOM_SEED` is another one.
const SEED: u64 = 1;

/// How often the priorities of threads change.
const CHANGES: usize = 3;

/// Bytes of a thread's stack: a whole node is started on one.
const STACK_LEN: usize = 1 << 20;

/// Runs the program in many orders of its steps. `KVMESH_SCHEDULE` is the one order that a failure
/// has printed, to run that again.
pub fn explore(program: fn()) {
    explore_counted(program, &Arc::default());
}

/// Checks that the program fails, in these words, if this hand-over is broken.
pub fn finds(broken: BrokenHandOver, words: &str, program: fn()) {
    let runs = Arc::default();
    let mut found = Ok(());
    broken.broken_in(|| found = catch_unwind(AssertUnwindSafe(|| explore_counted(program, &runs))));
    let runs = runs.load(Ordering::Relaxed);
    let Err(panic) = found else { panic!("{broken:?} is not found in {runs} orders") };
    let said = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
    let said = said.unwrap_or_default();
    assert!(said.contains(words), "{broken:?} is found as something else, in order {runs}: {said}");
    println!("{broken:?} is found in order {runs}");
}

fn explore_counted(program: fn(), runs: &Arc<AtomicUsize>) {
    let orders = std::env::var("KVMESH_INTERLEAVINGS").map_or(ORDERS, |orders| orders.parse().expect("KVMESH_INTERLEAVINGS: a number"));
    let mut config = Config::new();
    config.stack_size = STACK_LEN;
    // It warns, once a run, of what the head of this file says.
    config.silence_warnings = true;
    let counted = || {
        let runs = Arc::clone(runs);
        move || {
            runs.fetch_add(1, Ordering::Relaxed);
            program();
        }
    };
    if let Ok(schedule) = std::env::var("KVMESH_SCHEDULE") {
        Runner::new(ReplayScheduler::new_from_encoded(&schedule), config).run(counted());
        return;
    }
    Runner::new(RandomScheduler::new_from_seed(SEED, orders), config.clone()).run(counted());
    Runner::new(PctScheduler::new_from_seed(SEED, CHANGES + 1, orders), config).run(counted());
}
