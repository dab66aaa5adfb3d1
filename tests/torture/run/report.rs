//! The report of a run: operations, faults and checks, each with its name, and the verdict.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::checks::Verdict;
use crate::history::{self, Op, Tally};
use crate::schedule::FaultKind;

/// The faults of one kind.
pub struct FaultTally {
    pub drawn: u64,
    /// Effects observed of all of them together.
    effects: u64,
    /// The unit of `effects`.
    noun: &'static str,
    /// Faults of which no effect was observed.
    pub without: u64,
}

impl FaultTally {
    pub fn new(noun: &'static str) -> FaultTally {
        FaultTally { drawn: 0, effects: 0, noun, without: 0 }
    }

    pub fn add(&mut self, effect: u64) {
        self.drawn += 1;
        self.effects += effect;
        self.without += u64::from(effect == 0);
    }
}

pub struct Report {
    pub seed: u64,
    pub verdicts: Vec<Verdict>,
    pub tallies: BTreeMap<FaultKind, FaultTally>,
    pub tally: Tally,
    pub ops: Vec<Op>,
    pub was_interrupted: bool,
}

impl Report {
    pub fn holds(&self) -> bool {
        !self.was_interrupted && self.verdicts.iter().all(Verdict::holds)
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Tally { done_writes, done_reads, refused, unknown } = &self.tally;
        writeln!(out, "operations")?;
        writeln!(out, "  done     {} ({done_writes} writes, {done_reads} reads)", done_writes + done_reads)?;
        writeln!(out, "  refused  {}", in_words(refused))?;
        writeln!(out, "  unknown  {}", in_words(unknown))?;
        writeln!(out, "faults")?;
        for (kind, FaultTally { drawn, effects, noun, .. }) in &self.tallies {
            writeln!(out, "  {kind:<12} drawn {drawn}, {effects} {noun}")?;
        }
        if self.was_interrupted {
            // The mesh had not healed by then, so a check proves nothing.
            return writeln!(out, "interrupted: nothing is checked");
        }
        writeln!(out, "checks")?;
        for verdict in &self.verdicts {
            let colon = if verdict.looked_at.is_empty() { "" } else { ": " };
            writeln!(out, "  {:<6} {}{colon}{}", if verdict.holds() { "ok" } else { "FAILED" }, verdict.name, verdict.looked_at)?;
            verdict.faults().iter().try_for_each(|fault| writeln!(out, "         {fault}"))?;
        }
        Ok(())
    }

    pub fn verdict(&self) -> String {
        let failed: Vec<&str> = self.verdicts.iter().filter(|verdict| !verdict.holds()).map(|verdict| verdict.name).collect();
        match (self.was_interrupted, failed.is_empty()) {
            (true, _) => format!("verdict: INTERRUPTED, seed {}", self.seed),
            (false, true) => format!("verdict: PASSED, seed {}", self.seed),
            (false, false) => format!("verdict: FAILED, seed {}: {}", self.seed, failed.join("; ")),
        }
    }

    /// Saves what a failure is explained with, beside the logs and the data of the nodes: the
    /// report and the history.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let mut report = File::create(dir.join("report.txt"))?;
        self.write(&mut report)?;
        writeln!(report, "{}", self.verdict())?;
        let mut out = BufWriter::new(File::create(dir.join("history.jsonl"))?);
        history::write(&self.ops, &mut out)?;
        out.flush()
    }
}

/// The sum of these counts, and its parts by name.
fn in_words(counts: &HashMap<&'static str, u64>) -> String {
    let mut parts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    parts.sort();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    format!("{}{parts}", counts.values().sum::<u64>())
}
