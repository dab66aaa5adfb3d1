//! The entries of a shard in the order of their positions.
//!
//! A sorted array, cut into cells by the uppermost bits of the position; as positions are those of a hash, the cells fill evenly, and where in its cell an entry lies can be guessed. Beside the
//! entries lie their positions, so that only the entry that is looked for is touched, also when cells are cut in two: a table that grows moves numbers and pointers, and
//! hashes nothing.

use crate::data::entry::Entry;

/// More entries in a cell on average, and every cell is cut in two.
const SPLIT_LEN: usize = 256;
/// Fewer, and each two cells become one.
const JOIN_LEN: usize = 32;

/// See above. Positions are the lower 32 bits of those of [`OrderKey::position`](crate::data::key_order::OrderKey::position).
pub struct Cells {
    /// Invariant: a power of two of them, each with the positions that begin with the bits of its number.
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

/// Where an entry lies, or would lie.
#[derive(Clone, Copy)]
pub struct Place {
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

    /// In rising order of positions.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.cells.iter().flat_map(|cell| &cell.entries)
    }

    pub fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.cells.into_iter().flat_map(|cell| cell.entries)
    }

    /// From this position on, with the positions.
    pub fn iter_from(&self, position: u32) -> impl Iterator<Item = (u32, &Entry)> {
        let first = self.cell_of(position);
        let skipped = self.cells[first].lower_bound(position, self.depth());
        let all = self.cells[first..].iter().flat_map(|cell| cell.positions.iter().copied().zip(&cell.entries));
        all.skip(skipped)
    }

    /// The one with so many in front of it.
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

    pub fn find_mut(&mut self, position: u32, key: &[u8]) -> Option<&mut Entry> {
        self.at_mut(self.place(position, key))
    }

    /// Where a key lies, or where it would have to be put.
    pub fn place(&self, position: u32, key: &[u8]) -> Place {
        let cell = self.cell_of(position);
        let found = self.cells[cell].search(position, key, self.depth());
        let (Ok(at) | Err(at)) = found;
        Place { cell, at, is_taken: found.is_ok() }
    }

    pub fn at(&self, place: Place) -> Option<&Entry> {
        place.is_taken.then(|| &self.cells[place.cell].entries[place.at])
    }

    pub fn at_mut(&mut self, place: Place) -> Option<&mut Entry> {
        place.is_taken.then(|| &mut self.cells[place.cell].entries[place.at])
    }

    /// Where nothing lies yet. No place is valid after that.
    pub fn insert(&mut self, place: Place, position: u32, entry: Entry) {
        debug_assert!(!place.is_taken);
        let cell = &mut self.cells[place.cell];
        cell.make_room();
        cell.positions.insert(place.at, position);
        cell.entries.insert(place.at, entry);
        self.len += 1;
        if self.len > SPLIT_LEN * self.cells.len() {
            self.split();
        }
    }

    /// No place is valid after that.
    pub fn remove(&mut self, place: Place) -> Option<Entry> {
        if !place.is_taken {
            return None;
        }
        let cell = &mut self.cells[place.cell];
        cell.positions.remove(place.at);
        let entry = cell.entries.remove(place.at);
        self.len -= 1;
        self.join();
        Some(entry)
    }

    /// Takes the entries out that `which` picks.
    pub fn extract(&mut self, mut which: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let mut extracted = Vec::new();
        for cell in &mut self.cells {
            let picked: Vec<bool> = cell.entries.iter().map(&mut which).collect();
            if picked.contains(&true) {
                let mut picks = picked.iter();
                cell.positions.retain(|_| picks.next() == Some(&false));
                let mut picks = picked.iter();
                extracted.extend(cell.entries.extract_if(.., |_| picks.next() == Some(&true)));
                cell.give_back();
            }
        }
        self.len -= extracted.len();
        self.join();
        extracted
    }

    /// Bits that the number of a cell has.
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
            lower.give_back();
            upper.give_back();
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
    /// Where a key lies, or behind which others of its position it would have to be put.
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

    /// The first place whose position is not lower. From where it would be if positions were spread evenly, it is a few steps; from elsewhere, more.
    fn lower_bound(&self, position: u32, depth: u32) -> usize {
        let within = u64::from(((u64::from(position)) << depth) as u32);
        let guess = ((within * self.positions.len() as u64) >> u32::BITS) as usize;
        let (before, behind) = self.positions.split_at(guess);
        match before.iter().rev().take_while(|other| **other >= position).count() {
            0 => guess + behind.iter().take_while(|other| **other < position).count(),
            back => guess - back,
        }
    }

    /// For one more. Cells are many and small: what is spare in each is a part of what every key takes.
    fn make_room(&mut self) {
        let len = self.entries.len();
        if len == self.entries.capacity() {
            self.entries.reserve_exact(spare(len));
            self.positions.reserve_exact(spare(len));
        }
    }

    fn give_back(&mut self) {
        let wanted = self.entries.len() + spare(self.entries.len());
        self.entries.shrink_to(wanted);
        self.positions.shrink_to(wanted);
    }
}

fn spare(len: usize) -> usize {
    4 + len / 8
}
