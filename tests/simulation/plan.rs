//! The plan of a run: all that is drawn from its seed before anything happens.
//!
//! Every run is of its own kind: some faults and not others, time-outs like the product's or short
//! ones, wide or tight bounds. A mixture of everything in every run would find less, since one
//! fault hides what another one shows.

use std::sync::Arc;
use std::time::Duration;

use crate::simulation::faults::{FAULTS, FaultKind};
use kvmesh::config::Config;
use kvmesh::data::fsync::Fsync;
use kvmesh::store::KeySpread;
use kvmesh::testing::simulated_node;
use serde_json::json;

/// The kinds of runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunKind {
    #[default]
    Any,
    /// Links are so slow and narrow, and deletes so fast, that whatever is late is very late. One
    /// of four runs is of this kind anyway.
    Starved,
    /// Nodes that return are sent dumps so late and so slowly that they have the data from
    /// elsewhere by then, and have forgotten what was deleted of it. One of eight runs is of this
    /// kind anyway.
    Late,
    /// Links are narrow and steady, and values take longer on them than every time-out. One of
    /// eight runs is of this kind anyway.
    Steady,
    /// Clocks differ, jump and stand still. The nodes write one key, and receive the others' writes
    /// late. One of eight runs is of this kind anyway.
    Clocks,
    /// Nodes lose their disks and are given old copies of them. Meanwhile cuts keep deletes apart
    /// from what they deleted, and deletes are forgotten fast. One of eight runs is of this kind
    /// anyway.
    Relapse,
    /// Nodes restart all the time, some of them without their data, and version vectors name few of
    /// their incarnations one by one. Only on request; of the other runs, every second names few of
    /// them.
    Incarnations,
    /// The scripted run of script.rs.
    Script,
}

#[derive(Debug)]
pub struct RunPlan {
    pub nodes: usize,
    pub clients: usize,
    /// The number of keys of each type.
    pub keys: u32,
    /// The mean pause between two requests of a client.
    pub think: Duration,
    /// How long faults are drawn for.
    pub duration: Duration,
    pub faults: Vec<FaultKind>,
    /// The mean pause between two faults.
    pub fault_pause: Duration,
    pub fsync: Fsync,
    /// The usual time of a disk operation, in microseconds.
    pub disk_us: u64,
    /// Clients only write one key, each at a node of its own.
    pub are_rivals: bool,
    /// Clients and faults follow script.rs.
    pub is_scripted: bool,
    /// Some incarnations are of the build before, whose acks carry no clock.
    pub mixes_builds: bool,
    /// The shards that keys lie in.
    pub places: KeySpread,
    /// The longest pause between two pieces of a dump, in microseconds.
    pub dump_pause_us: u64,
    /// Bytes on their way on a connection. Beyond this, its sender waits.
    pub window: usize,
    /// Bytes per second of the narrow links, if there are any.
    pub rate: Option<u64>,
    pub value_len_max: usize,
    /// How many incarnations of a node version vectors name one by one.
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

/// The product's defaults, and about a tenth of them.
const PATIENT: Timing =
    Timing { heartbeat_ms: 500, peer_timeout_ms: 2_000, ack_timeout_ms: 2_000, recovery_wait_ms: 5_000, clock_offset_max_ms: 10_000 };
const HURRIED: Timing =
    Timing { heartbeat_ms: 100, peer_timeout_ms: 400, ack_timeout_ms: 600, recovery_wait_ms: 800, clock_offset_max_ms: 600 };

/// Draws from these faults, each with a chance of one in `chance`.
fn some_of(faults: &[FaultKind], chance: u32, random: &mut fastrand::Rng) -> Vec<FaultKind> {
    faults.iter().copied().filter(|_| random.u32(0..chance) == 0).collect()
}

impl RunPlan {
    pub fn draw(kind: RunKind, random: &mut fastrand::Rng) -> RunPlan {
        let nodes = [3, 3, 3, 3, 4, 5][random.usize(0..6)];
        // About a third of all kinds of faults, and in some runs almost none.
        let share = random.u32(1..=6);
        let faults = FAULTS.into_iter().filter(|_| random.u32(0..10) < share).collect();
        let fsync = [Fsync::Always, Fsync::Always, Fsync::Always, Fsync::Always, Fsync::EverySecond, Fsync::Never][random.usize(0..6)];
        let hurried = random.u32(0..3) == 0;
        let plan = RunPlan {
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
            places: KeySpread::FourShards,
            dump_pause_us: [0, 2_000, 100_000][random.usize(0..3)],
            window: [1_500, 20_000, 256 << 10][random.usize(0..3)],
            rate: None,
            value_len_max: 200,
            timing: if hurried { HURRIED } else { PATIENT },
            tombstone_age_min_ms: [200, 1_000, 5_000][random.usize(0..3)],
            link_queue_max: [1_300, 4_000, 1 << 20][random.usize(0..3)],
            compact_log_min: [3_000, 20_000, 1 << 20][random.usize(0..3)],
            // From a generator of its own, so that what else a seed draws stays as it was.
            incarnations_kept: [1, 1, 2, 64, 64, 64][fastrand::Rng::with_seed(!random.get_seed()).usize(0..6)],
        };
        match kind {
            RunKind::Starved => plan.starve(random),
            RunKind::Late => plan.delay_dumps(random),
            RunKind::Steady => plan.narrow(random),
            RunKind::Clocks => plan.confuse_clocks(random),
            RunKind::Relapse => plan.relapse(random),
            RunKind::Incarnations => plan.restart_often(random),
            RunKind::Script => RunPlan { is_scripted: true, duration: Duration::from_secs(4), ..plan.of_few_rivals(2) },
            RunKind::Any => match random.u32(0..8) {
                0 | 1 => plan.starve(random),
                2 => plan.delay_dumps(random),
                3 => plan.narrow(random),
                4 => plan.confuse_clocks(random),
                5 => plan.relapse(random),
                _ => plan,
            },
        }
    }

    /// Makes links so slow and narrow that dumps are given up and arrive later all the same. Nodes
    /// crash and leave writes behind. Keys are deleted and forgotten as fast as the rules allow.
    fn starve(self, random: &mut fastrand::Rng) -> RunPlan {
        let others = [
            FaultKind::Break,
            FaultKind::Pause,
            FaultKind::Wipe,
            FaultKind::ClockStep,
            FaultKind::Cut,
            FaultKind::Copy,
            FaultKind::PutBack,
        ];
        let mut faults =
            vec![FaultKind::Orphan, FaultKind::Orphan, FaultKind::Orphan, FaultKind::Orphan, FaultKind::Slow, FaultKind::PowerLoss];
        faults.extend(some_of(&others, 3, random));
        RunPlan {
            clients: random.usize(3..=6),
            keys: random.u32(2..=8),
            // If clients were faster, no tombstone would live long enough to be collected.
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

    /// Delays one dump after another until it is given up; it arrives all the same. All its keys
    /// are copied at one moment. It takes so long that clients can delete some of them meanwhile,
    /// and nodes forget the deletes.
    fn delay_dumps(self, random: &mut fastrand::Rng) -> RunPlan {
        RunPlan {
            clients: random.usize(3..=6),
            keys: random.u32(10..=24),
            think: Duration::from_millis([200, 400, 1_000][random.usize(0..3)]),
            duration: Duration::from_secs(random.u64(40..=80)),
            faults: vec![FaultKind::LateDump],
            fault_pause: Duration::from_secs(8),
            places: KeySpread::OneShard,
            dump_pause_us: 1_000,
            timing: HURRIED,
            tombstone_age_min_ms: 200,
            link_queue_max: 1 << 20,
            disk_us: 60,
            ..self
        }
    }

    /// Makes links narrow: more bytes are on their way than a link carries in several time-outs.
    /// One value may be that long. The links carry them all the same, beside faults of other kinds.
    fn narrow(self, random: &mut fastrand::Rng) -> RunPlan {
        let others = [
            FaultKind::Kill,
            FaultKind::Wipe,
            FaultKind::Break,
            FaultKind::Pause,
            FaultKind::Cut,
            FaultKind::OneWay,
            FaultKind::Flip,
            FaultKind::ClockStep,
        ];
        let faults = some_of(&others, 4, random);
        let rate = random.u64(16_000..=40_000);
        RunPlan {
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

    /// Makes clocks differ, jump and stand still. Each node writes one key, and receives the
    /// others' writes late or through a third node. The time scales vary, so that clocks differ by
    /// what an ack takes, or by far more.
    fn confuse_clocks(self, random: &mut fastrand::Rng) -> RunPlan {
        let others = [FaultKind::Pause, FaultKind::Kill, FaultKind::Break, FaultKind::AllBack, FaultKind::ClockDrift, FaultKind::BadClock];
        let mut faults =
            vec![FaultKind::Cut, FaultKind::Cut, FaultKind::Isolate, FaultKind::Suspend, FaultKind::ClockStep, FaultKind::Slow];
        faults.extend(some_of(&others, 4, random));
        RunPlan {
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

    /// Makes one relapse after another, and little else. There are few keys, so that what is
    /// deleted on one side of a cut is written on the other.
    fn relapse(self, random: &mut fastrand::Rng) -> RunPlan {
        let others = [
            FaultKind::Kill,
            FaultKind::PowerLoss,
            FaultKind::FullDisk,
            FaultKind::SlowDisk,
            FaultKind::Break,
            FaultKind::Cut,
            FaultKind::Pause,
        ];
        let mut faults = vec![FaultKind::Relapse; 4];
        faults.extend(some_of(&others, 8, random));
        RunPlan {
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

    /// Makes nodes restart often, since a folded entry of a vector covers all their past
    /// incarnations. Few nodes receive their last writes; nodes crash, lose their disks, and get
    /// old copies of them.
    fn restart_often(self, random: &mut fastrand::Rng) -> RunPlan {
        let others = [
            FaultKind::Kill,
            FaultKind::Wipe,
            FaultKind::PutBack,
            FaultKind::Relapse,
            FaultKind::LateDump,
            FaultKind::Break,
            FaultKind::Isolate,
            FaultKind::Restore,
            FaultKind::BadClock,
        ];
        let mut faults = vec![FaultKind::Orphan, FaultKind::Orphan, FaultKind::Wipe, FaultKind::Kill, FaultKind::Copy];
        faults.extend(some_of(&others, 3, random));
        RunPlan {
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

    /// Draws a run without faults. So many clients, each at a node of its own, write one key as
    /// fast as they are answered, and disks take ten times as long as links.
    #[cfg(test)]
    pub fn of_rivals(clients: usize, random: &mut fastrand::Rng) -> RunPlan {
        let plan = RunPlan::draw(RunKind::Any, random).of_few_rivals(clients);
        RunPlan { think: Duration::from_millis(4), duration: Duration::from_secs(20), disk_us: 8_000, ..plan }
    }

    /// Takes away all faults. So many clients write one key, each at a node of its own.
    fn of_few_rivals(self, clients: usize) -> RunPlan {
        RunPlan {
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

    /// A build before knows no folded incarnations, so nothing is folded where it takes part.
    fn incarnations_kept(&self) -> usize {
        if self.mixes_builds { usize::MAX } else { self.incarnations_kept }
    }

    pub fn config(&self, id: usize) -> Arc<Config> {
        let Timing { heartbeat_ms, peer_timeout_ms, ack_timeout_ms, recovery_wait_ms, clock_offset_max_ms } = self.timing;
        let RunPlan { tombstone_age_min_ms, link_queue_max, compact_log_min, value_len_max, fsync, .. } = self;
        let fields = json!({ "key_len_max": 16, "value_len_max": value_len_max, "heartbeat_ms": heartbeat_ms, "peer_timeout_ms": peer_timeout_ms,
            "ack_timeout_ms": ack_timeout_ms, "recovery_wait_ms": recovery_wait_ms, "clock_offset_max_ms": clock_offset_max_ms,
            "tombstone_age_min_ms": tombstone_age_min_ms, "link_queue_max": link_queue_max, "compact_log_min": compact_log_min,
            "write_room": 65_536, "fsync": fsync.to_string() });
        let config = simulated_node::config(id as u16 + 1, self.nodes as u16, &fields);
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

    /// Longer than it takes until a tombstone that is written now may be collected.
    pub fn tombstone_patience(&self) -> Duration {
        Duration::from_millis(self.tombstone_age_min_ms + 4 * self.timing.clock_offset_max_ms) + 40 * self.heartbeat()
    }
}
