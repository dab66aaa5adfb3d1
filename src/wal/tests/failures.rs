//! A process that dies at every operation on its disk, a machine that loses power there, a disk
//! that fills up, a sync that fails.

use super::*;
use crate::wal::files::{log_name, snapshot_name};

/// The part of what was not synced that a death leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Process,
    PowerLossKeepsNothing,
    PowerLossKeepsAll,
    PowerLossKeepsSome(u64),
}

const DEATHS: [Death; 5] =
    [Death::Process, Death::PowerLossKeepsNothing, Death::PowerLossKeepsAll, Death::PowerLossKeepsSome(1), Death::PowerLossKeepsSome(2)];

impl Death {
    fn happens_to(self, disk: &SimulatedDisk, at: u64) {
        match self {
            Death::Process => disk.restart_process(),
            Death::PowerLossKeepsNothing => disk.lose_power(|_| 0),
            Death::PowerLossKeepsAll => disk.lose_power(|there| there),
            Death::PowerLossKeepsSome(seed) => {
                let mut random = fastrand::Rng::with_seed(seed * 1_000_003 + at);
                disk.lose_power(|there| random.usize(..=there));
            }
        }
    }
}

type Scenario = fn(&SimulatedDisk, Fsync, &mut Promised) -> io::Result<()>;

/// Two lives: batches, a compaction while records come, a clean stop; and again.
fn two_incarnations(disk: &SimulatedDisk, fsync: Fsync, promised: &mut Promised) -> io::Result<()> {
    for _ in 0..2 {
        let mut process = Incarnation::start(disk, fsync)?;
        process.append(1, promised);
        process.step(promised)?;
        process.append(3, promised);
        process.step(promised)?;
        process.write_snapshot(false, promised)?;
        process.append(2, promised);
        process.step(promised)?;
        process.append(1, promised);
        process.stop(promised)?;
    }
    Ok(())
}

/// A compaction that breaks off, one that follows, and a third, at once.
fn compactions(disk: &SimulatedDisk, fsync: Fsync, promised: &mut Promised) -> io::Result<()> {
    let mut process = Incarnation::start(disk, fsync)?;
    process.append(2, promised);
    process.step(promised)?;
    // Its snapshot was never finished: two logs count.
    let generation = process.wal.switch(false);
    process.append(2, promised);
    process.step(promised)?;
    SnapshotWriter::create(&disk.clone(), generation)?.append(b"{\"dump\"")?;
    process.write_snapshot(false, promised)?;
    process.write_snapshot(false, promised)?;
    process.append(1, promised);
    process.step(promised)?;
    process.stop(promised)
}

/// The disk fills up, records that come are not logged, then there is space again and the
/// write-ahead log resumes.
fn full_and_resumed(disk: &SimulatedDisk, fsync: Fsync, promised: &mut Promised) -> io::Result<()> {
    let mut process = Incarnation::start(disk, fsync)?;
    process.append(3, promised);
    process.step(promised)?;
    disk.set_capacity(Some(disk.used() + 100));
    process.append(4, promised);
    process.step(promised)?;
    assert!(!process.wal.is_writable());
    let reached = promised.reached;
    process.append(2, promised);
    process.step(promised)?;
    assert_eq!(promised.reached, reached, "reported by a log that is not written");
    disk.set_capacity(None);
    process.write_snapshot(true, promised)?;
    assert!(process.wal.is_writable());
    assert_eq!(promised.reached, process.last, "resumed, and not reported");
    process.append(2, promised);
    process.step(promised)?;
    assert_eq!(promised.reached, process.last);
    process.write_snapshot(false, promised)?;
    process.append(1, promised);
    process.stop(promised)
}

/// There is no space for a new log, but for what goes on in the one before; later there is.
fn without_a_new_log(disk: &SimulatedDisk, fsync: Fsync, promised: &mut Promised) -> io::Result<()> {
    let mut process = Incarnation::start(disk, fsync)?;
    process.append(2, promised);
    process.step(promised)?;
    for room in [0, 5, 11] {
        disk.fail_creates(room == 0);
        disk.set_capacity((room > 0).then(|| disk.used() + record(process.last + 1).len() + room));
        let failed = process.write_snapshot(false, promised).is_err();
        process.alive()?;
        assert!(failed, "a new log in {room} bytes");
        disk.fail_creates(false);
        disk.set_capacity(None);
        if !process.wal.is_writable() {
            process.write_snapshot(true, promised)?;
        }
        process.append(1, promised);
        process.step(promised)?;
        assert_eq!(promised.reached, process.last);
    }
    process.stop(promised)
}

/// Dies at every operation, in every way; starts again, and dies at every operation of that, too.
fn survives(scenario: Scenario, fsync: Fsync) {
    let (whole, mut promised) = (SimulatedDisk::default(), Promised::default());
    scenario(&whole, fsync, &mut promised).expect("a scenario without a fault");
    let operations = whole.operations();
    assert!(operations > 20, "{operations} operations only");
    assert_eq!(Incarnation::start(&whole, fsync).unwrap().last, promised.handed_over, "a clean stop forgets");
    for at in 0..operations {
        let (dead, mut promised) = (SimulatedDisk::default(), Promised::default());
        dead.die_at(at);
        assert!(scenario(&dead, fsync, &mut promised).is_err() && dead.is_dead(), "alive behind operation {at} of {operations}");
        dead.set_capacity(None);
        dead.fail_creates(false);
        let at_least = if fsync == Fsync::Always { promised.reached } else { 0 };
        for death in DEATHS {
            let what = format!("{fsync}, {death:?} at operation {at} of {operations}");
            let disk = dead.fork();
            death.happens_to(&disk, at);
            check_start(&disk.fork(), at_least, &promised, fsync, &what);
            for again in 0.. {
                let second = DEATHS[(at + again) as usize % DEATHS.len()];
                let what = format!("{what}, {second:?} at operation {again} of the start");
                let disk = disk.fork();
                disk.die_at(disk.operations() + again);
                let started = Incarnation::start(&disk, fsync);
                if !disk.is_dead() {
                    started.map(|_| ()).unwrap_or_else(|error| panic!("{what}: {error}"));
                    break;
                }
                second.happens_to(&disk, at + again);
                check_start(&disk, at_least, &promised, fsync, &what);
            }
        }
    }
}

#[test]
fn what_was_reported_survives_a_death_at_any_operation() {
    survives(two_incarnations, Fsync::Always);
    survives(two_incarnations, Fsync::Never);
}

#[test]
fn what_was_reported_survives_a_death_in_any_compaction() {
    survives(compactions, Fsync::Always);
}

#[test]
fn what_was_reported_survives_a_death_where_no_new_log_can_begin() {
    survives(without_a_new_log, Fsync::Always);
}

#[test]
fn what_was_reported_survives_a_death_on_the_way_into_a_full_disk_and_out_of_it() {
    survives(full_and_resumed, Fsync::Always);
}

#[test]
fn what_was_written_survives_the_death_of_the_process_without_a_sync() {
    for fsync in [Fsync::EverySecond, Fsync::Never] {
        let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
        let mut process = Incarnation::start(&disk, fsync).unwrap();
        process.append(5, &mut promised);
        process.step(&mut promised).unwrap();
        drop(process);
        disk.restart_process();
        check_start(&disk, promised.stepped, &promised, fsync, &fsync.to_string());
    }
}

#[test]
fn everything_is_reported_by_the_step_that_begins_a_new_log() {
    let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
    let mut process = Incarnation::start(&disk, Fsync::Always).unwrap();
    process.append(3, &mut promised);
    process.wal.switch(false);
    process.step(&mut promised).unwrap();
    assert_eq!(promised.reached, 3);
}

/// Every capacity from one that takes nothing more to one that takes all.
#[test]
fn a_disk_that_fills_up_anywhere_in_a_batch_leaves_whole_records_and_nothing_is_reported() {
    let batch: u64 = (4..=6).map(|number| record(number).len() as u64).sum();
    for room in 0..=batch as usize {
        let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
        let mut process = Incarnation::start(&disk, Fsync::Always).unwrap();
        process.append(3, &mut promised);
        process.step(&mut promised).unwrap();
        let before = disk.bytes(&log_name(1));
        disk.set_capacity(Some(disk.used() + room));
        process.append(3, &mut promised);
        process.step(&mut promised).unwrap();
        if room as u64 == batch {
            assert!(process.wal.is_writable());
            assert_eq!(promised.reached, 6);
            continue;
        }
        assert!(!process.wal.is_writable(), "room for {room}");
        assert_eq!(promised.reached, 3, "room for {room}");
        assert!(disk.bytes(&log_name(1)) == before, "room for {room}: not cut back to the last whole record");
        let stopped = process.wal.condition().stopped.expect("a reason");
        assert!(stopped.is_resumable && stopped.sentence.contains("disk full") && stopped.sentence.contains("RESUME"), "{stopped:?}");
        // It stays so, also when there is space again, until RESUME.
        disk.set_capacity(None);
        process.append(1, &mut promised);
        process.step(&mut promised).unwrap();
        assert_eq!((promised.reached, process.wal.is_writable()), (3, false));
        assert!(process.wal.await_durable(Duration::ZERO).is_err());
        process.write_snapshot(true, &mut promised).unwrap();
        assert_eq!((promised.reached, process.wal.is_writable()), (process.last, true), "room for {room}");
        check_start(&disk, promised.reached, &promised, Fsync::Always, "resumed");
    }
}

/// A batch of several writes, of which the first finds space: its records are whole, and not
/// reported.
#[test]
fn a_large_batch_that_fills_the_disk_reports_nothing_of_it() {
    let (disk, mut reached) = (SimulatedDisk::default(), Vec::new());
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let wal = Arc::new(Wal::new(Arc::clone(&shared), Fsync::Always, 1 << 20, &Files::default()));
    let mut writer = Writer::open(Arc::clone(&wal), &Files::default(), 0, &FoundLog::default(), 0, Instant::now()).unwrap();
    let mut bytes = Vec::new();
    seal(&mut bytes, 1, |out| out.resize(out.len() + (1 << 20), b'x'));
    for number in 1..=3 {
        wal.append(QueuedRecords { bytes: Arc::new(bytes.clone()), reached: Some((ORIGIN, Stamp::from_bits(number))), permit: None });
    }
    disk.set_capacity(Some(disk.used() + 2 * bytes.len() + 1000));
    assert!(writer.step(Duration::ZERO, Instant::now, &mut |_, stamp| reached.push(stamp)));
    assert!(reached.is_empty() && !wal.is_writable(), "{reached:?}");
    let found = log::read(&shared, &log_name(1), |_, _| Ok(())).unwrap();
    assert_eq!((found.records, found.torn), (2, 0));
    assert_eq!(wal.condition().appended, 2 * bytes.len() as u64);
}

/// Full again while it resumes: in the new log's header, in the snapshot, or in the log beside it.
#[test]
fn a_disk_that_is_full_again_while_the_journal_resumes_loses_nothing() {
    for room in (0..40).chain((40..1_000).step_by(5)) {
        let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
        let mut process = Incarnation::start(&disk, Fsync::Always).unwrap();
        process.append(9, &mut promised);
        process.step(&mut promised).unwrap();
        disk.set_capacity(Some(disk.used()));
        process.append(2, &mut promised);
        process.step(&mut promised).unwrap();
        assert_eq!(promised.reached, 9);
        disk.set_capacity(Some(disk.used() + room));
        let resumed = process.write_snapshot(true, &mut promised);
        if let Err(error) = resumed {
            process.wal.resume_failed(process.wal.condition().generation, error);
            process.step(&mut promised).unwrap();
            assert_eq!((promised.reached, process.wal.is_writable()), (9, false), "room for {room}");
        }
        if process.wal.is_writable() {
            assert_eq!(promised.reached, process.last, "room for {room}");
        }
        check_start(&disk.copy(), promised.reached, &promised, Fsync::Always, &format!("room for {room}"));
        // Or without a start: the next attempt has space.
        disk.set_capacity(None);
        if !process.wal.is_writable() {
            process.write_snapshot(true, &mut promised).unwrap();
        }
        process.append(1, &mut promised);
        process.step(&mut promised).unwrap();
        assert_eq!((promised.reached, process.wal.is_writable()), (process.last, true), "room for {room}");
        check_start(&disk, promised.reached, &promised, Fsync::Always, &format!("resumed after room for {room}"));
    }
}

/// The one that is there is as good as before, and logs stay in a row.
#[test]
fn a_new_log_that_cannot_begin_takes_nothing_from_the_one_before() {
    let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
    let mut process = Incarnation::start(&disk, Fsync::Always).unwrap();
    for _ in 0..2 {
        disk.fail_creates(true);
        for _ in 0..2 {
            process.write_snapshot(false, &mut promised).expect_err("no file can be made");
            assert_eq!((promised.reached, process.wal.is_writable()), (process.last, true));
            let why = process.wal.condition().not_switched.expect("a reason");
            assert!(why.contains("a new log could not begin") && why.contains("no more files"), "{why}");
            check_start(&disk.copy(), promised.reached, &promised, Fsync::Always, "without a new log");
        }
        disk.fail_creates(false);
        process.write_snapshot(false, &mut promised).unwrap();
        assert_eq!((promised.reached, process.wal.condition().not_switched), (process.last, None));
    }
    disk.lose_power(|_| 0);
    check_start(&disk, promised.reached, &promised, Fsync::Always, "lost power");
}

/// Wherever in its header.
#[test]
fn a_new_log_that_finds_no_space_is_not_there_at_the_next_start() {
    for room in 0..12 {
        let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
        let mut process = Incarnation::start(&disk, Fsync::Always).unwrap();
        process.append(3, &mut promised);
        process.step(&mut promised).unwrap();
        let before = disk.used() + record(process.last + 1).len();
        disk.set_capacity(Some(before + room));
        process.write_snapshot(false, &mut promised).expect_err("no space");
        assert!(process.wal.condition().not_switched.is_some(), "room for {room}");
        assert_eq!(disk.names().unwrap(), [log_name(1)], "room for {room}");
        disk.set_capacity(None);
        check_start(&disk.copy(), promised.reached, &promised, Fsync::Always, &format!("room for {room}, restarted"));
        disk.lose_power(|there| there);
        check_start(&disk, promised.reached, &promised, Fsync::Always, &format!("room for {room}, lost power"));
    }
}

/// A log without its name is not found by a start. Where nothing waits for the disk, its name is
/// checked now and then.
#[test]
fn what_is_written_to_a_removed_log_is_not_reported() {
    for fsync in [Fsync::Always, Fsync::EverySecond, Fsync::Never] {
        let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
        let mut process = Incarnation::start(&disk, fsync).unwrap();
        process.append(3, &mut promised);
        process.step(&mut promised).unwrap();
        disk.remove(&log_name(1)).unwrap();
        if fsync != Fsync::Always {
            process.now += Duration::from_millis(500);
        }
        process.append(1, &mut promised);
        process.step(&mut promised).unwrap();
        assert_eq!((promised.reached, process.wal.is_writable()), (3, false), "{fsync}");
        let stopped = process.wal.condition().stopped.expect("a reason");
        assert!(stopped.is_resumable && stopped.sentence.contains("gone from the disk"), "{stopped:?}");
        process.write_snapshot(true, &mut promised).unwrap();
        assert_eq!((promised.reached, process.wal.is_writable()), (process.last, true), "{fsync}");
        disk.restart_process();
        check_start(&disk, promised.reached, &promised, fsync, "resumed");
    }
}

/// A start would refuse what is left. What a compaction removes itself is no such thing.
#[test]
fn a_removed_snapshot_or_older_log_is_noticed() {
    let takes_writes = |process: &mut Incarnation, promised: &mut Promised| {
        process.now += Duration::from_secs(1);
        process.append(1, promised);
        process.step(promised).unwrap();
        process.wal.is_writable()
    };
    let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
    let mut process = Incarnation::start(&disk, Fsync::Always).unwrap();
    for with_snapshot in [false, true] {
        assert!(takes_writes(&mut process, &mut promised));
        let generation = process.wal.switch(false);
        assert!(takes_writes(&mut process, &mut promised));
        let mut older = disk.names().unwrap();
        older.retain(|name| *name != log_name(generation));
        if with_snapshot {
            disk.create(&snapshot_name(generation)).unwrap();
        }
        older.iter().for_each(|name| disk.remove(name).unwrap());
        // The writer has not heard yet of a snapshot that is there.
        assert_eq!(takes_writes(&mut process, &mut promised), with_snapshot, "{older:?}");
        if with_snapshot {
            disk.remove(&snapshot_name(generation)).unwrap();
            assert!(!takes_writes(&mut process, &mut promised));
        }
        let sentence = process.wal.condition().stopped.expect("a reason").sentence;
        assert!(sentence.contains("gone from the disk") && sentence.contains("was removed"), "{sentence}");
        process.write_snapshot(true, &mut promised).unwrap();
        assert!(takes_writes(&mut process, &mut promised), "{:?}", disk.names());
        check_start(&disk.copy(), promised.reached, &promised, Fsync::Always, "resumed");
    }
    process.stop(&mut promised).unwrap();
    let mut process = Incarnation::start(&disk, Fsync::Always).unwrap();
    assert!(takes_writes(&mut process, &mut promised));
    disk.remove(&snapshot_name(process.wal.condition().generation)).unwrap();
    assert!(!takes_writes(&mut process, &mut promised), "after a start");
}

#[test]
fn after_a_failed_sync_nothing_is_reported_until_a_restart() {
    let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
    let mut process = Incarnation::start(&disk, Fsync::Always).unwrap();
    process.append(3, &mut promised);
    process.step(&mut promised).unwrap();
    disk.fail_syncs(true);
    process.append(2, &mut promised);
    process.step(&mut promised).unwrap();
    let stopped = process.wal.condition().stopped.expect("a reason");
    assert!(!stopped.is_resumable && stopped.sentence.contains("restart this node"), "{stopped:?}");
    // The next sync would report success for bytes that may be gone.
    disk.fail_syncs(false);
    let syncs = process.wal.condition().syncs;
    process.append(1, &mut promised);
    process.step(&mut promised).unwrap();
    assert_eq!((promised.reached, process.wal.is_writable()), (3, false));
    assert!(process.wal.await_durable(Duration::ZERO).is_err());
    process.stop(&mut promised).unwrap();
    assert_eq!(promised.reached, 3);
    let again = disk.copy();
    disk.lose_power(|_| 0);
    check_start(&disk, 3, &promised, Fsync::Always, "lost power");
    check_start(&again, 3, &promised, Fsync::Always, "restarted");
    assert_eq!(syncs, 1);
}

#[test]
fn everysec_syncs_once_a_second_never_does_not_and_a_clean_stop_always_does() {
    for fsync in [Fsync::EverySecond, Fsync::Never] {
        let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
        let mut process = Incarnation::start(&disk, fsync).unwrap();
        let (mut syncs, mut began) = (Vec::new(), process.now);
        began += Duration::from_millis(1);
        // A record each 100 ms for 3.5 s.
        for tenth in 0..35 {
            process.now = began + Duration::from_millis(100 * tenth);
            process.append(1, &mut promised);
            process.step(&mut promised).unwrap();
            syncs.push(process.wal.condition().syncs);
        }
        let wanted = if fsync == Fsync::EverySecond { 3 } else { 0 };
        assert_eq!(syncs.last(), Some(&wanted), "{fsync}: {syncs:?}");
        // No longer than a second after it was written, also when nothing follows.
        process.now += Duration::from_millis(1_000);
        process.step(&mut promised).unwrap();
        assert_eq!(process.wal.condition().syncs, if fsync == Fsync::EverySecond { 4 } else { 0 });
        process.append(2, &mut promised);
        process.stop(&mut promised).unwrap();
        disk.lose_power(|_| 0);
        check_start(&disk, promised.handed_over, &promised, fsync, &format!("{fsync}, stopped"));
    }
}

#[test]
fn who_waits_for_durability_has_it_whatever_the_configuration_says() {
    for fsync in [Fsync::Always, Fsync::EverySecond, Fsync::Never] {
        let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
        let mut process = Incarnation::start(&disk, fsync).unwrap();
        process.append(2, &mut promised);
        let wal = Arc::clone(&process.wal);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wal.await_durable(Duration::from_secs(30)));
            let deadline = Instant::now() + Duration::from_secs(30);
            while !waiting.is_finished() && Instant::now() < deadline {
                process.step(&mut promised).unwrap();
                std::thread::yield_now();
            }
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        disk.lose_power(|_| 0);
        check_start(&disk, 2, &promised, fsync, &fsync.to_string());
    }
}
