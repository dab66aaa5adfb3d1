//! Threads that hand records over to the log's thread, in many orders of their steps.

use super::*;
use crate::data::version::NodeId;
use crate::sync::thread;
use crate::testing::interleavings::{explore, finds};
use crate::testing::simulated_disk::SimulatedDisk;
use crate::wal::log::FoundLog;
use crate::wal::writer::Writer;
use crate::wire::frame::seal;

const FAR: Duration = Duration::from_secs(3_600);

fn origin(node: u16) -> Origin {
    Origin { node: NodeId(node), nonce: 1 }
}

fn append(wal: &Wal, node: u16, upto: u64) {
    let mut bytes = Vec::new();
    seal(&mut bytes, 1, |out| out.push(upto as u8));
    wal.append(QueuedRecords { bytes: Arc::new(bytes), reached: Some((origin(node), Stamp::from_bits(upto))), permit: None });
}

/// Two threads hand records over. One waits until its own are durable, the other for a new log to
/// begin. Then the log is closed.
fn records_are_handed_over() {
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::default());
    let wal = Arc::new(Wal::new(Arc::clone(&disk), Fsync::Always, 1 << 20, &Files::default()));
    let writer = Writer::open(Arc::clone(&wal), &Files::default(), 0, &FoundLog::default(), 0, Instant::now()).unwrap();
    let reached = parking_lot::Mutex::new(Vec::new());
    let upto = |node| reached.lock().iter().rev().find(|(of, _)| *of == origin(node)).map(|(_, upto): &(Origin, Stamp)| upto.to_bits());
    thread::scope(|scope| {
        let log = scope.spawn(|| writer.run(|origin, upto| reached.lock().push((origin, upto))));
        let first = scope.spawn(|| {
            append(&wal, 1, 1);
            append(&wal, 1, 2);
            wal.mark(5);
            assert_eq!(wal.await_durable(FAR), Ok(()));
            assert_eq!(upto(1), Some(2), "not durable");
        });
        let second = scope.spawn(|| {
            append(&wal, 2, 1);
            let generation = wal.switch(false);
            append(&wal, 2, 2);
            assert_eq!(wal.await_switch(generation, Instant::now() + FAR), Ok(()));
        });
        first.join().unwrap();
        second.join().unwrap();
        append(&wal, 3, 1);
        wal.close();
        log.join().unwrap();
    });
    assert_eq!((upto(1), upto(2), upto(3)), (Some(2), Some(2), Some(1)));
    assert_eq!(wal.durable_mark(), 5);
    assert!(!wal.has_waiting());
}

#[test]
fn no_record_waits_while_the_thread_of_the_log_sleeps() {
    explore(records_are_handed_over);
    finds(BrokenHandOver::QueueLetGo, "deadlock", records_are_handed_over);
    finds(BrokenHandOver::ClosingWakesNobody, "deadlock", records_are_handed_over);
}
