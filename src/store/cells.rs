//! The entries of a shard, in the order of their positions.
//!
//! A sorted array, cut into cells by the uppermost bits of the position. Positions are those of a
//! hash, so the cells fill evenly, and the index of an entry in its cell can be guessed. Beside the
//! entries lie their positions, so that only the entry that is looked for is touched. That holds
//! also when cells are split: a table that grows moves numbers and pointers, and hashes nothing.

use prefetch_index::prefetch_index;

use crate::data::entry::Entry;

/// Entries in a cell on average. Beyond this, every cell is split in two.
const SPLIT_LEN: usize = 256;
/// Entries in a cell on average. Below this, each two cells become one.
const JOIN_LEN: usize = 32;

/// Entries that a scan asks for ahead.
const SCANNED_AHEAD: usize = 8;

/// A sorted table of entries. Positions are the lower 32 bits of those of
/// [`OrderKey::position`](crate::data::key_order::OrderKey::position).
pub struct Cells {
    /// Invariant: a power of two of them, each with the positions that begin with the bits of its
    /// number.
    cells: Vec<Cell>,
    /// Invariant: the number of entries in `cells`.
    len: usize,
}

#[derive(Default)]
struct Cell {
    /// Invariant: rising, and as many as `entries`.
    positions: Vec<u32>,
    entries: Vec<Entry>,
}

/// The index at which an entry lies, or at which it would have to be inserted.
#[derive(Clone, Copy)]
pub struct CellIndex {
    cell: usize,
    at: usize,
    is_taken: bool,
}

impl Default for Cells {
    fn default() -> Cells {
        Cells { cells: vec![Cell::default()], len: 0 }
    }
}

impl Cells {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns all entries, in rising order of their positions.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.cells.iter().flat_map(Cell::scan)
    }

    pub fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.cells.into_iter().flat_map(|cell| cell.entries)
    }

    /// Returns the entries from this position on, with their positions.
    pub fn iter_from(&self, position: u32) -> impl Iterator<Item = (u32, &Entry)> {
        let first = self.cell_of(position);
        let skipped = self.cells[first].lower_bound(position, self.depth());
        let all = self.cells[first..].iter().flat_map(|cell| cell.positions.iter().copied().zip(&cell.entries));
        all.skip(skipped)
    }

    /// Returns the entry with so many others in front of it.
    pub fn nth(&self, mut index: usize) -> Option<&Entry> {
        for cell in &self.cells {
            match cell.entries.get(index) {
                Some(entry) => return Some(entry),
                None => index -= cell.entries.len(),
            }
        }
        None
    }

    pub fn find(&self, position: u32, key: &[u8]) -> Option<&Entry> {
        let cell = &self.cells[self.cell_of(position)];
        cell.search(position, key, self.depth()).ok().map(|at| &cell.entries[at])
    }

    /// Returns the entries that lie at a position.
    pub fn at_position_mut(&mut self, position: u32) -> &mut [Entry] {
        let (depth, number) = (self.depth(), self.cell_of(position));
        let cell = &mut self.cells[number];
        let first = cell.lower_bound(position, depth);
        let len = cell.positions[first..].iter().take_while(|other| **other == position).count();
        &mut cell.entries[first..first + len]
    }

    /// Asks the processor for the part of the table in which a position is looked for.
    #[inline]
    pub fn prefetch_slot(&self, position: u32) {
        let cell = &self.cells[self.cell_of(position)];
        let guess = cell.guess(position, self.depth());
        prefetch_index(&cell.positions, guess);
        prefetch_index(&cell.entries, guess);
    }

    /// Asks for the first entry that lies at a position: nearly always there is no other.
    #[inline]
    pub fn prefetch_entry(&self, position: u32) {
        let cell = &self.cells[self.cell_of(position)];
        if let Some(entry) = cell.entries.get(cell.lower_bound(position, self.depth())) {
            entry.prefetch();
        }
    }

    /// Returns where a key lies, or would have to be inserted.
    pub fn locate(&self, position: u32, key: &[u8]) -> CellIndex {
        let cell = self.cell_of(position);
        let found = self.cells[cell].search(position, key, self.depth());
        let (Ok(at) | Err(at)) = found;
        CellIndex { cell, at, is_taken: found.is_ok() }
    }

    pub fn at(&self, index: CellIndex) -> Option<&Entry> {
        index.is_taken.then(|| &self.cells[index.cell].entries[index.at])
    }

    pub fn at_mut(&mut self, index: CellIndex) -> Option<&mut Entry> {
        index.is_taken.then(|| &mut self.cells[index.cell].entries[index.at])
    }

    /// Inserts an entry where none lies yet. Every [`CellIndex`] is invalid after that.
    pub fn insert(&mut self, index: CellIndex, position: u32, entry: Entry) {
        debug_assert!(!index.is_taken);
        let cell = &mut self.cells[index.cell];
        cell.make_room();
        cell.positions.insert(index.at, position);
        cell.entries.insert(index.at, entry);
        self.len += 1;
        if self.len > SPLIT_LEN * self.cells.len() {
            self.split();
        }
    }

    /// Removes the entry, if one lies there. Every [`CellIndex`] is invalid after that.
    pub fn remove(&mut self, index: CellIndex) -> Option<Entry> {
        if !index.is_taken {
            return None;
        }
        let cell = &mut self.cells[index.cell];
        cell.positions.remove(index.at);
        let entry = cell.entries.remove(index.at);
        self.len -= 1;
        self.join();
        Some(entry)
    }

    /// Removes the entries that `which` picks, and returns them with their positions.
    pub fn extract(&mut self, mut which: impl FnMut(&Entry) -> bool) -> Vec<(u32, Entry)> {
        let mut extracted = Vec::new();
        for cell in &mut self.cells {
            let picked: Vec<bool> = cell.scan().map(&mut which).collect();
            if picked.contains(&true) {
                let [mut of_positions, mut of_entries] = [picked.iter(), picked.iter()];
                let positions = cell.positions.extract_if(.., |_| of_positions.next() == Some(&true));
                let entries = cell.entries.extract_if(.., |_| of_entries.next() == Some(&true));
                extracted.extend(positions.zip(entries));
                cell.shrink();
            }
        }
        self.len -= extracted.len();
        self.join();
        extracted
    }

    /// Returns how many bits the number of a cell has.
    fn depth(&self) -> u32 {
        self.cells.len().trailing_zeros()
    }

    fn cell_of(&self, position: u32) -> usize {
        (u64::from(position) >> (u32::BITS - self.depth())) as usize
    }

    fn split(&mut self) {
        let half = 1 << (u32::BITS - 1 - self.depth());
        let cells = std::mem::take(&mut self.cells);
        self.cells.reserve_exact(2 * cells.len());
        for mut lower in cells {
            let middle = lower.positions.partition_point(|position| position & half == 0);
            let mut upper = Cell { positions: lower.positions.split_off(middle), entries: lower.entries.split_off(middle) };
            lower.shrink();
            upper.shrink();
            self.cells.extend([lower, upper]);
        }
    }

    fn join(&mut self) {
        while self.cells.len() > 1 && self.len < JOIN_LEN * self.cells.len() {
            let mut cells = std::mem::take(&mut self.cells).into_iter();
            while let (Some(mut lower), Some(mut upper)) = (cells.next(), cells.next()) {
                lower.positions.append(&mut upper.positions);
                lower.entries.append(&mut upper.entries);
                self.cells.push(lower);
            }
            self.cells.shrink_to_fit();
        }
    }
}

impl Cell {
    /// Returns all entries, and asks for the memory of those that follow. They lie anywhere, so
    /// each would be waited for.
    fn scan(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().enumerate().map(|(at, entry)| {
            if let Some(later) = self.entries.get(at + SCANNED_AHEAD) {
                later.prefetch();
            }
            entry
        })
    }

    /// Returns the index of a key, or the one behind all others of its position.
    fn search(&self, position: u32, key: &[u8], depth: u32) -> Result<usize, usize> {
        let mut at = self.lower_bound(position, depth);
        while self.positions.get(at) == Some(&position) {
            if self.entries[at].key() == key {
                return Ok(at);
            }
            at += 1;
        }
        Err(at)
    }

    /// Returns the index at which a position would be if all were spread evenly.
    fn guess(&self, position: u32, depth: u32) -> usize {
        let within = u64::from(((u64::from(position)) << depth) as u32);
        ((within * self.positions.len() as u64) >> u32::BITS) as usize
    }

    /// Returns the first index whose position is not lower. From where it would be if positions
    /// were spread evenly, it is a few steps; from elsewhere, more.
    fn lower_bound(&self, position: u32, depth: u32) -> usize {
        let guess = self.guess(position, depth);
        let (before, behind) = self.positions.split_at(guess);
        match before.iter().rev().take_while(|other| **other >= position).count() {
            0 => guess + behind.iter().take_while(|other| **other < position).count(),
            back => guess - back,
        }
    }

    /// Makes room for one more entry. Cells are many and small: what is spare in each is a part of
    /// what every key takes.
    fn make_room(&mut self) {
        let len = self.entries.len();
        if len == self.entries.capacity() {
            self.entries.reserve_exact(spare(len));
            self.positions.reserve_exact(spare(len));
        }
    }

    fn shrink(&mut self) {
        let wanted = self.entries.len() + spare(self.entries.len());
        self.entries.shrink_to(wanted);
        self.positions.shrink_to(wanted);
    }
}

fn spare(len: usize) -> usize {
    4 + len / 8
}
