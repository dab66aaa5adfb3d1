//! Processes that die at any moment: what was acknowledged at `majority` is there afterwards,
//! however many died and however they return.
//!
//! `KVMESH_ROUNDS=200 KVMESH_SEED=1 cargo test --test it kills_at_random -- --nocapture` runs
//! longer, and repeats the choices of an earlier run.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, ClusterPlan};
use crate::random::{Random, number_from, seed};
use crate::writers::{Ledger, Writers};

/// Rounds of an ordinary run: every number of victims with every way to return, and one more.
const ROUNDS: u64 = 10;
/// Earlier rounds that are checked again after each round. At the end, all are.
const LOOKED_AT_AGAIN: usize = 3;

/// A cluster that compacts logs and collects tombstones every few rounds.
fn plan() -> ClusterPlan {
    Cluster::plan(3).set("compact_log_min", 64 << 10).set("tombstone_age_min_ms", 200).set("recovery_wait_ms", 1_500)
}

#[test]
fn kills_at_random_moments_lose_no_acknowledged_write() {
    let rounds = number_from("KVMESH_ROUNDS").unwrap_or(ROUNDS);
    let seed = seed();
    let mut random = Random::new(seed);
    let mut cluster = plan().start();
    let mut earlier: Vec<Ledger> = Vec::new();
    for number in 0..rounds {
        let began = Instant::now();
        let round = Round::choose(number + seed, &mut random);
        // Shown if the test fails.
        println!("seed {seed}, round {number}: {round}");
        let outcomes = round.run(&mut cluster, &format!("round{number}"), &mut random);
        for outcomes in earlier.iter().rev().take(LOOKED_AT_AGAIN).chain([&outcomes]) {
            outcomes.assert_kept(&cluster);
        }
        println!(
            "  {} acknowledged, {:?}, {} connections broken, {:.1} s",
            outcomes.acknowledged,
            outcomes.codes,
            outcomes.broken_connections,
            began.elapsed().as_secs_f64()
        );
        earlier.push(outcomes);
    }
    earlier.iter().for_each(|outcomes| outcomes.assert_kept(&cluster));
}

/// No node needs its peers for this: each has everything on its own disk.
#[test]
fn a_cluster_that_is_stopped_as_a_whole_is_there_again() {
    let mut cluster = plan().start();
    let load = Writers::roaming(&cluster, "before", &[1, 2, 3]);
    load.await_progress(300);
    let before = load.end();
    before.assert_codes_are(&[]);
    cluster.await_converged();
    let digest = cluster.ask_line(1, "DIGEST");
    for id in cluster.ids() {
        cluster.stop(id);
    }
    for id in cluster.ids() {
        cluster.start(id);
        // Alone, from its own disk.
        cluster.await_log(id, &["read", "entries from"]);
        cluster.await_state(id, "degraded");
        assert_eq!(cluster.ask_line(id, "DIGEST"), digest, "n{id}");
        cluster.stop(id);
    }
    cluster.start_all();
    cluster.await_converged();
    assert_eq!(cluster.ask_line(1, "DIGEST"), digest);
    before.assert_kept(&cluster);
    cluster.await_mesh(&[1, 2, 3]);
    assert_eq!(cluster.ask_line(2, "SET after 1"), "OK");
    cluster.await_reply(3, "GET after", "VALUE 1");
}

/// One round of kills and returns.
struct Round {
    victims: Vec<u16>,
    /// Pause between two kills.
    gap: Duration,
    back: Return,
}

#[derive(Clone, Copy)]
enum Return {
    Together,
    /// Each starts when the one before it answers or, if patient, when that one waits for its peers
    /// no longer.
    InTurn {
        patient: bool,
    },
    /// This node returns last, after everything was checked without it.
    Without(u16),
}

impl Round {
    fn choose(number: u64, random: &mut Random) -> Round {
        let mut victims = vec![1, 2, 3];
        random.shuffle(&mut victims);
        victims.truncate(1 + (number % 3) as usize);
        let gap = if random.once_in(2) { Duration::ZERO } else { pause(random, 40) };
        let back = match number / 3 % 3 {
            0 => Return::Together,
            1 => Return::InTurn { patient: random.once_in(2) },
            _ => Return::Without(victims[0]),
        };
        Round { victims, gap, back }
    }

    /// Runs the round. Returns when all nodes are back and hold the same.
    fn run(&self, cluster: &mut Cluster, label: &str, random: &mut Random) -> Ledger {
        let load = Writers::roaming(cluster, label, &[1, 2, 3]);
        load.await_progress(50 + random.below(150) as u64);
        thread::sleep(pause(random, 300));
        for victim in &self.victims {
            // The next one dies before the end of this one.
            cluster.signal(*victim, Signal::SIGKILL);
            thread::sleep(self.gap);
        }
        self.victims.iter().for_each(|victim| cluster.kill(*victim));
        thread::sleep(pause(random, 500));
        for victim in &self.victims {
            match self.back {
                Return::Without(absent) if absent == *victim => continue,
                Return::Together | Return::Without(_) => cluster.start(*victim),
                Return::InTurn { patient } => {
                    cluster.start(*victim);
                    cluster.await_answer(*victim);
                    if patient {
                        cluster.await_served(*victim);
                    }
                }
            }
        }
        // The nodes that are back are a majority, and serve.
        load.await_progress(100);
        let outcomes = load.end();
        outcomes.assert_codes_are(&["NOQUORUM", "TIMEOUT", "LOADING"]);
        if let Return::Without(absent) = self.back {
            cluster.await_converged();
            for id in cluster.ids().into_iter().filter(|id| *id != absent) {
                outcomes.assert_kept_by(cluster, id);
            }
            cluster.start(absent);
        }
        cluster.await_converged();
        cluster.await_mesh(&[1, 2, 3]);
        outcomes
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kill {:?} {} ms apart, back ", self.victims, self.gap.as_millis())?;
        match self.back {
            Return::Together => write!(f, "together"),
            Return::InTurn { patient: false } => write!(f, "one after another"),
            Return::InTurn { patient: true } => write!(f, "one after another, each when the one before it serves"),
            Return::Without(absent) => write!(f, "without n{absent}, and that one last"),
        }
    }
}

fn pause(random: &mut Random, ms_max: usize) -> Duration {
    Duration::from_millis(random.below(ms_max + 1) as u64)
}
