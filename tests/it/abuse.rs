//! Abuse that a client port must withstand: lines without an end, garbage, half commands, crowds,
//! and clients that do not read.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::client::{Client, Limit, REPLY_TIMEOUT, Status};
use crate::cluster::{Cluster, DEADLINE, until};
use crate::kit::process::status_number;
use crate::random::{Random, seed};

fn one() -> Cluster {
    Cluster::plan(1).set("key_len_max", 100).set("value_len_max", 1_000).set("clients_max", 20).start()
}

#[track_caller]
fn assert_alive(cluster: &Cluster) {
    assert_eq!(cluster.ask_line(1, "PING"), "PONG");
}

#[test]
fn a_line_that_never_ends_is_an_error_and_a_close() {
    let cluster = one();
    for begin in ["", "PUT a ", "PUT \"", "PUT a \"", "GET "] {
        let mut client = cluster.client(1);
        client.send(begin).unwrap();
        let piece = [b'x'; 4096];
        // Far beyond any line that these limits allow. The node may close at any point of it.
        let sent = (0..1_000).try_for_each(|_| client.send(piece));
        match client.rest() {
            Ok(rest) => {
                let rest = String::from_utf8_lossy(&rest);
                let refused = ["ERROR TOOBIG ", "ERROR SYNTAX ", "ERROR UNKNOWN "].iter().any(|error| rest.starts_with(error));
                assert!(rest.is_empty() || refused && rest.lines().count() == 1, "{begin:?}: {rest}");
            }
            Err(error) if is_close(error.kind()) => {}
            Err(error) => panic!("{begin:?}: neither an error nor a close after {sent:?}: {error}"),
        }
    }
    assert_alive(&cluster);
}

#[test]
fn too_long_keys_and_values_are_refused_by_their_names() {
    let cluster = one();
    let mut client = cluster.client(1);
    let (key, value) = ("k".repeat(101), "v".repeat(1_001));
    for command in
        [format!("PUT {key} v"), format!("PUT k {value}"), format!("GET {key}"), format!("SET \"{key}\" v"), format!("PUT k \"{value}\"")]
    {
        let reply = client.ask_line(&command).unwrap();
        assert!(reply.starts_with("ERROR TOOBIG "), "{command}: {reply}");
    }
    let (key, value) = ("k".repeat(100), "v".repeat(1_000));
    assert_eq!(client.ask_line(&format!("PUT {key} {value}")).unwrap(), "OK");
    assert_eq!(client.ask_line(&format!("GET {key}")).unwrap(), format!("VALUE {value}"));
    // The longest way to write the longest value.
    let escaped: String = "\\x00".repeat(1_000);
    assert_eq!(client.ask_line(&format!("PUT {key} \"{escaped}\"")).unwrap(), "OK");
    assert_eq!(client.ask_line(&format!("GET {key}")).unwrap(), format!("VALUE \"{escaped}\""));
    assert_eq!(client.ask_line("COUNT").unwrap(), "1");
}

#[test]
fn garbage_gets_errors_or_a_close_and_the_node_lives() {
    let cluster = one();
    let mut random = Random::new(seed());
    for len in [1, 2, 3, 10, 100, 5_000, 50_000] {
        let mut client = cluster.client(1);
        // The node may close before all is sent.
        let _ = client.send(random.bytes(len)).and_then(|()| client.send("\n"));
        let _ = client.finish();
        match client.rest() {
            Ok(rest) => {
                let lines = rest.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                lines.for_each(|line| assert!(line.starts_with(b"ERROR "), "{len} bytes: {:?}", String::from_utf8_lossy(line)));
            }
            Err(error) => assert!(is_close(error.kind()), "{len} bytes: {error}"),
        }
        assert_alive(&cluster);
    }
    assert_eq!(cluster.ask_line(1, "COUNT"), "0");
}

/// A browser, or a server that was tricked into a request, can reach this port. PUT is a command of
/// kvmesh, too.
#[test]
fn nothing_of_an_http_request_is_executed() {
    let cluster = one();
    assert_eq!(cluster.ask_line(1, "PUT kept 1"), "OK");
    let body = "*1\r\n$8\r\nFLUSHALL\r\nPUT of-the-body 1\r\n";
    let headers = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    for head in
        ["PUT /x HTTP/1.1\r\nHost: a\r\n", "put /x HTTP/1.0\r\n", "POST / HTTP/1.1\r\n", "Host: a\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n"]
    {
        let mut client = cluster.client(1);
        client.send(format!("{head}{headers}")).unwrap();
        let rest = String::from_utf8(client.rest().unwrap()).unwrap();
        assert!(rest.starts_with("ERROR UNKNOWN this is not an HTTP port") && rest.lines().count() == 1, "{head:?}: {rest:?}");
    }
    assert_eq!(cluster.ask(1, "KEYS"), ["KEY kept"]);
}

#[test]
fn half_a_command_at_the_end_of_a_connection_is_not_executed() {
    let cluster = one();
    let mut client = cluster.client(1);
    client.send("PUT whole 1\nPUT half 1").unwrap();
    client.finish().unwrap();
    let rest = client.rest().unwrap();
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.starts_with("OK\n") || rest.starts_with("OK\r\n"), "{rest:?}");
    assert_eq!(cluster.ask_line(1, "EXISTS whole"), "1");
    assert_eq!(cluster.ask_line(1, "EXISTS half"), "0");
}

#[test]
fn bytes_may_come_one_at_a_time_and_lines_all_at_once() {
    let cluster = one();
    let mut client = cluster.client(1);
    for byte in b"put slow\r\nPUT slow one by one\r\n\r\n\nGET slow\n" {
        client.send([*byte]).unwrap();
    }
    assert!(client.line().unwrap().starts_with("ERROR SYNTAX "));
    assert_eq!(client.line().unwrap(), "OK");
    assert_eq!(client.line().unwrap(), "VALUE one by one");

    let many: String = (0..2_000).map(|n| format!("PUT k{} {n}\nGET k{}\n", n % 10, n % 10)).collect();
    client.send(many).unwrap();
    for n in 0..2_000 {
        assert_eq!(client.line().unwrap(), "OK");
        assert_eq!(client.line().unwrap(), format!("VALUE {n}"));
    }
}

#[test]
fn too_many_clients_are_told_so_and_closed() {
    let cluster = one();
    // Earlier connections of the harness may still count.
    let mut clients: Vec<Client> = Vec::new();
    until("20 clients", DEADLINE, || {
        while clients.len() < 20 {
            let mut client = cluster.client(1);
            match client.ask_line("PING") {
                Ok(reply) if reply == "PONG" => clients.push(client),
                other => return Err(format!("client {}: {other:?}", clients.len() + 1)),
            }
        }
        Ok(())
    });
    for _ in 0..3 {
        let rest = String::from_utf8(cluster.client(1).rest().unwrap()).unwrap();
        assert!(rest.starts_with("ERROR BUSY ") && rest.lines().count() == 1, "{rest:?}");
    }
    // The connected clients are not disturbed, and a slot that becomes free is given to another
    // one.
    for client in &mut clients {
        assert_eq!(client.ask_line("PING").unwrap(), "PONG");
    }
    clients.pop();
    until("a free place", DEADLINE, || {
        let reply = cluster.client(1).ask_line("PING").map_err(|error| error.to_string())?;
        if reply == "PONG" { Ok(()) } else { Err(reply) }
    });
}

/// The replies would take half a gigabyte.
#[test]
fn a_client_that_stops_reading_is_closed_and_nothing_piles_up() {
    const VALUE_LEN: usize = 8 << 20;
    let cluster = Cluster::plan(1).start();
    let mut writer = cluster.client(1);
    writer.send([b"PUT big ".as_slice(), &vec![b'x'; VALUE_LEN], b"\n"].concat()).unwrap();
    assert_eq!(writer.line().unwrap(), "OK");
    let before = peak_memory(&cluster);

    let mut deaf = cluster.client(1);
    deaf.send("GET big\n".repeat(64)).unwrap();
    until("a close of the client that does not read", DEADLINE, || {
        // Other clients are served meanwhile.
        assert_eq!(writer.ask_line("PING").unwrap(), "PONG");
        match deaf.send("\n") {
            Ok(()) => Err("it is open".into()),
            Err(error) if is_close(error.kind()) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    });
    cluster.await_log(1, &["is closed: it has taken none of its replies for 1s"]);
    if let (Some(before), Some(after)) = (before, peak_memory(&cluster)) {
        let grown = after.saturating_sub(before);
        assert!(grown < 100 << 20, "{grown} bytes more at the peak for replies that nobody read");
    }
    // A client that reads gets all of it.
    writer.send("GET big\n".repeat(8)).unwrap();
    for _ in 0..8 {
        assert_eq!(writer.line().unwrap().len(), "VALUE ".len() + VALUE_LEN);
    }
}

/// Each client asks, with a few bytes, for a large part of one value that the node has only once.
#[test]
fn parts_of_a_value_that_nobody_reads_are_not_copied() {
    const VALUE_LEN: usize = 8 << 20;
    const CLIENTS: usize = 40;
    let cluster = Cluster::plan(1).set("write_timeout_ms", 10_000).start();
    let mut writer = cluster.client(1);
    writer.send([b"PUT big ".as_slice(), &vec![b'x'; VALUE_LEN], b"\n"].concat()).unwrap();
    assert_eq!(writer.line().unwrap(), "OK");
    let before = peak_memory(&cluster);
    let mut deaf: Vec<Client> = (0..CLIENTS).map(|_| unbuffered(&cluster)).collect();
    for client in &mut deaf {
        client.send("*4\r\n$8\r\nGETRANGE\r\n$3\r\nbig\r\n$1\r\n0\r\n$2\r\n-2\r\n").unwrap();
    }
    // Once a reply has begun, all of it has been made.
    for client in &deaf {
        client.stream().peek(&mut [0]).unwrap();
    }
    if let (Some(before), Some(after)) = (before, peak_memory(&cluster)) {
        let grown = after.saturating_sub(before);
        assert!(grown < CLIENTS * VALUE_LEN / 4, "{grown} bytes more at the peak for {CLIENTS} parts of one value");
    }
}

/// Many libraries send a whole pipeline first; its requests and replies exceed the buffers between
/// the two.
#[test]
fn who_sends_everything_before_reading_anything_is_served() {
    const LARGE_LEN: usize = 15 << 20;
    // A slow client on a busy machine is not given up.
    let cluster = Cluster::plan(1).set("write_timeout_ms", 10_000).start();
    let large = "x".repeat(LARGE_LEN);
    let mut client = unbuffered(&cluster);
    client.send(format!("PUT large {large}\n")).unwrap();
    assert_eq!(client.line().unwrap(), "OK");
    // While the large value is on its way here, another one is sent.
    client.send(format!("GET large\nPUT other {large}\nEXISTS other\n")).unwrap();
    assert_eq!(client.line().unwrap().len(), "VALUE ".len() + LARGE_LEN);
    assert_eq!(client.line().unwrap(), "OK");
    assert_eq!(client.line().unwrap(), "1");

    let mut client = unbuffered(&cluster);
    let (gets, key, small) = (20_000, "k".repeat(100), "y".repeat(1_000));
    client.send(format!("PUT {key} {small}\n{}", format!("GET {key}\n").repeat(gets))).unwrap();
    assert_eq!(client.line().unwrap(), "OK");
    for at in 0..gets {
        assert_eq!(client.line().unwrap().len(), "VALUE ".len() + small.len(), "reply {at}");
    }
}

/// Many clients that connect and send nothing keep no other client out.
#[test]
fn silent_and_vanishing_clients_harm_nobody() {
    let cluster = Cluster::plan(1).start();
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(cluster.client_addr(1)).unwrap()).collect();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(cluster.client_addr(1)).unwrap();
        stream.write_all(b"PUT a 1\nGET a\nDUMP\n").unwrap();
    }
    assert_alive(&cluster);
    drop(silent);
    assert_alive(&cluster);
}

#[test]
fn memory_max_refuses_client_writes_but_neither_deletes_nor_peers() {
    let mut cluster = Cluster::plan(3).build();
    cluster.configure(1, "memory_max", 100_000);
    cluster.start_all();
    cluster.await_converged();
    let mut client = cluster.client(1);
    let value = "v".repeat(1_000);
    let mut replies = (0..1_000).map(|n| client.ask_line(&format!("PUT k{n} {value}")).unwrap());
    let refused = replies.find(|reply| reply != "OK").expect("a thousand writes of 1 kB fit into 100 kB");
    assert!(refused.starts_with("ERROR FULL "), "{refused}");
    drop(replies);
    assert!(client.ask_line(&format!("UPD k0 {value}{value}")).unwrap().starts_with("ERROR FULL "));
    assert_eq!(client.ask_line("GET k0").unwrap(), format!("VALUE {value}"));
    assert_eq!(cluster.ask_line(2, &format!("PUT of-a-peer {value}")), "OK");
    cluster.await_reply(1, "GET of-a-peer", &format!("VALUE {value}"));
    client.pipeline((0..20).map(|n| format!("DEL k{n}")));
    assert_eq!(client.ask_line("PUT again 1").unwrap(), "OK");
    cluster.await_converged();
}

#[test]
fn long_answers_hold_what_they_promise() {
    let mut cluster = Cluster::plan(3).start();
    let mut client = cluster.client(1);
    client.pipeline((0..50).map(|n| format!("PUT item/{n:02} {n}")));
    assert_eq!(client.ask_line("PUT \"a b\" \"\\xff\"").unwrap(), "OK");
    assert_eq!(client.ask_line("DEL item/00").unwrap(), "OK");
    cluster.await_converged();

    let mut keys = client.ask("KEYS item/").unwrap();
    keys.sort();
    let wanted: Vec<String> = (1..50).map(|n| format!("KEY item/{n:02}")).collect();
    assert_eq!(keys, wanted);
    assert_eq!(client.ask("KEYS item/ 7").unwrap().len(), 7);
    assert_eq!(client.ask("KEYS none").unwrap(), Vec::<String>::new());
    assert!(client.ask("KEYS").unwrap().contains(&"KEY a b".to_owned()));
    assert_eq!(client.ask_line("COUNT").unwrap(), "50");

    let digest = client.ask_line("DIGEST").unwrap();
    let words: Vec<&str> = digest.split(' ').collect();
    assert!(matches!(words[..], ["DIGEST", hex, "50"] if u64::from_str_radix(hex, 16).is_ok()), "{digest}");

    // The dump: a header, one entry a line (the tombstone too), and an end that counts them; JSON
    // throughout.
    let dump = client.ask("DUMP").unwrap();
    let lines: Vec<serde_json::Value> =
        dump.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect();
    assert_eq!(lines.len(), 1 + 51 + 1, "{dump:#?}");
    assert!(lines.iter().all(serde_json::Value::is_object));

    let status: Status = client.status().unwrap();
    assert_eq!((status.text("node"), status.text("state")), ("1", "open"));
    assert_eq!((status.number("keys"), status.number("tombstones"), status.number("members_up")), (50, 1, 3));
    for verb in
        ["SET", "upd", "PUT", "GET", "DEL", "EXISTS", "KEYS", "COUNT", "ACK", "STATUS", "PEERS", "DIGEST", "DUMP", "PING", "HELP", "QUIT"]
    {
        let help = client.ask(&format!("HELP {verb}")).unwrap();
        assert!(!help.is_empty() && help.iter().any(|line| line.to_uppercase().contains(&verb.to_uppercase())), "HELP {verb}: {help:?}");
    }
    // Nothing is left unread, and QUIT ends the connection.
    assert_eq!(client.ask_line("PING").unwrap(), "PONG");
    client.send("QUIT\nPUT after-quit 1\n").unwrap();
    let farewell = match client.rest() {
        Ok(rest) => String::from_utf8(rest).unwrap(),
        Err(error) if is_close(error.kind()) => String::new(),
        Err(error) => panic!("QUIT does not close: {error}"),
    };
    assert!(farewell.lines().count() <= 1, "{farewell:?}");
    assert_eq!(cluster.ask_line(1, "EXISTS after-quit"), "0");
}

fn is_close(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof)
}

/// A connection with small buffers at both ends.
fn unbuffered(cluster: &Cluster) -> Client {
    const LEN: usize = 256 << 10;
    let addr = cluster.client_addr(1);
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(LEN).and_then(|()| socket.set_send_buffer_size(LEN)).and_then(|()| socket.connect(&addr.into())).unwrap();
    Client::over(socket.into(), REPLY_TIMEOUT).unwrap()
}

/// The most memory that the node has ever held, where the system tells.
fn peak_memory(cluster: &Cluster) -> Option<usize> {
    Some(status_number(cluster.process_id(1)?, "VmHWM:")? as usize * 1024)
}

#[test]
fn a_reply_is_not_held_back_until_a_second_command() {
    let cluster = one();
    let mut client = cluster.client(1);
    client.set_limit(Limit::Each(Duration::from_secs(2)));
    // The second command is incomplete: the first must not wait for it.
    client.send("PING\nPI").unwrap();
    assert_eq!(client.line().unwrap(), "PONG");
    client.send("NG\n").unwrap();
    assert_eq!(client.line().unwrap(), "PONG");
}
