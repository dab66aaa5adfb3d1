//! Every reply in both versions, byte for byte.

use std::borrow::Cow;

use super::*;
use crate::wire::ack_level::AckLevel;

/// A reply in version 2 and in version 3.
fn both(reply: &Reply<'_>) -> [String; 2] {
    [RespVersion::Two, RespVersion::Three].map(|version| {
        let mut out = b"before".to_vec();
        encode_reply(reply, version, &mut out);
        let mut written = b"before".to_vec();
        write_reply(&mut written, reply, version).unwrap();
        assert_eq!(out, written);
        String::from_utf8(out.split_off("before".len())).unwrap()
    })
}

fn same(reply: &Reply<'_>, bytes: &str) {
    assert_eq!(both(reply), [bytes, bytes], "{reply:?}");
}

fn error(code: ErrorCode, sentence: &str) -> Reply<'_> {
    Reply::Error { code, sentence: Cow::Borrowed(sentence) }
}

#[test]
fn what_both_versions_write_alike() {
    same(&Reply::Ok, "+OK\r\n");
    same(&Reply::Status("PONG"), "+PONG\r\n");
    same(&Reply::Value(b"a\r\n$b"[..].into()), "$5\r\na\r\n$b\r\n");
    same(&Reply::Value(b""[..].into()), "$0\r\n\r\n");
    same(&Reply::Bytes(Cow::Borrowed(b"abc")), "$3\r\nabc\r\n");
    same(&Reply::Key(b"k"), "$1\r\nk\r\n");
    same(&Reply::Line("N1 up"), "$5\r\nN1 up\r\n");
    same(&Reply::End, "");
    same(&Reply::Ack(AckLevel::Majority), "$8\r\nmajority\r\n");
    same(&Reply::Digest { sum: 0xbeef, keys: 12 }, "$19\r\n000000000000beef 12\r\n");
    same(&Reply::Integer(0), ":0\r\n");
    same(&Reply::Integer(-1), ":-1\r\n");
    same(&Reply::Integer(i64::MIN), ":-9223372036854775808\r\n");
    same(&Reply::Array(vec![]), "*0\r\n");
    same(&Reply::Array(vec![Reply::Integer(1), Reply::Array(vec![Reply::Ok])]), "*2\r\n:1\r\n*1\r\n+OK\r\n");
}

#[test]
fn any_byte_of_a_value_is_written_as_it_is() {
    let value: Vec<u8> = (0..=255).collect();
    let mut out = Vec::new();
    encode_reply(&Reply::Value(value.as_slice().into()), RespVersion::Two, &mut out);
    assert_eq!(out, [b"$256\r\n", &value[..], b"\r\n"].concat());
}

#[test]
fn what_only_version_3_knows() {
    assert_eq!(both(&Reply::Null), ["$-1\r\n", "_\r\n"]);
    assert_eq!(both(&Reply::Absent(Cow::Borrowed(b"k"))), ["$-1\r\n", "_\r\n"]);
    assert_eq!(both(&Reply::NullArray), ["*-1\r\n", "_\r\n"]);
    assert_eq!(both(&Reply::Text("a\r\nb".to_owned())), ["$4\r\na\r\nb\r\n", "=8\r\ntxt:a\r\nb\r\n"]);
    assert_eq!(both(&Reply::Text("ä".to_owned())), ["$2\r\nä\r\n", "=6\r\ntxt:ä\r\n"]);
    let set = Reply::Set(vec![Reply::Status("fast"), Reply::Null]);
    assert_eq!(both(&set), ["*2\r\n+fast\r\n$-1\r\n", "~2\r\n+fast\r\n_\r\n"]);
    let map = Reply::Map(vec![(Reply::Key(b"a"), Reply::Integer(1)), (Reply::Key(b"b"), Reply::Map(vec![]))]);
    assert_eq!(both(&map), ["*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n*0\r\n", "%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n%0\r\n"]);
}

#[test]
fn errors_begin_with_the_word_that_clients_look_for() {
    for (code, prefix) in [
        (ErrorCode::NoQuorum, "NOREPLICAS"),
        (ErrorCode::Full, "OOM"),
        (ErrorCode::ReadOnly, "READONLY"),
        (ErrorCode::Loading, "LOADING"),
        (ErrorCode::Timeout, "TIMEOUT"),
        (ErrorCode::Busy, "BUSY"),
        (ErrorCode::ExecAbort, "EXECABORT"),
        (ErrorCode::NoProto, "NOPROTO"),
        (ErrorCode::WrongPass, "WRONGPASS"),
        (ErrorCode::NoAuth, "NOAUTH"),
        (ErrorCode::NoPerm, "NOPERM"),
        (ErrorCode::Exists, "EXISTS"),
        (ErrorCode::NotFound, "NOTFOUND"),
        (ErrorCode::Stale, "STALE"),
        (ErrorCode::BadDump, "BADDUMP"),
        (ErrorCode::Syntax, "ERR"),
        (ErrorCode::Unknown, "ERR"),
        (ErrorCode::TooBig, "ERR"),
        (ErrorCode::NotNumber, "ERR"),
        (ErrorCode::Err, "ERR"),
    ] {
        same(&error(code, "as it is"), &format!("-{prefix} as it is\r\n"));
    }
}

#[test]
fn an_error_is_one_line_whatever_it_quotes() {
    same(&error(ErrorCode::Err, "unknown command 'a\r\n+OK\n', with"), "-ERR unknown command 'a  +OK ', with\r\n");
    same(&error(ErrorCode::Err, "\n\n"), "-ERR   \r\n");
    same(&error(ErrorCode::Err, ""), "-ERR \r\n");
}

#[test]
fn requests_are_arrays_of_bulks() {
    let mut out = b"before".to_vec();
    request(&[&b"SET"[..], b"", b"\r\n"], &mut out);
    assert_eq!(out, b"before*3\r\n$3\r\nSET\r\n$0\r\n\r\n$2\r\n\r\n\r\n");
}

#[test]
fn a_writer_that_fails_is_reported() {
    let mut room = [0_u8; 7];
    let error = write_reply(&mut &mut room[..], &Reply::Value(b"abc"[..].into()), RespVersion::Two).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
}
