//! The scripted run: two clients write one key on both sides of a cut link, and the link heals.
//!
//! Only its delays are drawn from the seed. docs/reading-a-diagram.md explains its diagram, and a
//! test compares the run with that text.

use std::time::Duration;

use crate::simulation::clients::text;
use crate::simulation::history::Footprint;
use crate::simulation::{Simulator, SimulatorEvent};

/// The acts, each with its time in milliseconds since the run began.
pub const SCRIPT: [(u64, Act); 8] = [
    (3_000, Act::Connect(0)),
    (3_001, Act::Connect(1)),
    (3_200, Act::Cut { one: 0, other: 1, ms: 60 }),
    (3_210, Act::Put(0, "red")),
    (3_225, Act::Put(1, "blue")),
    (3_240, Act::Get(0)),
    (3_270, Act::Get(0)),
    (3_280, Act::Get(1)),
];

/// The one key that clients of the script write.
pub const KEY: &str = "color";

/// One line of the script. Clients and nodes are named by their index; client N is at node N.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Connect(usize),
    /// Nothing arrives between two nodes for this time.
    Cut {
        one: usize,
        other: usize,
        ms: u64,
    },
    Put(usize, &'static str),
    Get(usize),
}

impl Simulator<'_> {
    pub fn schedule_script(&mut self) {
        for (line, (ms, _)) in SCRIPT.iter().enumerate() {
            self.at(Duration::from_millis(*ms), SimulatorEvent::Script(line));
        }
    }

    pub fn act_out(&mut self, line: usize) {
        let client = match SCRIPT[line].1 {
            Act::Connect(client) => return self.connect(client),
            Act::Cut { one, other, ms } => {
                self.set_cut(one, other, self.now + Duration::from_millis(ms));
                return;
            }
            Act::Put(client, value) => {
                self.submit(client, client, vec![text(format!("PUT {KEY} {value}"), Footprint::write(&[KEY]))]);
                client
            }
            Act::Get(client) => {
                self.submit(client, client, vec![text(format!("GET {KEY}"), Footprint::read(KEY))]);
                client
            }
        };
        self.wake(client);
    }
}
