//! The end of a run: the mesh heals, the nodes are asked a last time and ended, and the history is
//! checked.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvmesh::data::clock::wall_ms;

use crate::checks::{self, Evidence, Verdict};
use crate::clients::Clients;
use crate::history::Tally;
use crate::kit::wait::poll_until as until;
use crate::nodes::NodeHandle;
use crate::past;
use crate::run::report::{FaultTally, Report};
use crate::run::{CLIENTS_TIMEOUT, CONVERGE_TIMEOUT, FOLD_LENGTH, INTERRUPTED, Run, THREADS_TIMEOUT};
use crate::schedule::FaultKind;
use crate::survey::{self, ProcessSize};

/// Keys that expire within this time are left out of digests, since the nodes are asked one after
/// the other.
const EXPIRES_SOON_MS: u64 = 10_000;
/// Fewest acknowledged writes a second of load, on any machine.
const ACKNOWLEDGED_MIN: u64 = 5;
/// Memory that a node may take at the end beside what it took when the load had just begun: this
/// much, and so many times the bytes of its entries. Allocators keep freed memory, dumps pass
/// through buffers, tombstones and maps have room to grow.
const MEMORY_SLACK_KIB: u64 = 64 << 10;
const MEMORY_FACTOR: u64 = 16;

/// Time in which all nodes have to give a dump.
const DUMPS_TIMEOUT: Duration = Duration::from_secs(5);

impl Run {
    /// Heals, checks and reports.
    pub(super) fn finish(
        mut self,
        hung: usize,
        clients: &Clients,
        load_took: Duration,
        before: &HashMap<u16, ProcessSize>,
        loaded: &HashMap<u16, ProcessSize>,
    ) -> Report {
        let ops = clients.shared.history.take();
        let mut ended = Verdict::new("every client ends");
        if clients.shared.history.is_full() {
            ended.looked_at = "before the end of the run, because the history was full".to_owned();
        }
        ended.require(hung == 0, || format!("{hung} clients have not ended after {CLIENTS_TIMEOUT:?}"));
        self.await_whole(self.within(CONVERGE_TIMEOUT));
        let equal = self.equal_digests();
        let sizes = self.sizes_return(before, loaded);
        let all = self.nodes.ids().len();
        let dumps = until(self.within(DUMPS_TIMEOUT), || match self.dumps(|_| true) {
            dumps if dumps.len() == all => Ok(dumps),
            fewer => Err(fewer),
        });
        let dumps = dumps.unwrap_or_else(|fewer| fewer);
        self.compare(&dumps);
        self.claims.require(dumps.len() == all, || format!("only {} nodes gave a dump at the end", dumps.len()));
        let entries: Vec<usize> = dumps.iter().map(|dump| dump.vector.len()).collect();
        self.few.looked_at = format!("{entries:?} entries in the version vectors at the end");
        for dump in &dumps {
            let held = past::held(dump);
            self.few.require(held == past::keys_len(all), || {
                format!("n{} holds {held} keys of before the run, of {}", dump.node, past::keys_len(all))
            });
        }
        if self.options.length >= FOLD_LENGTH {
            let is_few = entries.iter().all(|entries| *entries <= all * past::ENTRIES_LEFT);
            self.few.require(is_few, || format!("at most {} were expected", all * past::ENTRIES_LEFT));
        }
        let dumped_wall_ms = wall_ms();
        self.nodes.end();

        self.claims.looked_at = format!("{} claims of {} known versions", self.claimed, self.logs.with_universe(|universe| universe.len()));
        self.whole.looked_at = format!("{} times", self.converged.len());
        self.note_panics();
        let pauses = self.nodes.handles().iter().map(|node| (node.id, node.pauses.lock().clone())).collect();
        let evidence = Evidence {
            ops: &ops,
            by_key: Evidence::index(&ops),
            dumps: &dumps,
            dumped_wall_ms,
            losses: &self.losses,
            converged: &self.converged,
            starts: self.nodes.starts(),
            pauses: &pauses,
            quiet: &self.quiet,
        };
        let tally = Tally::of(&ops);
        let mut enough = Verdict::new("enough writes are acknowledged");
        let least = ACKNOWLEDGED_MIN * load_took.as_secs();
        enough.looked_at = format!("{} in {:.0} s", tally.done_writes, load_took.as_secs_f64());
        enough.require(tally.done_writes >= least, || format!("at least {least} were expected"));
        let mut verdicts = vec![self.whole, equal];
        verdicts.extend(checks::all(&evidence));
        verdicts.extend([
            self.claims,
            self.few,
            self.alive,
            self.closes,
            ended,
            sizes,
            self.phases.check(&ops),
            enough,
            effects(&self.tallies),
        ]);
        drop(evidence);
        Report {
            seed: self.options.seed,
            verdicts,
            tallies: self.tallies,
            tally,
            ops,
            was_interrupted: INTERRUPTED.load(Ordering::Relaxed),
        }
    }

    fn equal_digests(&mut self) -> Verdict {
        let mut verdict = Verdict::new("equal digests after healing");
        let nodes = self.nodes.handles();
        let equal = until(self.within(CONVERGE_TIMEOUT), || {
            let before_ms = wall_ms() + EXPIRES_SOON_MS;
            let look = |node: &NodeHandle| Ok::<_, String>((survey::vector(node)?, survey::digest(node, before_ms)?));
            let seen = nodes.iter().map(|node| look(node)).collect::<Result<Vec<_>, _>>()?;
            match seen.iter().find(|one| **one != seen[0]) {
                None => Ok(seen[0].1.clone()),
                Some(other) => Err(format!(
                    "the nodes differ: {} and {}, vectors {}",
                    seen[0].1,
                    other.1,
                    if seen[0].0 == other.0 { "equal" } else { "unequal" }
                )),
            }
        });
        match equal {
            Ok(digest) => verdict.looked_at = format!("{} nodes, {digest}", nodes.len()),
            Err(why) => verdict.fault(why),
        }
        for node in &nodes {
            let divergences = survey::status(node).map_or(0, |status| status.number("divergences"));
            verdict.require(divergences == 0, || format!("n{} has counted {divergences} divergences", node.id));
        }
        verdict
    }

    /// Checks that, without clients, the nodes have as many threads as before there were any, and
    /// no more memory than their data explains.
    fn sizes_return(&mut self, before: &HashMap<u16, ProcessSize>, loaded: &HashMap<u16, ProcessSize>) -> Verdict {
        let mut verdict = Verdict::new("memory and threads return");
        for node in self.nodes.handles() {
            let id = node.id;
            let (Some(quiet), Some(loaded)) = (before.get(&id), loaded.get(&id)) else {
                verdict.fault(format!("n{id} was never measured"));
                continue;
            };
            // Asked first, and the connection closed: it takes a thread.
            let entries_kib = survey::status(&node).map_or(0, |status| status.number("memory_bytes")) / 1024;
            let process_id = self.nodes.process_id(id).unwrap_or(-1);
            let returned = until(self.within(THREADS_TIMEOUT), || match survey::size(process_id)? {
                size if size.threads <= quiet.threads => Ok(size),
                size => Err(format!("n{id} has {} threads, and had {} before there were clients", size.threads, quiet.threads)),
            });
            match returned {
                Ok(size) => {
                    let most = loaded.resident_kib + MEMORY_SLACK_KIB + MEMORY_FACTOR * entries_kib;
                    verdict.require(size.resident_kib <= most, || {
                        format!("n{id} takes {} KiB, at most {most} are explained by {entries_kib} KiB of entries", size.resident_kib)
                    });
                    let looked_at = format!(
                        "n{id} {} threads (loaded {}), {} KiB (loaded {})",
                        size.threads, loaded.threads, size.resident_kib, loaded.resident_kib
                    );
                    verdict.looked_at =
                        if verdict.looked_at.is_empty() { looked_at } else { format!("{}, {looked_at}", verdict.looked_at) };
                }
                Err(why) => verdict.fault(why),
            }
        }
        verdict
    }

    fn note_panics(&mut self) {
        for id in self.nodes.ids() {
            self.nodes.log(id).lines().filter(|line| line.contains("panicked")).for_each(|line| self.alive.fault(format!("n{id}: {line}")));
        }
    }
}

fn effects(tallies: &BTreeMap<FaultKind, FaultTally>) -> Verdict {
    let mut verdict = Verdict::new("every fault has an effect");
    verdict.looked_at = format!("{} faults of {} kinds", tallies.values().map(|tally| tally.drawn).sum::<u64>(), tallies.len());
    for (kind, tally) in tallies {
        verdict.require(tally.without == 0, || format!("{} of {} times {kind} had none", tally.without, tally.drawn));
    }
    verdict.require(!tallies.is_empty(), || "no fault was drawn: the run is too short".to_owned());
    verdict
}
