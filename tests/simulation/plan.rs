//! What a run is like: drawn from its seed, before anything happens.
//!
//! Every run has a character of its own: some faults and not others, product-like or hurried time-outs, roomy or tight bounds. A mixture of everything in every run would find less: one fault
//! hides what another one shows.

use std::sync::Arc;
use std::time::Duration;

use crate::simulation::faults::{FAULTS, Fault};
use kvmesh::config::Config;
use kvmesh::store::Places;
use kvmesh::wal::Fsync;

/// What sort of run is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Character {
    #[default]
    Any,
    /// Links so slow and narrow, and deletes so fast, that what is late is late by much. One of four is so anyway.
    Starved,
    /// Nodes that return are sent dumps so late and so slowly that they have the data from elsewhere by then, and have forgotten what was deleted of it. One of eight is so anyway.
    Late,
    /// Narrow, steady links, and values that take longer than every time-out on them. One of eight is so anyway.
    Steady,
    /// Clocks that differ, jump and stand still, and nodes that write one key and hear of each other late. One of eight is so anyway.
    Clocks,
    /// Nodes lose their disks and are given old copies of them while cuts keep deletes and what they deleted apart, and what is deleted is forgotten fast. One of eight is so anyway.
    Relapse,
    /// Nodes start all the time, some of them without what they had, and vectors name few of their incarnations one by one. Only if it is asked for; every other run names few of them.
    Lives,
    /// The one run of script.rs.
    Script,
}

#[derive(Debug)]
pub struct Plan {
    pub nodes: usize,
    pub clients: usize,
    /// Keys of each sort.
    pub keys: u32,
    /// Between two requests of a client, on average.
    pub think: Duration,
    /// How long faults are drawn for.
    pub duration: Duration,
    pub faults: Vec<Fault>,
    /// Between two faults, on average.
    pub fault_pause: Duration,
    pub fsync: Fsync,
    /// Of a step of the disk, usually, in microseconds.
    pub disk_us: u64,
    /// Clients do nothing but write one key, each at a node of its own.
    pub are_rivals: bool,
    /// Clients and faults follow script.rs.
    pub is_scripted: bool,
    /// Some incarnations are of the build before, whose acks show no clock.
    pub mixes_builds: bool,
    /// Where keys lie.
    pub places: Places,
    /// The longest pause between two pieces of a dump, in microseconds.
    pub dump_pause_us: u64,
    /// Bytes that a connection holds, beyond which who writes to it waits.
    pub window: usize,
    /// Bytes a second of a narrow link, if there are any.
    pub rate: Option<u64>,
    pub value_len_max: usize,
    /// Incarnations of a node that vectors name one by one.
    pub incarnations_kept: usize,
    timing: Timing,
    tombstone_age_min_ms: u64,
    link_queue_max: usize,
    compact_log_min: usize,
}

#[derive(Clone, Copy, Debug)]
struct Timing {
    heartbeat_ms: u64,
    peer_timeout_ms: u64,
    ack_timeout_ms: u64,
    recovery_wait_ms: u64,
    clock_offset_max_ms: u64,
}

/// The product's defaults; and a tenth of them, about.
const PATIENT: Timing =
    Timing { heartbeat_ms: 500, peer_timeout_ms: 2_000, ack_timeout_ms: 2_000, recovery_wait_ms: 5_000, clock_offset_max_ms: 10_000 };
const HURRIED: Timing =
    Timing { heartbeat_ms: 100, peer_timeout_ms: 400, ack_timeout_ms: 600, recovery_wait_ms: 800, clock_offset_max_ms: 600 };

/// Of these faults each with one chance in so many.
fn some_of(faults: &[Fault], chance: u32, random: &mut fastrand::Rng) -> Vec<Fault> {
    faults.iter().copied().filter(|_| random.u32(0..chance) == 0).collect()
}

impl Plan {
    pub fn draw(character: Character, random: &mut fastrand::Rng) -> Plan {
        let nodes = [3, 3, 3, 3, 4, 5][random.usize(0..6)];
        // About a third of all kinds, and in some runs almost none.
        let share = random.u32(1..=6);
        let faults = FAULTS.into_iter().filter(|_| random.u32(0..10) < share).collect();
        let fsync = [Fsync::Always, Fsync::Always, Fsync::Always, Fsync::Always, Fsync::EverySecond, Fsync::Never][random.usize(0..6)];
        let hurried = random.u32(0..3) == 0;
        let plan = Plan {
            nodes,
            clients: random.usize(2..=6),
            keys: random.u32(1..=6),
            think: Duration::from_millis([60, 200, 400, 1_000][random.usize(0..4)]) / if hurried { 3 } else { 1 },
            duration: Duration::from_secs(if hurried { random.u64(10..=30) } else { random.u64(40..=90) }),
            faults,
            fault_pause: Duration::from_millis([1_000, 3_000, 6_000][random.usize(0..3)]) / if hurried { 4 } else { 1 },
            fsync,
            disk_us: [60, 400, 4_000][random.usize(0..3)],
            are_rivals: false,
            is_scripted: false,
            mixes_builds: random.u32(0..4) == 0,
            places: Places::FourShards,
            dump_pause_us: [0, 2_000, 100_000][random.usize(0..3)],
            window: [1_500, 20_000, 256 << 10][random.usize(0..3)],
            rate: None,
            value_len_max: 200,
            timing: if hurried { HURRIED } else { PATIENT },
            tombstone_age_min_ms: [200, 1_000, 5_000][random.usize(0..3)],
            link_queue_max: [1_300, 4_000, 1 << 20][random.usize(0..3)],
            compact_log_min: [3_000, 20_000, 1 << 20][random.usize(0..3)],
            // From other random numbers, so that a seed is what it was otherwise.
            incarnations_kept: [1, 1, 2, 64, 64, 64][fastrand::Rng::with_seed(!random.get_seed()).usize(0..6)],
        };
        match character {
            Character::Starved => plan.starve(random),
            Character::Late => plan.delay_dumps(random),
            Character::Steady => plan.narrow(random),
            Character::Clocks => plan.confuse_clocks(random),
            Character::Relapse => plan.relapse(random),
            Character::Lives => plan.begin_often(random),
            Character::Script => Plan { is_scripted: true, duration: Duration::from_secs(4), ..plan.of_few_rivals(2) },
            Character::Any => match random.u32(0..8) {
                0 | 1 => plan.starve(random),
                2 => plan.delay_dumps(random),
                3 => plan.narrow(random),
                4 => plan.confuse_clocks(random),
                5 => plan.relapse(random),
                _ => plan,
            },
        }
    }

    /// Links that are so slow and so narrow that dumps are given up and come after all, of nodes that die and leave writes behind, while keys are deleted and forgotten as fast as the rules
    /// allow.
    fn starve(self, random: &mut fastrand::Rng) -> Plan {
        let others = [Fault::Break, Fault::Pause, Fault::Wipe, Fault::ClockStep, Fault::Cut, Fault::Copy, Fault::PutBack];
        let mut faults = vec![Fault::Orphan, Fault::Orphan, Fault::Orphan, Fault::Orphan, Fault::Slow, Fault::PowerLoss];
        faults.extend(some_of(&others, 3, random));
        Plan {
            clients: random.usize(3..=6),
            keys: random.u32(2..=8),
            // Too fast, and no tombstone lives long enough to be collected.
            think: Duration::from_millis([25, 100, 300][random.usize(0..3)]),
            duration: Duration::from_secs(random.u64(10..=25)),
            faults,
            fault_pause: Duration::from_millis(random.u64(400..=1_500)),
            dump_pause_us: [5_000, 100_000, 250_000][random.usize(0..3)],
            window: [600, 1_500, 4_000][random.usize(0..3)],
            timing: HURRIED,
            tombstone_age_min_ms: 200,
            link_queue_max: [1_300, 1 << 20, 1 << 20][random.usize(0..3)],
            fsync: [Fsync::Always, Fsync::EverySecond, Fsync::Never][random.usize(0..3)],
            disk_us: 60,
            ..self
        }
    }

    /// One dump after another that is given up and comes after all, of keys that are all copied at one time. It takes so long that clients can delete some of them meanwhile, and nodes forget
    /// that.
    fn delay_dumps(self, random: &mut fastrand::Rng) -> Plan {
        Plan {
            clients: random.usize(3..=6),
            keys: random.u32(10..=24),
            think: Duration::from_millis([200, 400, 1_000][random.usize(0..3)]),
            duration: Duration::from_secs(random.u64(40..=80)),
            faults: vec![Fault::LateDump],
            fault_pause: Duration::from_secs(8),
            places: Places::OneShard,
            dump_pause_us: 1_000,
            timing: HURRIED,
            tombstone_age_min_ms: 200,
            link_queue_max: 1 << 20,
            disk_us: 60,
            ..self
        }
    }

    /// What has left a node, and not arrived, is more than its links carry in several time-outs: one value may be. They carry it all the same, beside faults of other kinds.
    fn narrow(self, random: &mut fastrand::Rng) -> Plan {
        let others = [Fault::Kill, Fault::Wipe, Fault::Break, Fault::Pause, Fault::Cut, Fault::OneWay, Fault::Flip, Fault::ClockStep];
        let faults = some_of(&others, 4, random);
        let rate = random.u64(16_000..=40_000);
        Plan {
            clients: random.usize(2..=4),
            keys: random.u32(2..=4),
            think: Duration::from_millis([400, 1_000, 2_000][random.usize(0..3)]),
            duration: Duration::from_secs(random.u64(15..=40)),
            faults,
            fault_pause: Duration::from_secs(4),
            dump_pause_us: 0,
            window: rate as usize * random.usize(1..=3),
            rate: Some(rate),
            value_len_max: 60_000,
            timing: HURRIED,
            link_queue_max: [100_000, 1 << 20][random.usize(0..2)],
            ..self
        }
    }

    /// Clocks that differ, jump and stand still, while each node writes one key, and hears of the others late or by a third. Of more than one kind of time, so that what differs is what an ack takes, or
    /// far more.
    fn confuse_clocks(self, random: &mut fastrand::Rng) -> Plan {
        let others = [Fault::Pause, Fault::Kill, Fault::Break, Fault::AllBack, Fault::ClockDrift, Fault::BadClock];
        let mut faults = vec![Fault::Cut, Fault::Cut, Fault::Isolate, Fault::Suspend, Fault::ClockStep, Fault::Slow];
        faults.extend(some_of(&others, 4, random));
        Plan {
            nodes: 3,
            clients: 3,
            keys: 1,
            think: Duration::from_millis([60, 150, 400][random.usize(0..3)]),
            duration: Duration::from_secs(random.u64(15..=40)),
            faults,
            fault_pause: Duration::from_millis(random.u64(500..=1_500)),
            fsync: Fsync::Always,
            disk_us: 60,
            dump_pause_us: 0,
            window: 256 << 10,
            link_queue_max: 1 << 20,
            are_rivals: true,
            rate: None,
            mixes_builds: false,
            ..self
        }
    }

    /// One relapse after another, and not much else. Keys are few, so that what is deleted on the one side of a cut is written on the other.
    fn relapse(self, random: &mut fastrand::Rng) -> Plan {
        let others = [Fault::Kill, Fault::PowerLoss, Fault::FullDisk, Fault::SlowDisk, Fault::Break, Fault::Cut, Fault::Pause];
        let mut faults = vec![Fault::Relapse; 4];
        faults.extend(some_of(&others, 8, random));
        Plan {
            clients: random.usize(4..=6),
            keys: random.u32(1..=3),
            think: Duration::from_millis([60, 150, 400][random.usize(0..3)]),
            duration: Duration::from_secs(random.u64(20..=50)),
            faults,
            fault_pause: Duration::from_secs(3),
            timing: HURRIED,
            tombstone_age_min_ms: 200,
            link_queue_max: 1 << 20,
            window: 256 << 10,
            dump_pause_us: 0,
            ..self
        }
    }

    /// What is told of an incarnation that is over is told of all: writes that few have heard of, deaths, lost disks and old copies of them, one after another.
    fn begin_often(self, random: &mut fastrand::Rng) -> Plan {
        let others =
            [Fault::Kill, Fault::Wipe, Fault::PutBack, Fault::Relapse, Fault::LateDump, Fault::Break, Fault::Isolate, Fault::Restore];
        let mut faults = vec![Fault::Orphan, Fault::Orphan, Fault::Wipe, Fault::Kill, Fault::Copy];
        faults.extend(some_of(&others, 3, random));
        Plan {
            keys: random.u32(2..=8),
            think: Duration::from_millis([25, 100, 300][random.usize(0..3)]),
            duration: Duration::from_secs(random.u64(15..=40)),
            faults,
            fault_pause: Duration::from_millis(random.u64(400..=1_500)),
            dump_pause_us: [0, 5_000, 100_000][random.usize(0..3)],
            timing: HURRIED,
            tombstone_age_min_ms: 200,
            incarnations_kept: 1,
            mixes_builds: false,
            ..self
        }
    }

    /// Nothing goes wrong; so many clients, each at a node of its own, write one key as fast as they are answered, and the disks take ten times as long as the links.
    #[cfg(test)]
    pub fn of_rivals(clients: usize, random: &mut fastrand::Rng) -> Plan {
        let plan = Plan::draw(Character::Any, random).of_few_rivals(clients);
        Plan { think: Duration::from_millis(4), duration: Duration::from_secs(20), disk_us: 8_000, ..plan }
    }

    /// Nothing goes wrong, and so many clients, each at a node of its own, write one key.
    fn of_few_rivals(self, clients: usize) -> Plan {
        Plan {
            nodes: 3,
            clients,
            keys: 1,
            faults: Vec::new(),
            fsync: Fsync::Always,
            disk_us: 400,
            timing: PATIENT,
            link_queue_max: 1 << 20,
            window: 256 << 10,
            are_rivals: true,
            rate: None,
            mixes_builds: false,
            ..self
        }
    }

    /// A build before knows of no incarnations that are folded, and is not met where some are.
    fn incarnations_kept(&self) -> usize {
        if self.mixes_builds { usize::MAX } else { self.incarnations_kept }
    }

    pub fn config(&self, id: usize) -> Arc<Config> {
        let peers = (0..self.nodes).filter(|peer| *peer != id);
        let peers: Vec<String> = peers.map(|peer| format!(r#"{{"id":{},"addr":"127.0.0.1:{}"}}"#, peer + 1, 7101 + peer)).collect();
        let Timing { heartbeat_ms, peer_timeout_ms, ack_timeout_ms, recovery_wait_ms, clock_offset_max_ms } = self.timing;
        let Plan { tombstone_age_min_ms, link_queue_max, compact_log_min, value_len_max, fsync, .. } = self;
        let json = format!(
            r#"{{"id":{},"client_addr":"127.0.0.1:0","peer_addr":"127.0.0.1:0","peers":[{}],"key_len_max":16,"value_len_max":{value_len_max},
                "heartbeat_ms":{heartbeat_ms},"peer_timeout_ms":{peer_timeout_ms},"ack_timeout_ms":{ack_timeout_ms},
                "recovery_wait_ms":{recovery_wait_ms},"clock_offset_max_ms":{clock_offset_max_ms},
                "tombstone_age_min_ms":{tombstone_age_min_ms},"link_queue_max":{link_queue_max},"compact_log_min":{compact_log_min},
                "write_room":65536,"fsync":"{fsync}"}}"#,
            id + 1,
            peers.join(",")
        );
        let config = Config::from_json(&json, "simulation").expect("a good configuration");
        Arc::new(Config { incarnations_kept: self.incarnations_kept(), ..config })
    }

    pub fn clock_offset_max(&self) -> Duration {
        Duration::from_millis(self.timing.clock_offset_max_ms)
    }

    pub fn peer_timeout(&self) -> Duration {
        Duration::from_millis(self.timing.peer_timeout_ms)
    }

    pub fn ack_timeout(&self) -> Duration {
        Duration::from_millis(self.timing.ack_timeout_ms)
    }

    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.timing.heartbeat_ms)
    }

    /// Longer than it takes until a tombstone of now may be collected.
    pub fn tombstone_patience(&self) -> Duration {
        Duration::from_millis(self.tombstone_age_min_ms + 4 * self.timing.clock_offset_max_ms) + 40 * self.heartbeat()
    }
}
