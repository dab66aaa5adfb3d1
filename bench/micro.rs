//! Micro-benchmarks of what a command or a write passes through. `cargo bench --bench micro`, or
//! with a part of their names behind `--`: `cargo bench --bench micro -- merge`.
//!
//! Keys have 16 bytes and values 64. What becomes slower with the machine alone is not told from
//! what becomes slower with the code; `bench/instructions.sh` counts, and does.

use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use kvmesh::data::clock::Stamp;
use kvmesh::data::entry::Entry;
use kvmesh::data::version::{NodeId, Origin, Version, VersionVector};
use kvmesh::server::commands::table;
use kvmesh::store::{Merged, Store};
use kvmesh::wal::disk::Directory;
use kvmesh::wal::log::LogFile;
use kvmesh::wire::bytes::Limits;
use kvmesh::wire::dump::{self, PartReader};
use kvmesh::wire::peer::{self, MESSAGE_LEN_MAX, Message, Protocol};
use kvmesh::wire::resp::encoding;
use kvmesh::wire::resp::request::{self, Partial};
use kvmesh::wire::text;

const LIMITS: Limits = Limits { key_len_max: 64 << 10, value_len_max: 64 << 20 };
const VALUE: [u8; 64] = [b'v'; 64];
const ORIGIN: Origin = Origin { node: NodeId(1), nonce: 0x9f86_d081_884c_7d65 };
const KEYS: usize = 1024;
/// A log that has grown to so many bytes is begun anew, outside of what is measured.
const LOG_LEN_MAX: usize = 64 << 20;

criterion_main!(all);

criterion_group! {
    name = all;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = parse, merge, batch, dump_line, log_append
}

/// From the bytes of a request to the typed command.
fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let (key, value) = (key(7), "v".repeat(64));
    for (name, line) in [("text PUT", format!("PUT {key} {value}\n")), ("text GET", format!("GET {key}\n"))] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let parsed = text::parse(black_box(line.as_bytes()), 0, &LIMITS, || 0);
                assert!(matches!(parsed, text::ParsedLine::Request { .. }));
                black_box(parsed);
            });
        });
    }
    for (name, words) in [("RESP SET", &["SET", &key, &value][..]), ("RESP GET", &["GET", &key][..])] {
        let mut bytes = Vec::new();
        encoding::request(words, &mut bytes);
        // Kept from request to request, as a session keeps it.
        let mut partial = Partial::default();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let request::ParsedWords::Request { words, .. } = request::parse(black_box(&bytes), &mut partial, &LIMITS) else {
                    panic!("not a request");
                };
                black_box(table::parse(words, &LIMITS, || 0).expect("a good command"));
            });
        });
    }
}

/// An entry from elsewhere into a store that holds another version of its key.
fn merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    let stamp = Cell::new(KEYS as u64);
    // Greater than all before, so that it wins.
    let newer = || {
        stamp.set(stamp.get() + 1);
        entry(stamp.get())
    };
    let store = filled();
    group.bench_function("wins", |bencher| {
        bencher.iter_batched(newer, |entry| assert!(matches!(store.merge(entry, |_| false), Merged::Won)), BatchSize::SmallInput);
    });
    let store = filled();
    let oldest = Version { stamp: Stamp::ZERO, origin: ORIGIN };
    let older = || Entry::new(newer().key(), Some(&VALUE), None, oldest);
    group.bench_function("loses", |bencher| {
        bencher.iter_batched(older, |entry| assert!(matches!(store.merge(entry, |_| false), Merged::Lost { .. })), BatchSize::SmallInput);
    });
    // Of three nodes that have lived three times each.
    let mut seen = VersionVector::default();
    for place in 0..9 {
        seen.advance(Origin { node: NodeId(place % 3 + 1), nonce: ORIGIN.nonce + u64::from(place / 3) }, Stamp::from_bits(u64::MAX));
    }
    group.bench_function("is covered", |bencher| {
        let covered = |version| seen.covers(version);
        bencher.iter_batched(newer, |entry| assert_eq!(store.merge(entry, covered), Merged::Covered), BatchSize::SmallInput);
    });
}

/// Write batches, as peers send them and the log keeps them: writes of one origin, with a checksum.
fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    for count in [1, 100] {
        let (writes, upto, bytes) = batch_of(count);
        group.throughput(Throughput::Elements(count));
        let mut out = Vec::new();
        group.bench_function(format!("encode {count}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                peer::encode_batch(&mut out, ORIGIN, Stamp::ZERO, upto, black_box(&writes));
                black_box(&out);
            });
        });
        let mut frame = Vec::new();
        group.bench_function(format!("decode {count}"), |bencher| {
            bencher.iter_with_large_drop(|| {
                let message = peer::read_message(&mut black_box(&*bytes), &mut frame, MESSAGE_LEN_MAX, Protocol::OLDEST);
                let Ok(Some(message @ Message::Writes(_))) = message else { panic!("not a batch") };
                message
            });
        });
    }
}

fn dump_line(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dump line");
    let entry = entry(7);
    let mut line = Vec::new();
    group.bench_function("write", |bencher| {
        bencher.iter(|| {
            line.clear();
            dump::write_entry(&mut line, black_box(&entry));
            black_box(&line);
        });
    });
    line.clear();
    dump::write_entry(&mut line, &entry);
    let line = line.strip_suffix(b"\n").expect("a line");
    group.bench_function("read", |bencher| {
        let mut reader = PartReader::default();
        bencher.iter_with_large_drop(|| reader.entry(black_box(line)).expect("a good line"))
    });
}

/// To a real file, without a sync. The records are batches, whose encoding is measured above.
fn log_append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log append");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = Directory::open(directory.path()).expect("a directory to write to");
    for count in [1, 100] {
        let (_, _, record) = batch_of(count);
        let begin = || LogFile::create(&disk, "log").expect("a new log");
        group.throughput(Throughput::Bytes(record.len() as u64));
        append(&mut group, count, &record, begin);
    }
}

fn append(group: &mut BenchmarkGroup<'_, WallTime>, count: u64, record: &[u8], begin: impl Fn() -> LogFile) {
    group.bench_function(format!("batch of {count}"), |bencher| {
        bencher.iter_custom(|appends| {
            let (mut left, mut took) = (appends as usize, Duration::ZERO);
            while left > 0 {
                let mut log = begin();
                let appends = left.min(LOG_LEN_MAX / record.len());
                let start = Instant::now();
                for _ in 0..appends {
                    log.append(black_box(record)).expect("an append that succeeds");
                }
                took += start.elapsed();
                left -= appends;
            }
            took
        });
    });
}

fn key(place: u64) -> String {
    format!("key:{:012}", place % KEYS as u64)
}

/// With a key, a value and a version of its own.
fn entry(stamp: u64) -> Entry {
    Entry::new(key(stamp).as_bytes(), Some(&VALUE), None, Version { stamp: Stamp::from_bits(stamp), origin: ORIGIN })
}

/// Holds every key.
fn filled() -> Store {
    let store = Store::new();
    for stamp in 1..=KEYS as u64 {
        store.merge(entry(stamp), |_| false);
    }
    store
}

/// The writes of a batch, the stamp of the last one, and the batch as it travels.
fn batch_of(count: u64) -> (Vec<Entry>, Stamp, Vec<u8>) {
    let writes: Vec<Entry> = (1..=count).map(entry).collect();
    let (upto, mut bytes) = (Stamp::from_bits(count), Vec::new());
    peer::encode_batch(&mut bytes, ORIGIN, Stamp::ZERO, upto, &writes);
    (writes, upto, bytes)
}
