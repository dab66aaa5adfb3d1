use super::*;

#[test]
fn a_seed_run_twice_is_the_same_run() {
    for seed in 1..=6 {
        let (first, second) = (run(seed, Character::Any, None), run(seed, Character::Any, None));
        assert_eq!((first.trace, first.events, first.tally), (second.trace, second.events, second.tally), "seed {seed}");
        assert!(first.violation.is_none(), "seed {seed}: {:?}", first.violation);
    }
}

/// Without any fault, two or three clients write one key through different nodes, whose disks are far slower than their links. A write that lost was once stamped again, and had beaten the
/// other one before that was on a disk; and so on, until time-outs. Found by kvtorture.
#[test]
fn writers_of_one_key_do_not_hold_each_other_up() {
    for (seed, clients) in [(1, 2), (2, 2), (3, 3), (4, 3)] {
        let (arena, mut random) = (Arena::default(), fastrand::Rng::with_seed(seed));
        let plan = Plan::of_rivals(clients, &mut random);
        let mut simulation = Simulation::of(&arena, seed, plan, random);
        simulation.run();
        assert!(simulation.violation.is_none(), "{:?}", simulation.violation);
        let versions: usize = simulation.history.keys.values().map(|versions| versions.len()).sum();
        let done = simulation.tally["done"];
        let slowest = simulation.history.operations.iter().filter_map(|operation| Some(operation.heard? - operation.began)).max();
        println!("seed {seed}, {clients} clients: {versions} versions for {done} writes, the slowest took {slowest:?}");
        assert_eq!(simulation.tally.get("unknown"), None, "{:?}", simulation.tally);
        // What was still under way at the end has left its version, too.
        let cut_off = simulation.tally.get("cut off").copied().unwrap_or_default();
        assert_eq!(versions as u64, done + cut_off, "versions for so many writes");
    }
}

/// Of each of these a delete was forgotten by a node that had not heard of a write that it deleted: the word of a peer that was away counted, although another one had lost its disk since.
#[test]
fn a_delete_stays_when_a_disk_is_lost_beside_a_cut_and_an_old_copy_is_put_back() {
    for seed in [9, 44] {
        let report = run(seed, Character::Relapse, None);
        assert!(report.violation.is_none(), "seed {seed}: {:?}", report.violation);
        assert!(report.tally["old disks put back"] > 0);
    }
}
