//! The two protocols beside each other: on one connection and on two, they see the same data.

use super::wire::{Reply, request};
use crate::client::Client;
use crate::cluster::Cluster;

#[test]
fn text_and_resp_on_one_connection() {
    let Some(node) = node() else { return };
    let exchanges: [(&[u8], &[u8]); 12] = [
        (b"PUT a 1\n", b"OK\n"),
        (b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", b"$1\r\n1\r\n"),
        (b"*2\r\n$4\r\nINCR\r\n$1\r\na\r\n", b":2\r\n"),
        (b"GET a\r\n", b"VALUE 2\n"),
        // Each with its own meaning: SET creates in the text protocol, and sets either way in RESP.
        (b"SET a 3\n", b"ERROR EXISTS key \"a\" exists; use UPD to change it, PUT to set it either way\n"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n3\r\n", b"+OK\r\n"),
        (b"*2\r\n$5\r\nHELLO\r\n$1\r\n9\r\n", b"-NOPROTO unsupported protocol version\r\n"),
        (b"COUNT\n", b"1\n"),
        (b"*3\r\n$3\r\nSET\r\n$4\r\n\x00\r\n\xff\r\n$3\r\n\r\n\x01\r\n", b"+OK\r\n"),
        (b"GET \"\\x00\\r\\n\\xff\"\n", b"VALUE \"\\r\\n\\x01\"\n"),
        (b"*3\r\n$3\r\nDEL\r\n$1\r\na\r\n$4\r\n\x00\r\n\xff\r\n", b":2\r\n"),
        (b"QUIT\n", b"OK\n"),
    ];
    let (sent, wanted): (Vec<&[u8]>, Vec<&[u8]>) = exchanges.into_iter().unzip();
    // All at once, and in as many pieces as there are bytes.
    for piece_len in [usize::MAX, 1] {
        let mut connection = Client::connect(node.client_addr(1)).unwrap();
        for piece in sent.concat().chunks(piece_len) {
            connection.send(piece).unwrap();
        }
        let found = connection.rest_until_closed().unwrap();
        assert_eq!(found.escape_ascii().to_string(), wanted.concat().escape_ascii().to_string(), "in pieces of {piece_len}");
    }
}

#[test]
fn text_and_resp_on_two_connections() {
    let Some(node) = node() else { return };
    let mut text = Client::connect(node.client_addr(1)).unwrap();
    let mut resp = Client::connect(node.client_addr(1)).unwrap();
    resp.ask_words(&["HELLO", "3"]).unwrap();
    for number in 0..100 {
        let (key, value) = (format!("key {number}"), format!("value {number}"));
        if number % 2 == 0 {
            assert_eq!(text.ask_line(&format!("SET \"{key}\" {value}")).unwrap(), "OK");
        } else {
            assert_eq!(resp.ask_words(&["SET", &key, &value]).unwrap().reply, Reply::Simple("OK".into()));
        }
        assert_eq!(resp.ask_words(&["GET", &key]).unwrap().reply, Reply::Bulk(value.clone().into_bytes()));
        assert_eq!(text.ask_line(&format!("GET \"{key}\"")).unwrap(), format!("VALUE {value}"));
    }
    assert_eq!(resp.ask_words(&["DBSIZE"]).unwrap().int(), Some(100));
    assert_eq!(text.ask_line("COUNT").unwrap(), "100");
    // A key expires for both protocols.
    resp.send(request(&["PSETEX", "key 0", "1", "gone"])).unwrap();
    assert!(!resp.answer().unwrap().is_error());
    crate::cluster::until("the key expires", crate::cluster::DEADLINE, || {
        let line = text.ask_line("GET \"key 0\"").unwrap();
        if line.starts_with("ERROR NOTFOUND") { Ok(()) } else { Err(line) }
    });
    assert_eq!(text.ask_line("COUNT").unwrap(), "99");
    assert_eq!(resp.ask_words(&["GET", "key 0"]).unwrap().reply, Reply::Null);
}

/// `None` where another server stands in for a node: it speaks one protocol.
fn node() -> Option<Cluster> {
    std::env::var_os("KVMESH_REDIS_ADDR").is_none().then(|| Cluster::plan(1).patient().start())
}
