//! A log and a snapshot with every bit of them wrong, and cut at every byte.

use super::*;
use crate::wal::files::{log_name, snapshot_name};
use crate::wal::log::{HEADER_LEN, LogFile};

/// A log of the records 1 to `count`, and where each begins, and the end.
fn log_of(count: u64) -> (SimulatedDisk, String, Vec<usize>) {
    let (disk, name) = (SimulatedDisk::default(), log_name(1));
    let mut file = LogFile::create(&disk, &name).unwrap();
    let mut bounds = vec![HEADER_LEN as usize];
    for number in 1..=count {
        file.append(&record(number)).unwrap();
        bounds.push(file.whole_len() as usize);
    }
    file.sync().unwrap();
    (disk, name, bounds)
}

/// Reads it, and checks that what is returned are the first records as they were written.
fn read(disk: &SimulatedDisk, name: &str) -> io::Result<FoundLog> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut number = 0;
    let found = log::read(&shared, name, |body, _| {
        number += 1;
        assert_eq!(body, &record(number)[HEAD_LEN..], "record {number} was changed");
        Ok(())
    })?;
    assert_eq!(found.records, number);
    Ok(found)
}

fn with_change(disk: &SimulatedDisk, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> SimulatedDisk {
    let changed = disk.copy();
    changed.change(name, change);
    changed
}

fn assert_refused(result: io::Result<impl std::fmt::Debug>, name: &str, offset: Option<usize>, what: &str) {
    let error = result.expect_err(what);
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
    let said = error.to_string();
    let at = offset.map_or("at byte ".to_owned(), |offset| format!("at byte {offset} "));
    assert!(said.contains(name) && said.contains(&at), "{what}: \"{said}\" does not say {name} and \"{at}\"");
}

#[test]
fn a_log_cut_anywhere_ends_with_its_last_whole_record_and_goes_on_from_there() {
    let (disk, name, bounds) = log_of(8);
    let len = *bounds.last().unwrap();
    for cut in (0..=HEADER_LEN as usize).chain(bounds[5]..=len) {
        let cut_off = with_change(&disk, &name, |bytes| bytes.truncate(cut));
        let found = read(&cut_off, &name).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let whole = bounds.iter().rposition(|bound| *bound <= cut).map_or(0, |records| records as u64);
        let good = if cut < HEADER_LEN as usize { 0 } else { bounds[whole as usize] };
        assert_eq!(found, FoundLog { records: whole, len: good as u64, torn: (cut - good) as u64 }, "cut at {cut}");
        // What follows is found again behind what was left.
        let mut file = LogFile::resume(&cut_off, &name, &found).unwrap();
        file.append(&record(whole + 1)).unwrap();
        assert_eq!(read(&cut_off, &name).unwrap(), FoundLog { records: whole + 1, len: file.whole_len(), torn: 0 }, "cut at {cut}");
    }
}

#[test]
fn every_wrong_bit_of_a_log_is_refused_with_its_place_or_ends_it_in_front_of_the_last_record() {
    let (disk, name, bounds) = log_of(8);
    let (last, len) = (bounds[7], bounds[8]);
    for place in (0..HEADER_LEN as usize).chain(bounds[5]..len) {
        for bit in 0..8 {
            let what = format!("bit {bit} of byte {place}");
            let damaged = with_change(&disk, &name, |bytes| bytes[place] ^= 1 << bit);
            let result = read(&damaged, &name);
            if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Unsupported) {
                assert!((8..HEADER_LEN as usize).contains(&place), "{what} makes it a log of a newer format");
            } else if place < HEADER_LEN as usize {
                assert_refused(result, &name, Some(0), &what);
            } else if place < last {
                let begins = bounds.iter().rev().find(|bound| **bound <= place).unwrap();
                assert_refused(result, &name, Some(*begins), &what);
            } else {
                // Nothing whole stands behind it: it is as if the machine had died while it was
                // written.
                let found = result.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(found, FoundLog { records: 7, len: last as u64, torn: (len - last) as u64 }, "{what}");
            }
        }
    }
}

#[test]
fn two_damaged_records_and_a_whole_one_behind_them_are_refused() {
    let (disk, name, bounds) = log_of(8);
    let damaged = with_change(&disk, &name, |bytes| bytes[bounds[4]..bounds[7]].fill(0x5a));
    assert_refused(read(&damaged, &name), &name, Some(bounds[4]), "three records overwritten");
    let hole = with_change(&disk, &name, |bytes| {
        bytes.drain(bounds[4] + 3..bounds[6]);
    });
    assert_refused(read(&hole, &name), &name, Some(bounds[4]), "two records gone");
}

/// A file system may have grown the file before it wrote what belongs there.
#[test]
fn zeros_and_garbage_behind_the_last_record_are_a_torn_tail() {
    let (disk, name, bounds) = log_of(3);
    let len = bounds[3];
    for (filling, what) in [(0u8, "zeros"), (0xff, "ones"), (0x01, "small numbers"), (b'x', "text")] {
        for tail in [1, 4, 7, 8, 9, 12, 16, 100, 4096] {
            let torn = with_change(&disk, &name, |bytes| bytes.resize(len + tail, filling));
            let found = read(&torn, &name).unwrap_or_else(|error| panic!("{tail} bytes of {what}: {error}"));
            assert_eq!(found, FoundLog { records: 3, len: len as u64, torn: tail as u64 }, "{tail} bytes of {what}");
        }
    }
    for cut in bounds[2]..len {
        let torn = with_change(&disk, &name, |bytes| bytes[cut..].fill(0));
        // The last bytes of a record may be zeros by themselves.
        let found = read(&torn, &name).unwrap_or_else(|error| panic!("zeros from {cut}: {error}"));
        assert!(found.len == bounds[2] as u64 || torn.bytes(&name) == disk.bytes(&name), "zeros from {cut}: {found:?}");
    }
}

#[test]
fn a_log_of_another_format_is_refused_in_words() {
    let (disk, name, _) = log_of(1);
    let newer = with_change(&disk, &name, |bytes| bytes[8] = 2);
    let refused = read(&newer, &name).unwrap_err();
    // No damage: to discard it is not offered as a way out.
    assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
    let said = refused.to_string();
    assert!(said.contains("written by another version of kvmesh: it is of format 2, and this build reads format 1"), "{said}");
}

fn origin(node: u16, nonce: u64) -> Origin {
    Origin { node: NodeId(node), nonce }
}

/// A snapshot of a few entries of every kind.
fn snapshot_of_all_kinds() -> (SimulatedDisk, String) {
    let disk = SimulatedDisk::default();
    let entries: [(&[u8], Option<&[u8]>); 6] = [
        (b"plain", Some(b"text")),
        (b"deleted", None),
        (b"", Some(b"")),
        (b"quoted \"key\"", Some("\u{fc}\tab".as_bytes())),
        (b"\xff\x00", Some(b"\x00\x01\xfe\xff")),
        (b"number", Some(b"1234567890")),
    ];
    let entries = entries.into_iter().enumerate().map(|(index, (key, value))| {
        let version = Version { stamp: Stamp::from_bits(116_069_418_624_417_792 + index as u64), origin: origin(1, 0x9f86_d081_884c_7d65) };
        Entry::new(key, value, None, version)
    });
    let vector: VersionVector =
        [(origin(1, 0x9f86_d081_884c_7d65), Stamp::from_bits(116_069_418_624_417_799)), (origin(2, 5), Stamp::from_bits(9))]
            .into_iter()
            .collect();
    let horizon: VersionVector = [(origin(2, 5), Stamp::from_bits(8))].into_iter().collect();
    let lines = whole_dump(&Header::new(DumpKind::Full, origin(1, 3), vector, 6, None), entries, horizon);
    LogFile::create(&disk, &log_name(1)).unwrap();
    let mut writer = SnapshotWriter::create(&disk, 1).unwrap();
    writer.append(&lines).unwrap();
    writer.finish(None).unwrap();
    (disk, snapshot_name(1))
}

/// Everything that a snapshot says: header, horizon, entries.
fn load(disk: &SimulatedDisk) -> io::Result<(Header, VersionVector, Vec<Entry>)> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Store::new();
    let loaded = load_into(&store, &shared, 1)?;
    let mut entries: Vec<Entry> = (0..store.shards_len()).flat_map(|shard| store.scan_shard(shard, |_| true)).collect();
    entries.sort_by_key(|entry| entry.version());
    Ok((loaded.header, loaded.end.horizon, entries))
}

#[test]
fn every_wrong_bit_of_a_snapshot_is_refused_with_file_and_place() {
    let (disk, name) = snapshot_of_all_kinds();
    let good = load(&disk).unwrap();
    assert_eq!(good.2.len(), 6);
    let bytes = disk.bytes(&name);
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let what = format!("bit {bit} of byte {place} of {}", String::from_utf8_lossy(&bytes));
            let damaged = with_change(&disk, &name, |bytes| bytes[place] ^= 1 << bit);
            match load(&damaged) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    assert!(bytes[..place].ends_with(b"\"format\":"), "{what} makes it a snapshot of another format")
                }
                // A hexadecimal digit in the other case: the same number.
                Ok(loaded) => assert!(bit == 5 && matches!(bytes[place], b'a'..=b'f') && loaded == good, "{what}: {loaded:?}"),
                refused => assert_refused(refused, &name, None, &what),
            }
        }
    }
}

#[test]
fn a_snapshot_cut_anywhere_is_refused_with_file_and_place() {
    let (disk, name) = snapshot_of_all_kinds();
    for len in 0..disk.bytes(&name).len() {
        let cut = with_change(&disk, &name, |bytes| bytes.truncate(len));
        assert_refused(load(&cut), &name, None, &format!("cut at {len}"));
    }
    let longer = with_change(&disk, &name, |bytes| bytes.push(b'\n'));
    assert_refused(load(&longer), &name, None, "a line more");
}

/// A snapshot of several megabytes, so that its pieces and its readers are several, with a bit
/// wrong here and there, and cut here and there.
#[test]
fn a_large_snapshot_is_read_whole_or_refused() {
    let disk = SimulatedDisk::default();
    let value: Vec<u8> = (0..900).map(|place| b'a' + (place % 26) as u8).collect();
    let entries = (1..=2_500u64).map(|number| Entry::new(entry(number).key(), Some(&value), None, entry(number).version()));
    let header = Header::new(DumpKind::Full, ORIGIN, VersionVector::default(), 2_500, None);
    let lines = whole_dump(&header, entries, VersionVector::default());
    LogFile::create(&disk, &log_name(1)).unwrap();
    let mut writer = SnapshotWriter::create(&disk, 1).unwrap();
    for piece in lines.chunks(1 << 18) {
        writer.append(piece).unwrap();
    }
    let len = writer.finish(None).unwrap();
    assert!(len > 2 << 20);
    assert_eq!(load(&disk).unwrap().2.len(), 2_500);
    let name = snapshot_name(1);
    for part in 1..5 {
        let place = len as usize * part / 5;
        assert_refused(load(&with_change(&disk, &name, |bytes| bytes[place] ^= 1)), &name, None, &format!("byte {place}"));
        assert_refused(load(&with_change(&disk, &name, |bytes| bytes.truncate(place))), &name, None, &format!("cut at {place}"));
    }
}
