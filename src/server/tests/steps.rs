//! Several writes at once: interleavings and bounds that were once wrong.
use super::*;

fn resp(words: &[&str]) -> String {
    words.iter().fold(format!("*{}\r\n", words.len()), |all, word| all + &format!("${}\r\n{word}\r\n", word.len()))
}

fn batch(requests: &[&[&str]]) -> String {
    requests.iter().map(|words| resp(words)).collect()
}

#[test]
fn relative_expiry_near_the_end_of_time_survives_a_timeout() {
    let fixture = fixture(2, r#", "ack_timeout_ms": 300"#);
    let mut client = fixture.connect();
    // Beyond the end of time once the time-out is over, and not before; unless this machine is
    // slow: then it is refused, and sent again.
    let mut set = || {
        let px = i64::MAX - crate::data::clock::wall_ms() as i64 - 100;
        client.send(resp(&["SET", "k", "v", "PX", &px.to_string()]));
        client.line()
    };
    let line = (0..100).map(|_| set()).find(|line| !line.starts_with("-ERR invalid expire")).expect("a machine that is not too slow");
    assert!(line.starts_with("-TIMEOUT"), "{line:?}");
    fixture.stop();
}

#[test]
fn flushall_that_loses_its_quorum_does_not_say_that_nothing_was_written() {
    let fixture = fixture(2, "");
    for n in 0..2000 {
        fixture.store.merge(fixture.foreign(&format!("k{n}"), Some("v")), |_| false);
    }
    let mut client = fixture.connect();
    client.send(resp(&["FLUSHALL"]));
    fixture.await_waiting();
    fixture.acks.set_up(0, false);
    fixture.acks.set_up(1, false);
    fixture.acknowledge(0);
    let line = client.line();
    let left = fixture.store.counts(crate::data::clock::wall_ms()).keys;
    assert!(left == 2000 || !line.contains("nothing was written"), "{} keys were deleted; the reply: {line:?}", 2000 - left);
    fixture.stop();
}

#[test]
fn flushall_of_a_client_that_has_closed_its_sending_side_is_carried_out() {
    let fixture = fixture(1, "");
    for n in 0..2000 {
        fixture.store.merge(fixture.foreign(&format!("k{n}"), Some("v")), |_| false);
    }
    let mut client = fixture.connect();
    client.send(resp(&["FLUSHALL"]));
    fixture.await_waiting();
    client.socket.shutdown(Shutdown::Write).unwrap();
    let acks = Arc::clone(&fixture.acks);
    let submit = Arc::clone(&fixture.submit);
    let over = Arc::new(AtomicBool::new(false));
    let thread = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            while !over.load(Ordering::Relaxed) {
                acks.acknowledge(0, &ack(submit.position()), Duration::ZERO);
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let line = client.line();
    over.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    let left = fixture.store.counts(crate::data::clock::wall_ms()).keys;
    assert!(line.starts_with("+OK"), "{left} of 2000 keys are left; the reply: {line:?}");
    fixture.stop();
}

#[test]
fn a_transaction_of_few_bytes_takes_little_memory() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    client.send(resp(&["SET", "k", &"v".repeat(1 << 20)]));
    assert_eq!(client.line(), "+OK\r");
    for (words, count) in [(&["GETRANGE", "k", "0", "15999"][..], 5000), (&["APPEND", "k", ""], 600)] {
        client.send(resp(&["MULTI"]) + &resp(&["SET", "other", "1"]) + &resp(words).repeat(count) + &resp(&["EXEC"]));
        client.expect(&["+OK\r"]);
        (0..=count).for_each(|_| client.expect(&["+QUEUED\r"]));
        let line = client.line();
        assert!(
            line.starts_with(
                "-ERR write_room, which bounds one step, is 67108864 bytes, and this takes more than that; nothing was written"
            ),
            "{line}"
        );
    }
    assert_eq!(fixture.store.get(b"other"), None);
    // What the others answer is bounded as well.
    client.send(resp(&["MULTI"]) + &resp(&["COMMAND", "DOCS"]).repeat(2000) + &resp(&["EXEC"]) + &resp(&["PING"]));
    let mut refused = 0;
    loop {
        match client.line().trim_end() {
            "+PONG" => break,
            line => refused += usize::from(line.starts_with("-ERR the replies of this transaction take too much")),
        }
    }
    assert!((1..2000).contains(&refused), "{refused} of 2000");
    fixture.stop();
}

#[test]
fn setrange_of_nothing_far_away_reserves_nothing() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    let far = i64::MAX.to_string();
    client.send(batch(&[&["MULTI"], &["SETRANGE", "k", &far, ""], &["SETRANGE", "k", &far, ""], &["EXEC"]]));
    client.expect(&["+OK\r", "+QUEUED\r", "+QUEUED\r", "*2\r", ":0\r", ":0\r"]);
    fixture.stop();
}

#[test]
fn what_is_watched_and_queued_shares_the_memory_for_large_commands() {
    let fixture = fixture(0, "");
    let budget = &fixture.server.shared.read_budget;
    let all = budget.left();
    budget.try_reserve(all - 1000).unwrap();
    let mut client = fixture.connect();
    let key = "k".repeat(99);
    client.send(batch(&[
        &["WATCH", &key],
        &["WATCH", &key],
        &["MULTI"],
        &["SET", "a", &"v".repeat(300)],
        &["SET", "b", &"v".repeat(600)],
        &["EXEC"],
    ]));
    client.expect(&["+OK\r", "+OK\r", "+OK\r", "+QUEUED\r"]);
    assert!(client.line().starts_with("-BUSY the large commands and the transactions"));
    assert!(client.line().starts_with("-EXECABORT"));
    client.send(batch(&[&["WATCH", &key, &(key.clone() + "2")], &["UNWATCH"], &["WATCH", &key], &["MULTI"], &["DISCARD"]]));
    client.expect(&["+OK\r"; 5]);
    assert_eq!(budget.left(), 1000);
    client.send(batch(&[&["WATCH", &key], &["MULTI"], &["GET", "a"], &["PING"]]));
    client.expect(&["+OK\r", "+OK\r", "+QUEUED\r", "+QUEUED\r"]);
    assert!(budget.left() < 1000);
    drop(client);
    until("what it held is given back", || budget.left() == 1000);
    fixture.stop();
}

#[test]
fn a_transaction_counts_what_it_has_made_and_deleted() {
    let fixture = fixture(0, "");
    for n in 0..500 {
        fixture.store.merge(fixture.foreign(&format!("k{n}"), Some("v")), |_| false);
    }
    let mut client = fixture.connect();
    client.send(batch(&[
        &["MULTI"],
        &["DBSIZE"],
        &["SET", "new", "1"],
        &["DEL", "k1", "k2"],
        &["SET", "k3", "2"],
        &["DBSIZE"],
        &["RANDOMKEY"],
        &["FLUSHALL"],
        &["DBSIZE"],
        &["RANDOMKEY"],
        &["SET", "only", "1"],
        &["RANDOMKEY"],
        &["EXEC"],
    ]));
    client.expect(&["+OK\r"]);
    (0..11).for_each(|_| client.expect(&["+QUEUED\r"]));
    client.expect(&["*11\r", ":500\r", "+OK\r", ":2\r", "+OK\r", ":499\r"]);
    client.line();
    client.line();
    client.expect(&["+OK\r", ":0\r", "$-1\r", "+OK\r", "$4\r", "only\r"]);
    fixture.stop();
}

#[test]
fn a_level_that_changes_ends_the_round_however_it_changes() {
    let fixture = fixture(2, r#", "ack_timeout_ms": 300"#);
    for requests in [
        &[&["ACK", "local"][..], &["SET", "a", "1"], &["RESET"], &["SET", "b", "1"]][..],
        // Said at once, even between MULTI and EXEC.
        &[&["ACK", "local"], &["MULTI"], &["SET", "a", "1"], &["ACK", "majority"], &["EXEC"], &["SET", "b", "1"]],
    ] {
        let mut client = fixture.connect();
        client.send(batch(requests));
        let mut lines: Vec<String> = requests.iter().map(|_| client.line()).collect();
        assert!(lines.pop().unwrap().starts_with("-TIMEOUT"), "{lines:?}");
    }
    fixture.stop();
}

/// HELLO in a transaction: a short reply to EXEC comes in the version that it chose, a long one in
/// that before it.
#[test]
fn a_long_reply_to_exec_speaks_as_a_short_one_does() {
    let fixture = fixture(0, "");
    let mut heads = Vec::new();
    for len in [10, 300 << 10] {
        let mut client = fixture.connect();
        client.send(batch(&[&["SET", "k", &"v".repeat(len)], &["MULTI"], &["GET", "none"], &["HELLO", "3"], &["GET", "k"], &["EXEC"]]));
        client.expect(&["+OK\r", "+OK\r", "+QUEUED\r", "+QUEUED\r", "+QUEUED\r", "*3\r"]);
        heads.push((client.line(), client.line()));
        drop(client);
    }
    assert_eq!(heads[0], heads[1]);
    fixture.stop();
}

/// A scan that has to begin anew meets keys once more; KEYS names every key once.
#[test]
fn keys_names_every_key_once_while_tables_grow() {
    const STAY: usize = 20_000;
    let fixture = fixture(0, "");
    for n in 0..STAY {
        fixture.store.merge(fixture.foreign(&format!("stays{n}"), Some("v")), |_| false);
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Bounded, should the other thread fail.
            for n in 0..400_000 {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                fixture.store.merge(fixture.foreign(&format!("comes{n}"), Some("v")), |_| false);
            }
        });
        let mut client = fixture.connect();
        for _ in 0..3 {
            client.send(resp(&["KEYS", "stays*"]));
            let head = client.line();
            (0..2 * STAY).for_each(|_| drop(client.line()));
            assert_eq!(head, format!("*{STAY}\r"));
        }
        done.store(true, Ordering::Relaxed);
    });
    fixture.stop();
}
