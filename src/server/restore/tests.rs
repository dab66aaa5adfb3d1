//! Restores over real loopback sockets.

use std::io::Write;
use std::net::Shutdown;

use crate::data::clock::{Now, Stamp};
use crate::data::entry::Entry;
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::replication::status;
use crate::replication::sync::restore;
use crate::server::tests::{Client, Fixture, OTHER, any_port, closed_fixture, fixture};
use crate::store::Keyspace;
use crate::testing::wait::until;
use crate::wire::dump::{DumpKind, Header, whole_dump};

/// The dump of a node that holds these keys and values, a tombstone where there is none. Its vector
/// covers all of them.
fn dump_of(entries: &[(&[u8], Option<&[u8]>)], vector: VersionVector) -> Vec<u8> {
    let (mut held, mut vector) = (Vec::new(), vector);
    for (at, (key, value)) in entries.iter().enumerate() {
        let version = Version { stamp: Stamp::from_bits(at as u64 + 1), origin: OTHER };
        vector.advance(OTHER, version.stamp);
        held.push(Entry::new(key, *value, None, version));
    }
    let header = Header::new(DumpKind::Full, OTHER, vector, held.len() as u64, None);
    whole_dump(&header, held, VersionVector::default())
}

fn small() -> Vec<u8> {
    dump_of(&[(b"a", Some(b"1")), (b"b", Some(b"2")), (b"gone", None)], VersionVector::default())
}

fn refused(fixture: &Fixture, lines: &[u8], reply: &str) {
    let mut client = fixture.connect();
    client.send([b"RESTORE\n", lines].concat());
    client.socket.shutdown(Shutdown::Write).unwrap();
    expect_refusal(fixture, &mut client, reply);
}

fn expect_refusal(fixture: &Fixture, client: &mut Client, reply: &str) {
    let line = client.line();
    assert!(line.starts_with(reply) && line.ends_with("; this connection is closed"), "{line:?} instead of {reply:?}");
    client.expect_end();
    assert!(fixture.replica.vector().is_empty(), "{reply}");
    until("the next restore may begin", || restore::begin_restore(&fixture.replica, Now::read()).is_ok());
}

#[test]
fn commands_go_on_behind_a_restore_and_before_it() {
    let value: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
    // More lives than fit into a usual line.
    let vector = (0..1000).map(|nonce| (Origin { node: NodeId(3), nonce }, Stamp::from_bits(7))).collect();
    let lines = dump_of(&[(b"a", Some(b"1")), (b"\xff \n", Some(&value)), (b"", Some(b"")), (b"gone", None)], vector);
    for piece_len in [usize::MAX, 1021] {
        let fixture = fixture(0, "");
        let mut client = fixture.connect();
        let stream =
            [b"PUT a 0\nPUT gone 0\nrestore\r\n", &lines[..], b"COUNT\nGET \"\"\nRESTORE\n", &lines, b"EXISTS gone\nRESTORE x\nPING\n"];
        for piece in stream.concat().chunks(piece_len) {
            client.send(piece);
        }
        client.expect(&["OK", "OK", "entries 4", "merged 2", "covered 2", "dropped 0", "END", "4", "VALUE \"\""]);
        client.expect(&["entries 4", "merged 0", "covered 4", "dropped 0", "END", "1", "ERROR SYNTAX", "PONG"]);
        assert_eq!(fixture.store.get(b"\xff \n").as_deref(), Some(&value[..]));
        assert_eq!(fixture.replica.vector().get(OTHER), Stamp::from_bits(4));
        fixture.stop();
    }
}

/// Bytes that are sent behind a dump may be read with it, and then no further byte comes.
#[test]
fn a_command_that_came_with_the_dump_is_executed_without_another_byte() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    client.send("PUT x 1\nRESTORE\n");
    // The first reply says that the round in front of the restore has ended, with nothing left to
    // read.
    client.expect(&["OK"]);
    client.send([&small()[..], b"PING\n"].concat());
    client.expect(&["entries 3", "merged 3", "covered 0", "dropped 0", "END", "PONG"]);
    fixture.stop();
}

#[test]
fn what_a_node_dumps_it_takes_back() {
    let before = fixture(0, "");
    let mut client = before.connect();
    for (key, value) in [("a", None), ("b", Some("two words")), ("c \"", Some("\0"))] {
        before.store.merge(before.foreign(key, value), |_| false);
    }
    client.send("DUMP\n");
    let lines: String = std::iter::repeat_with(|| client.line() + "\n").take_while(|line| line != "END\n").collect();
    let after = fixture(0, "");
    let mut client = after.connect();
    client.send(format!("RESTORE\n{lines}"));
    client.expect(&["entries 3", "merged 3", "covered 0", "dropped 0", "END"]);
    assert_eq!(after.store.digest(0), before.store.digest(0));
    assert_eq!(after.store.counts(0), before.store.counts(0));
    before.stop();
    after.stop();
}

#[test]
fn a_dump_that_is_not_whole_is_refused_with_its_line_and_claims_nothing() {
    let fixture = fixture(0, "");
    let whole = small();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    refused(&fixture, b"", "ERROR BADDUMP line 1 of the dump: the dump breaks off before its end line; nothing was restored");
    refused(
        &fixture,
        &lines[..3].concat(),
        "ERROR BADDUMP line 4 of the dump: the dump breaks off before its end line; the 2 entries before it stay",
    );
    refused(&fixture, &whole[..whole.len() - 1], "ERROR BADDUMP line 5 of the dump: the dump breaks off");
    refused(
        &fixture,
        &[lines[0], lines[1], b"{\"k\":\n"].concat(),
        "ERROR BADDUMP line 3 of the dump: a dump line that is not as expected: \"EOF while",
    );
    refused(&fixture, &[lines[0], lines[1], lines[4]].concat(), "ERROR BADDUMP line 3 of the dump: a dump of 1 entries");
    refused(&fixture, &[lines[0], lines[0]].concat(), "ERROR BADDUMP line 2 of the dump: a dump within a dump; nothing was restored");
    refused(&fixture, &lines[1..].concat(), "ERROR BADDUMP line 1 of the dump: a dump begins with its header, and this is none");
    refused(&fixture, b"PUT a 1\n", "ERROR BADDUMP line 1 of the dump: a dump line that is not as expected");
    let newer = String::from_utf8(lines[0].to_vec()).unwrap().replace("\"format\":1", "\"format\":3");
    refused(
        &fixture,
        newer.as_bytes(),
        "ERROR BADDUMP line 1 of the dump: it was written by another version of kvmesh: it is of format 3, and this build reads format 1 to 2. \
         Nothing is wrong with it: run the build that wrote it, or a newer one",
    );
    let delta = String::from_utf8(lines[0].to_vec()).unwrap().replace("full", "delta");
    refused(&fixture, delta.as_bytes(), "ERROR BADDUMP line 1 of the dump: this is a part of a node's data");
    assert_eq!(fixture.store.counts(0).keys, 2);
    fixture.stop();
}

#[test]
fn what_is_over_a_limit_is_refused_with_its_name() {
    let fixture = fixture(0, "");
    let header = small().split_inclusive(|byte| *byte == b'\n').next().unwrap().to_vec();
    let dump = dump_of(&[(&[b'k'; 101], None)], VersionVector::default());
    refused(&fixture, &dump, "ERROR TOOBIG line 2 of the dump: its key has 101 bytes, and key_len_max of this node is 100; nothing was");
    let dump = dump_of(&[(b"k", Some(&[b'v'; (1 << 20) + 1]))], VersionVector::default());
    refused(&fixture, &dump, "ERROR TOOBIG line 2 of the dump: its value has 1048577 bytes, and value_len_max of this node is 1048576");
    let endless = [&header[..], b"{\"k\":\"", &[b'x'; 3 << 20]].concat();
    refused(&fixture, &endless, "ERROR TOOBIG line 2 of the dump: it is longer than the");
    assert!(fixture.store.is_empty());
    fixture.stop();
}

/// Waits until a restore runs. Only looks: to begin another one would, for a moment, keep the
/// client's from beginning.
fn await_running(fixture: &Fixture) {
    until("it runs", || status::status(&fixture.replica, Now::read()).contains(&("dump_from", "a restore".to_owned())));
}

#[test]
fn a_client_that_stalls_is_given_up() {
    let fixture = fixture(0, r#", "write_timeout_ms": 200"#);
    let mut client = fixture.connect();
    let lines = small();
    let third = lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0 + 1;
    client.send([b"RESTORE\n", &lines[..third + 10]].concat());
    await_running(&fixture);
    expect_refusal(&fixture, &mut client, "ERROR TIMEOUT nothing came for 200ms; the restore is given up after line 2: the 1 entries");
    // Before a restore and after it, a client may be idle for as long as it likes.
    let mut client = fixture.connect();
    client.send([b"RESTORE\n", &lines[..]].concat());
    client.expect(&["entries 3", "merged 2", "covered 1", "dropped 0", "END"]);
    std::thread::sleep(std::time::Duration::from_millis(400));
    client.send("PING\n");
    client.expect(&["PONG"]);
    fixture.stop();
}

/// A byte now and then kept a node from catching up and from forgetting deletes for as long as the
/// client liked.
#[test]
fn a_client_that_drips_is_given_up() {
    let fixture = fixture(0, r#", "write_timeout_ms": 400"#);
    let mut client = fixture.connect();
    client.send(b"RESTORE\n");
    let mut socket = client.socket.try_clone().unwrap();
    let drips = std::thread::spawn(move || {
        let line = small();
        let sent = line.iter().take_while(|byte| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            socket.write_all(&[**byte]).is_ok()
        });
        sent.count()
    });
    let line = client.line();
    // On a machine that is busy enough nothing may come for as long.
    assert!(line.starts_with("ERROR TIMEOUT ") && (line.contains(" bytes came in ") || line.contains("nothing came for")), "{line}");
    assert!(drips.join().unwrap() < 200);
    until("the next restore may begin", || restore::begin_restore(&fixture.replica, Now::read()).is_ok());
    fixture.stop();
}

#[test]
fn a_node_that_cannot_take_it_says_so_and_takes_no_line_for_a_command() {
    let lines = [&small()[..], b"PUT x 1\n"].concat();
    let closed = closed_fixture(any_port(), 2, "");
    let mut client = closed.connect();
    client.send([b"RESTORE\n", &lines[..]].concat());
    client.expect(&["ERROR LOADING this node is catching up"]);
    client.expect_end();
    assert!(closed.store.is_empty());
    closed.stop();

    let busy = fixture(0, "");
    let running = restore::begin_restore(&busy.replica, Now::read()).ok();
    let mut client = busy.connect();
    client.send([b"RESTORE\n", &lines[..]].concat());
    client
        .expect(&["ERROR BUSY another restore is running on this node; nothing was restored; try again later; this connection is closed"]);
    client.expect_end();
    drop(running);
    assert!(busy.store.is_empty());
    busy.stop();

    let full = fixture(0, r#", "memory_max": 1000"#);
    full.store.merge(full.foreign("k", Some(&"v".repeat(2000))), |_| false);
    refused(&full, &lines, "ERROR FULL the entries take");
    assert_eq!(full.store.counts(0).keys, 1);
    full.stop();
}

#[test]
fn a_server_that_stops_does_not_wait_for_the_end_of_a_dump() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    client.send([b"RESTORE\n", &small()[..200]].concat());
    await_running(&fixture);
    fixture.stop();
    assert!(client.line().starts_with("ERROR B"));
}
