//! A disk that forgets, for tests: what was not synced is gone, or partly gone, after
//! [`SimulatedDisk::lose_power`]. It fails on request.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::wal::disk::{Disk, DiskFile};

/// A handle of the disk; its clones share it.
#[derive(Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    files: Vec<Content>,
    /// The names that programs see.
    names: BTreeMap<String, usize>,
    /// The names that a loss of power leaves for certain.
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync: a loss of power leaves any of them, in order.
    changes: Vec<Change>,
    /// Operations that changed something, so far.
    operations: u64,
    /// The operation at which the process dies: it fails, and an append has written half. From then
    /// on everything fails, and changes nothing.
    dies_at: Option<u64>,
    is_dead: bool,
    /// Bytes that the disk holds at most.
    capacity: Option<usize>,
    syncs_fail: bool,
    creates_fail: bool,
}

#[derive(Clone)]
enum Change {
    Created(String, usize),
    Renamed(String, String, usize),
    Removed(String),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Change::Created(name, file) => {
                names.insert(name.clone(), *file);
            }
            Change::Renamed(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Change::Removed(name) => {
                names.remove(name);
            }
        }
    }
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: usize,
    /// The content as of the last sync, if the file was cut since then.
    before_cut: Option<Vec<u8>>,
}

impl SimulatedDisk {
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Makes the process die at the operation of this number.
    pub fn die_at(&self, operation: u64) {
        self.0.lock().dies_at = Some(operation);
    }

    pub fn is_dead(&self) -> bool {
        self.0.lock().is_dead
    }

    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.0.lock().capacity = bytes;
    }

    /// Returns the bytes in all files.
    pub fn used(&self) -> usize {
        self.0.lock().used()
    }

    /// Returns whether it has no space, takes no new file, or fails to sync.
    pub fn fails(&self) -> bool {
        let state = self.0.lock();
        state.syncs_fail || state.creates_fail || state.capacity.is_some()
    }

    pub fn fail_syncs(&self, fail: bool) {
        self.0.lock().syncs_fail = fail;
    }

    /// Lets no file be created, as when no descriptor is left; what is open goes on.
    pub fn fail_creates(&self, fail: bool) {
        self.0.lock().creates_fail = fail;
    }

    /// Restarts the process: nothing is lost but what it had not written.
    pub fn restart_process(&self) {
        self.0.lock().revive();
    }

    /// Cuts the machine's power. Of each file's unsynced bytes, and of each change of a name, as
    /// much stays as `keep` says, given how much there is.
    pub fn lose_power(&self, mut keep: impl FnMut(usize) -> usize) {
        let mut state = self.0.lock();
        state.revive();
        let (mut names, changes) = (std::mem::take(&mut state.durable_names), std::mem::take(&mut state.changes));
        changes.iter().filter(|_| keep(1) == 1).for_each(|change| change.apply(&mut names));
        state.durable_names = names.clone();
        state.names = names;
        for content in &mut state.files {
            if let Some(before) = content.before_cut.take() {
                // Whether the cut had reached the disk is open.
                if keep(1) == 0 {
                    content.bytes = before;
                }
                content.synced = content.synced.min(content.bytes.len());
            }
            let unsynced = content.bytes.len() - content.synced;
            let kept = keep(unsynced).min(unsynced);
            content.bytes.truncate(content.synced + kept);
            content.synced = content.bytes.len();
        }
    }

    /// Changes the bytes of a file, durably.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock();
        let file = state.names[name];
        change(&mut state.files[file].bytes);
        state.files[file].synced = state.files[file].bytes.len();
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.0.lock();
        state.files[state.names[name]].bytes.clone()
    }

    /// Makes an independent copy, unsynced bytes and all: for another way to go on.
    pub fn fork(&self) -> SimulatedDisk {
        SimulatedDisk(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    /// Makes a copy of all that is there, as a backup of the directory would be.
    pub fn copy(&self) -> SimulatedDisk {
        let state = self.0.lock();
        let files =
            state.files.iter().map(|content| Content { bytes: content.bytes.clone(), synced: content.bytes.len(), before_cut: None });
        let copy = State { files: files.collect(), names: state.names.clone(), durable_names: state.names.clone(), ..State::default() };
        SimulatedDisk(Arc::new(Mutex::new(copy)))
    }
}

impl State {
    fn operate(&mut self) -> io::Result<()> {
        self.is_dead |= self.dies_at.is_some_and(|at| self.operations >= at);
        if self.is_dead {
            return Err(io::Error::other("the process is dead"));
        }
        self.operations += 1;
        Ok(())
    }

    fn used(&self) -> usize {
        self.names.values().map(|file| self.files[*file].bytes.len()).sum()
    }

    fn revive(&mut self) {
        self.dies_at = None;
        self.is_dead = false;
    }

    fn change_names(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.operate()?;
        if state.creates_fail {
            return Err(io::Error::other("no more files"));
        }
        let file = state.files.len();
        state.files.push(Content::default());
        state.change_names(Change::Created(name.to_owned(), file));
        Ok(Box::new(SimulatedFile { disk: self.clone(), file }))
    }

    fn append_to(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = self.0.lock().file(name)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), file }))
    }

    fn read(&self, name: &str) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let state = self.0.lock();
        let bytes = state.files[state.file(name)?].bytes.clone();
        let len = bytes.len() as u64;
        Ok((Box::new(io::Cursor::new(bytes)), len))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate()?;
        let file = state.file(from)?;
        state.change_names(Change::Renamed(from.to_owned(), to.to_owned(), file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate()?;
        state.file(name)?;
        state.change_names(Change::Removed(name.to_owned()));
        Ok(())
    }

    fn exists(&self, name: &str) -> bool {
        self.0.lock().names.contains_key(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate()?;
        state.durable_names = state.names.clone();
        state.changes.clear();
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        name.to_owned()
    }

    fn check(&self) -> io::Result<()> {
        Ok(())
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    file: usize,
}

impl DiskFile for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let was_dead = state.is_dead;
        if let Err(error) = state.operate() {
            if !was_dead {
                // Dies in the middle of the append.
                state.files[self.file].bytes.extend_from_slice(&bytes[..bytes.len() / 2]);
            }
            return Err(error);
        }
        let used = state.used();
        let fits = state.capacity.map_or(bytes.len(), |capacity| capacity.saturating_sub(used).min(bytes.len()));
        state.files[self.file].bytes.extend_from_slice(&bytes[..fits]);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.operate()?;
        if state.syncs_fail {
            return Err(io::Error::other("input/output error"));
        }
        let content = &mut state.files[self.file];
        content.synced = content.bytes.len();
        content.before_cut = None;
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.operate()?;
        let content = &mut state.files[self.file];
        if content.before_cut.is_none() {
            content.before_cut = Some(content.bytes[..content.synced].to_vec());
        }
        content.bytes.truncate(len as usize);
        content.synced = content.synced.min(len as usize);
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        let has_name = self.disk.0.lock().names.values().any(|file| *file == self.file);
        if has_name { Ok(()) } else { Err(io::Error::new(io::ErrorKind::NotFound, "the file was removed")) }
    }
}
