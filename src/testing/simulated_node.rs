//! A node without threads and sockets, on a simulated disk. Whoever drives it takes the turns of
//! its threads: the simulator, kvcount, and tests of replication.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::config::Config;
use crate::data::clock::{Deadline, Now, Stamp};
use crate::data::entry::Update;
use crate::data::version::Origin;
use crate::replication::persistence::replay;
use crate::replication::replica::Replica;
use crate::replication::replicator::Replicator;
use crate::replication::submit::Submitted;
use crate::store::Store;
use crate::sync::unbounded::Receiver;
use crate::testing::simulated_disk::SimulatedDisk;
use crate::wal::Wal;
use crate::wal::disk::Disk;
use crate::wal::files::Files;
use crate::wal::writer::Writer;
use crate::wire::peer::Protocols;

/// The configuration of node `id` of the nodes 1 to `nodes`, with these fields beside. Panics
/// unless it is a good one.
pub fn config(id: u16, nodes: u16, fields: &Value) -> Config {
    let peers = (1..=nodes).filter(|peer| *peer != id);
    let peers: Vec<Value> = peers.map(|peer| json!({ "id": peer, "addr": format!("127.0.0.1:{}", 7100 + peer) })).collect();
    let mut config = json!({ "id": id, "client_addr": "127.0.0.1:0", "peer_addr": "127.0.0.1:0", "peers": peers });
    for (name, value) in fields.as_object().expect("fields of a configuration") {
        config[name] = value.clone();
    }
    Config::from_json(&config.to_string(), "a test").expect("a good configuration")
}

/// One incarnation of a node.
pub struct SimulatedNode {
    pub replica: Arc<Replica>,
    pub write_rx: Receiver<Submitted>,
    pub replicator: Arc<Replicator>,
    pub wal: Arc<Wal>,
    pub writer: Writer,
}

impl SimulatedNode {
    /// Begins an incarnation on what the disk holds, as node.rs does. `began` is what `now` is to
    /// the write-ahead log.
    pub fn start(
        config: Arc<Config>,
        store: Store,
        nonce: u64,
        protocols: Protocols,
        (now, began): (Now, Instant),
        disk: &SimulatedDisk,
    ) -> io::Result<SimulatedNode> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let files = Files::find(&*disk)?;
        let wal = Arc::new(Wal::new(Arc::clone(&disk), config.fsync, config.write_room, &files));
        let (replica, write_rx) = Replica::new(config, store, nonce, now, Some(Arc::clone(&wal)));
        let replica = Arc::new(replica.speaking(protocols));
        let replayed = replay::replay(&replica, &disk, &files, || false)?;
        let writer = Writer::open(Arc::clone(&wal), &files, replayed.older_len, &replayed.last, replayed.snapshot_len, began)?;
        replica.record_incarnation();
        replica.begin_recovery(now);
        let replicator = Arc::new(Replicator::new(replica.origin(), write_rx.clone()));
        Ok(SimulatedNode { replica, write_rx, replicator, wal, writer })
    }

    /// Takes a turn of the replicator.
    pub fn replicate(&self) {
        self.replicator.step(&self.replica);
    }

    /// Takes a turn of the write-ahead log. Returns how far it holds the writes of each origin
    /// then, where that has changed.
    pub fn log(&mut self) -> Vec<(Origin, Stamp)> {
        let mut reached = Vec::new();
        self.writer.step(Duration::ZERO, Instant::now, &mut |origin, upto| reached.push((origin, upto)));
        reached
    }
}

/// Does a session's part of a write; without a value it deletes. Panics unless the back-pressure
/// budget has room.
pub fn submit(replica: &Replica, key: &str, value: Option<&[u8]>, elapsed: Duration) -> Stamp {
    let update = value.map_or_else(|| Update::delete(key.as_bytes()), |value| Update::put(key.as_bytes(), value, None));
    let deadline = Deadline::within(Duration::ZERO);
    let written = replica.submit().write::<()>(key.as_bytes(), update.entry().size(), elapsed, &deadline, |_| Ok(update.clone()));
    written.expect("bytes of the budget")
}
