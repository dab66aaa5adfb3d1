//! Snapshots and resumptions that come too soon behind each other, or find no space.

use super::*;

/// RESUME right behind a compaction whose log ran full while its snapshot was finished.
#[test]
fn a_resume_behind_a_finished_compaction_acknowledges_nothing_before_its_snapshot() {
    let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
    let mut life = Life::start(&disk, Fsync::Always).unwrap();
    life.append(3, &mut promised);
    life.step(&mut promised).unwrap();
    // COMPACT: a new log.
    let generation = life.wal.switch(false);
    let vector: VersionVector = [(ORIGIN, Stamp::from_bits(life.last))].into_iter().collect();
    life.step(&mut promised).unwrap();
    let lines = dump_of(&life.store, vector);
    let shared = Arc::clone(life.wal.disk());
    let mut writer = SnapshotWriter::create(&*shared, generation).unwrap();
    writer.append(&lines).unwrap();
    // The log runs full meanwhile.
    disk.set_capacity(Some(disk.used()));
    life.append(1, &mut promised);
    life.step(&mut promised).unwrap();
    assert!(!life.wal.is_writable());
    // The snapshot is finished all the same, and frees space.
    disk.set_capacity(None);
    let len = writer.finish(None).unwrap();
    life.wal.snapshot_written(generation, len, Duration::ZERO);
    // RESUME, before the log's thread has had its turn.
    life.wal.switch(true);
    life.append(2, &mut promised);
    life.step(&mut promised).unwrap();
    // kill -9.
    disk.restart_process();
    let left = Life::start(&disk, Fsync::Always).unwrap().last;
    assert!(left >= promised.reached, "{} were acknowledged and {left} are left", promised.reached);
}

/// Two RESUMEs that both saw the log stopped: the second one's switch comes when the first is done, and the disk is full again right in front of it.
#[test]
fn a_late_resume_acknowledges_nothing_before_its_snapshot() {
    let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
    let mut life = Life::start(&disk, Fsync::Always).unwrap();
    life.append(1, &mut promised);
    life.step(&mut promised).unwrap();
    disk.set_capacity(Some(disk.used() + 100));
    life.append(1, &mut promised);
    life.wal.switch(true);
    life.append(1, &mut promised);
    life.step(&mut promised).unwrap();
    disk.restart_process();
    let left = Life::start(&disk, Fsync::Always).unwrap().last;
    assert!(left >= promised.reached, "{} were acknowledged and {left} are left", promised.reached);
}

fn compaction_that_fills_the_disk(free: usize) -> (SimulatedDisk, Life, Promised) {
    let (disk, mut promised) = (SimulatedDisk::default(), Promised::default());
    let mut life = Life::start(&disk, Fsync::Always).unwrap();
    life.append(400, &mut promised);
    life.step(&mut promised).unwrap();
    disk.set_capacity(Some(disk.used() + free));
    assert!(life.write_snapshot(false, &mut promised).is_err());
    (disk, life, promised)
}

#[test]
fn a_restart_helps_a_disk_that_a_given_up_snapshot_has_filled() {
    let (disk, mut life, mut promised) = compaction_that_fills_the_disk(20_000);
    // COMPACT again, by whoever asked.
    life.wal.switch(false);
    life.step(&mut promised).unwrap();
    // RESUME.
    life.wal.switch(true);
    life.step(&mut promised).unwrap();
    drop(life);
    disk.restart_process();
    Life::start(&disk, Fsync::Always).map(|life| life.last).unwrap();
}
