//! Which files there are, and which of them make up what this node knows.
//!
//! ```text
//! lock                       locked by the process that uses the directory
//! snapshot-0000000007.jsonl  everything up to the moment that log 7 began, in the dump format
//! log-0000000007             everything since
//! log-0000000008             and since then: a snapshot 8 is being written, or could not be
//! log-0000000009.resuming    after a full disk: counts only once snapshot 9 is there, because
//!                            writes are missing between it and log 8
//! snapshot.tmp               a snapshot being written: never read
//! *.discarded                what --discard-local-data put aside: never read
//! ```

use std::io;

use crate::wal::disk::Disk;

pub const SNAPSHOT_TMP: &str = "snapshot.tmp";

const RESUMING: &str = ".resuming";
const DISCARDED: &str = ".discarded";

pub fn log_name(generation: u64) -> String {
    format!("log-{generation:010}")
}

pub fn resuming_log_name(generation: u64) -> String {
    log_name(generation) + RESUMING
}

pub fn snapshot_name(generation: u64) -> String {
    format!("snapshot-{generation:010}.jsonl")
}

/// The files that a start reads, in this order, and those that it removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub snapshot: Option<u64>,
    /// Generations without a gap, from the snapshot's on, or from 1. Empty only in a new directory.
    pub logs: Vec<u64>,
    /// The first of the logs still has the name of one that is being resumed with.
    pub is_resuming: bool,
    /// Names of files that were superseded, or never finished.
    pub stale: Vec<String>,
}

impl Files {
    /// Looks at a directory and changes nothing. A log that is missing in the row is `InvalidData`:
    /// what it held was acknowledged.
    pub fn find(disk: &dyn Disk) -> io::Result<Files> {
        let names = disk.names()?;
        let (mut snapshots, mut logs, mut resuming, mut files) = (Vec::new(), Vec::new(), Vec::new(), Files::default());
        for name in names {
            match parse(&name) {
                Some(FileKind::Snapshot(generation)) => snapshots.push(generation),
                Some(FileKind::Log(generation)) => logs.push(generation),
                Some(FileKind::Resuming(generation)) => resuming.push(generation),
                Some(FileKind::Tmp) => files.stale.push(name),
                None => {}
            }
        }
        files.snapshot = snapshots.iter().copied().max();
        if files.snapshot.is_none() && logs.iter().all(|generation| *generation != 1) {
            // In a new directory there is nothing; and later there is one of the two.
            let named = logs.iter().chain(&resuming).copied().min().or_else(|| (!files.stale.is_empty()).then_some(1));
            if let Some(generation) = named {
                let (snapshot, log) = (disk.path(&snapshot_name(generation)), disk.path(&log_name(1)));
                return Err(missing(&format!("{snapshot} or {log}")));
            }
        }
        let first = files.snapshot.unwrap_or(1);
        files.stale.extend(snapshots.iter().filter(|generation| **generation < first).map(|generation| snapshot_name(*generation)));
        files.stale.extend(logs.iter().filter(|generation| **generation < first).map(|generation| log_name(*generation)));
        logs.retain(|generation| *generation >= first);
        for generation in resuming {
            files.is_resuming |= files.snapshot == Some(generation) && !logs.contains(&generation);
            if files.snapshot != Some(generation) || logs.contains(&generation) {
                files.stale.push(resuming_log_name(generation));
            } else {
                logs.push(generation);
            }
        }
        logs.sort();
        let expected: Vec<u64> = (first..).take(logs.len().max(usize::from(files.snapshot.is_some()))).collect();
        if let Some(missing) = expected.into_iter().find(|generation| !logs.contains(generation)) {
            return Err(self::missing(&disk.path(&log_name(missing))));
        }
        files.logs = logs;
        files.stale.sort();
        Ok(files)
    }

    /// Returns whether there is neither a snapshot nor a log.
    pub fn is_blank(&self) -> bool {
        self.snapshot.is_none() && self.logs.is_empty()
    }

    /// Returns the name of one of the logs.
    pub fn log_name(&self, generation: u64) -> String {
        if self.is_resuming && self.logs.first() == Some(&generation) { resuming_log_name(generation) } else { log_name(generation) }
    }
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is missing, and later files are there"))
}

/// Removes what a finished snapshot supersedes, and whatever else is stale. Names are made durable
/// by a later sync, or are found stale again.
pub fn remove_stale(disk: &dyn Disk) -> io::Result<()> {
    for name in Files::find(disk)?.stale {
        disk.remove(&name)?;
    }
    Ok(())
}

/// Renames everything, so that the node comes back blank. Returns how many files that were.
pub fn discard(disk: &dyn Disk) -> io::Result<usize> {
    let mut discarded = 0;
    for name in disk.names()? {
        if parse(&name).is_some() {
            disk.rename(&name, &format!("{name}{DISCARDED}"))?;
            discarded += 1;
        }
    }
    disk.sync_names()?;
    Ok(discarded)
}

enum FileKind {
    Snapshot(u64),
    Log(u64),
    Resuming(u64),
    Tmp,
}

fn parse(name: &str) -> Option<FileKind> {
    if name == SNAPSHOT_TMP {
        return Some(FileKind::Tmp);
    }
    let number = |text: &str| text.parse::<u64>().ok().filter(|generation| *generation > 0 && text.len() >= 10);
    if let Some(rest) = name.strip_prefix("snapshot-") {
        return rest.strip_suffix(".jsonl").and_then(number).map(FileKind::Snapshot);
    }
    let rest = name.strip_prefix("log-")?;
    match rest.strip_suffix(RESUMING) {
        Some(rest) => number(rest).map(FileKind::Resuming),
        None => number(rest).map(FileKind::Log),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::simulated_disk::SimulatedDisk;

    fn find(names: &[&str]) -> io::Result<Files> {
        let disk = SimulatedDisk::default();
        for name in names {
            disk.create(name).unwrap();
        }
        Files::find(&disk)
    }

    #[test]
    fn a_new_directory_holds_nothing() {
        assert_eq!(find(&["lock", "notes.txt", "log-x", "log-0000000001.discarded"]).unwrap(), Files::default());
    }

    #[test]
    fn the_last_snapshot_and_all_logs_since_count() {
        let found = find(&[
            "snapshot-0000000003.jsonl",
            "snapshot-0000000002.jsonl",
            "log-0000000002",
            "log-0000000003",
            "log-0000000004",
            "snapshot.tmp",
        ]);
        let stale = vec!["log-0000000002".to_owned(), "snapshot-0000000002.jsonl".to_owned(), "snapshot.tmp".to_owned()];
        assert_eq!(found.unwrap(), Files { snapshot: Some(3), logs: vec![3, 4], is_resuming: false, stale });
    }

    #[test]
    fn a_log_to_resume_with_counts_only_with_its_snapshot() {
        let files = find(&["log-0000000001", "log-0000000002.resuming"]).unwrap();
        assert_eq!((files.logs.as_slice(), files.stale.len()), (&[1][..], 1));
        let files = find(&["log-0000000001", "log-0000000002.resuming", "snapshot-0000000002.jsonl"]).unwrap();
        assert_eq!((files.logs.as_slice(), files.log_name(2)), (&[2][..], "log-0000000002.resuming".to_owned()));
        assert_eq!(files.stale, ["log-0000000001"]);
    }

    #[test]
    fn a_missing_log_is_not_passed_over() {
        for names in [
            &["snapshot-0000000003.jsonl", "log-0000000004"][..],
            &["log-0000000001", "log-0000000003"],
            &["log-0000000002"],
            &["snapshot-0000000001.jsonl"],
            &["log-0000000002.resuming"],
            &["snapshot.tmp"],
        ] {
            assert_eq!(find(names).unwrap_err().kind(), io::ErrorKind::InvalidData, "{names:?}");
        }
    }
}
