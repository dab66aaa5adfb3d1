//! Snapshots and resumptions that come too soon behind each other, or find no space.

use super::*;

/// RESUME right behind a compaction whose log ran full while its snapshot was finished.
#[test]
fn a_resume_behind_a_finished_compaction_acknowledges_nothing_before_its_snapshot() {
    let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
    let mut process = Incarnation::start(&disk, Fsync::Always).unwrap();
    process.append(3, &mut promised);
    process.step(&mut promised).unwrap();
    // COMPACT: a new log.
    let generation = process.wal.switch(false);
    let vector: VersionVector = [(ORIGIN, Stamp::from_bits(process.last))].into_iter().collect();
    process.step(&mut promised).unwrap();
    let lines = dump_of(&process.store, vector);
    let shared = Arc::clone(process.wal.disk());
    let mut writer = SnapshotWriter::create(&*shared, generation).unwrap();
    writer.append(&lines).unwrap();
    // The log runs full meanwhile.
    disk.set_capacity(Some(disk.used()));
    process.append(1, &mut promised);
    process.step(&mut promised).unwrap();
    assert!(!process.wal.is_writable());
    // The snapshot is finished all the same, and frees space.
    disk.set_capacity(None);
    let len = writer.finish(None).unwrap();
    process.wal.snapshot_written(generation, len, Duration::ZERO);
    // RESUME, before the log's thread has had its turn.
    process.wal.switch(true);
    process.append(2, &mut promised);
    process.step(&mut promised).unwrap();
    // kill -9.
    disk.restart_process();
    let left = Incarnation::start(&disk, Fsync::Always).unwrap().last;
    assert!(left >= promised.reached, "{} were acknowledged and {left} are left", promised.reached);
}

/// Two RESUMEs that both saw the log stopped: the second one's switch comes when the first is done,
/// and the disk is full again right in front of it.
#[test]
fn a_late_resume_acknowledges_nothing_before_its_snapshot() {
    let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
    let mut process = Incarnation::start(&disk, Fsync::Always).unwrap();
    process.append(1, &mut promised);
    process.step(&mut promised).unwrap();
    disk.set_capacity(Some(disk.used() + 100));
    process.append(1, &mut promised);
    process.wal.switch(true);
    process.append(1, &mut promised);
    process.step(&mut promised).unwrap();
    disk.restart_process();
    let left = Incarnation::start(&disk, Fsync::Always).unwrap().last;
    assert!(left >= promised.reached, "{} were acknowledged and {left} are left", promised.reached);
}

fn compaction_that_fills_the_disk(free: usize) -> (SimulatedDisk, Incarnation, Promised) {
    let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
    let mut process = Incarnation::start(&disk, Fsync::Always).unwrap();
    process.append(400, &mut promised);
    process.step(&mut promised).unwrap();
    disk.set_capacity(Some(disk.used() + free));
    assert!(process.write_snapshot(false, &mut promised).is_err());
    (disk, process, promised)
}

#[test]
fn a_restart_helps_a_disk_that_a_given_up_snapshot_has_filled() {
    let (disk, mut process, mut promised) = compaction_that_fills_the_disk(20_000);
    // COMPACT again, by whoever asked.
    process.wal.switch(false);
    process.step(&mut promised).unwrap();
    // RESUME.
    process.wal.switch(true);
    process.step(&mut promised).unwrap();
    drop(process);
    disk.restart_process();
    Incarnation::start(&disk, Fsync::Always).map(|process| process.last).unwrap();
}
