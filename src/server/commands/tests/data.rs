//! Commands on keys and values.

use std::cell::Cell;

use super::*;
use crate::wire::command::{
    Admin, ExpireOnly, ExpiryUnit, ExpiryWrite, KeyRead, KeyWrite, KeyspaceCommand, Lifetime, MultiKey, Only, ScanStep, Set, SetAnswer,
    StringRead, StringWrite,
};
use crate::wire::resp::arguments::{not_integer, wrong};

fn set<'a>(only: Only, lifetime: Lifetime, answer: SetAnswer) -> Command<'a> {
    write(StringWrite::Set(Set { value: bytes("v"), only, lifetime, answer }))
}

#[test]
fn set_and_its_options() {
    use Lifetime::{Endless, Kept, Until};
    use Only::{Always, IfAbsent, IfPresent};
    use SetAnswer::{Former, Number, OkOrNull, Strict};
    takes("SET k v", set(Always, Endless, OkOrNull));
    takes("set k v nx", set(IfAbsent, Endless, OkOrNull));
    takes("SeT k v Xx xX", set(IfPresent, Endless, OkOrNull));
    takes("SET k v GET", set(Always, Endless, Former));
    takes("SET k v GET NX get", set(IfAbsent, Endless, Former));
    takes("SET k v KEEPTTL XX", set(IfPresent, Kept, OkOrNull));
    takes("SET k v EX 10", set(Always, Until(NOW_MS + 10_000), OkOrNull));
    takes("SET k v PX 10 NX", set(IfAbsent, Until(NOW_MS + 10), OkOrNull));
    takes("SET k v EXAT 10", set(Always, Until(10_000), OkOrNull));
    takes("SET k v PXAT 10 GET", set(Always, Until(10), Former));
    takes("SET k v EX 10 EX 20", set(Always, Until(NOW_MS + 20_000), OkOrNull));
    takes("SET k v EX x EX 20", set(Always, Until(NOW_MS + 20_000), OkOrNull));
    takes("SET k v PXAT 9223372036854775807", set(Always, Until(i64::MAX), OkOrNull));
    for line in [
        "SET k v NX XX",
        "SET k v XX GET NX",
        "SET k v EX",
        "SET k v NX EX",
        "SET k v EX 10 PX 10",
        "SET k v EX 10 EXAT 10",
        "SET k v PX 10 PXAT 10",
        "SET k v KEEPTTL EX 10",
        "SET k v EX 10 KEEPTTL",
        "SET k v PERSIST",
        "SET k v foo",
        "SET k v ''",
        "SET k v EX -1 foo",
        "SET k v EXX 10",
    ] {
        refuses(line, "syntax error");
    }
    for number in ["x", "''", "+5", "05", "-0", "00", "1.5", "1e5", "5x", "-", "9223372036854775808", "-9223372036854775809"] {
        refuses(&format!("SET k v EX {number}"), "value is not an integer or out of range");
    }
    for option in ["EX 0", "EX -1", "PX 0", "EXAT 0", "PXAT -5", "EX 9223372036854776", "EX 9223372036854775807", "PX 9223372036854775807"]
    {
        refuses(&format!("SET k v {option}"), "invalid expire time in 'set' command");
    }
    takes("SETNX k v", set(IfAbsent, Endless, Number));
    takes("SETEX k 10 v", set(Always, Until(NOW_MS + 10_000), OkOrNull));
    takes("PSETEX k 10 v", set(Always, Until(NOW_MS + 10), OkOrNull));
    refuses("SETEX k 0 v", "invalid expire time in 'setex' command");
    refuses("PSETEX k -1 v", "invalid expire time in 'psetex' command");
    refuses("SETEX k x v", "value is not an integer or out of range");
    takes("GETSET k v", set(Always, Endless, Former));
    takes("UPD k v", set(IfPresent, Endless, Strict));
    takes("PUT k v", set(Always, Endless, Strict));
    // Up to the first zero byte, as Redis compares.
    let words: [&[u8]; 4] = [b"SET", b"k", b"v", b"nx\0y"];
    assert_eq!(RequestWords::new(words).parse(), Ok(set(IfAbsent, Endless, OkOrNull).into()));
}

#[test]
fn values() {
    takes("get k", read(StringRead::Get));
    takes("GETDEL k", write(StringWrite::GetDelete));
    takes("GETEX k", read(StringRead::Get));
    takes("GETEX k persist PERSIST", write(StringWrite::GetExpire { lifetime: Lifetime::Endless }));
    takes("GETEX k PX 5", write(StringWrite::GetExpire { lifetime: Lifetime::Until(NOW_MS + 5) }));
    takes("GETEX k EXAT 5", write(StringWrite::GetExpire { lifetime: Lifetime::Until(5000) }));
    for line in ["GETEX k PERSIST EX 5", "GETEX k EX 5 PERSIST", "GETEX k EX 5 PX 5", "GETEX k EX", "GETEX k KEEPTTL", "GETEX k NX"] {
        refuses(line, "syntax error");
    }
    // Redis looks at the number only where there is a value.
    takes("GETEX k EX 0", read(StringRead::GetWithBadExpiry(wrong("invalid expire time in 'getex' command"))));
    takes("GETEX k EX x", read(StringRead::GetWithBadExpiry(not_integer())));
    takes("MGET k", MultiKey::Get(all(&["k"])));
    takes("MGET k l k", MultiKey::Get(all(&["k", "l", "k"])));
    let pairs = vec![(bytes("k"), bytes("v")), (bytes("l"), bytes(""))];
    takes("MSET k v l ''", MultiKey::Set { pairs: pairs.clone(), only_absent: false });
    takes("MSETNX k v l ''", MultiKey::Set { pairs, only_absent: true });
    refuses("MSET k v l", "wrong number of arguments for 'mset' command");
    refuses("MSETNX k v l", "wrong number of arguments for 'msetnx' command");
    takes("APPEND k v", write(StringWrite::Append { tail: bytes("v") }));
    takes("STRLEN k", read(StringRead::Len));
    takes("GETRANGE k 0 -1", read(StringRead::Range { start: 0, end: -1 }));
    takes("SUBSTR k -9223372036854775808 9223372036854775807", read(StringRead::Range { start: i64::MIN, end: i64::MAX }));
    refuses("GETRANGE k 0 x", "value is not an integer or out of range");
    takes("SETRANGE k 5 v", write(StringWrite::Overwrite { offset: 5, bytes: bytes("v") }));
    takes("SETRANGE k 999 v", write(StringWrite::Overwrite { offset: 999, bytes: bytes("v") }));
    refuses("SETRANGE k 1000 v", "string exceeds maximum allowed size (proto-max-bulk-len)");
    refuses("SETRANGE k 9223372036854775807 v", "string exceeds maximum allowed size (proto-max-bulk-len)");
    takes("SETRANGE k 9223372036854775807 ''", write(StringWrite::Overwrite { offset: i64::MAX as usize, bytes: bytes("") }));
    refuses("SETRANGE k -1 v", "offset is out of range");
    refuses("SETRANGE k -1 ''", "offset is out of range");
    refuses("SETRANGE k x v", "value is not an integer or out of range");
}

#[test]
fn numbers() {
    takes("INCR k", write(StringWrite::Add { by: 1 }));
    takes("DECR k", write(StringWrite::Add { by: -1 }));
    takes("INCRBY k -5", write(StringWrite::Add { by: -5 }));
    takes("INCRBY k -9223372036854775808", write(StringWrite::Add { by: i64::MIN }));
    takes("DECRBY k -5", write(StringWrite::Add { by: 5 }));
    takes("DECRBY k 9223372036854775807", write(StringWrite::Add { by: -i64::MAX }));
    refuses("DECRBY k -9223372036854775808", "decrement would overflow");
    for number in ["x", "''", "+5", "05", "-0", "1.5", "9223372036854775808", "-9223372036854775809", "99999999999999999999999"] {
        refuses(&format!("INCRBY k {number}"), "value is not an integer or out of range");
        refuses(&format!("DECRBY k {number}"), "value is not an integer or out of range");
    }
    takes("INCRBYFLOAT k 1.5e3", write(StringWrite::AddDecimal { by: bytes("1.5e3") }));
}

#[test]
fn keys() {
    takes("DEL k", write(KeyWrite::Delete { strict: false }));
    takes("UNLINK k", write(KeyWrite::Delete { strict: false }));
    takes("DEL k k", MultiKey::Delete(all(&["k", "k"])));
    takes("EXISTS k", read(KeyRead::Exists));
    takes("TOUCH k", read(KeyRead::Exists));
    takes("EXISTS k l", MultiKey::Exists(all(&["k", "l"])));
    takes("TYPE k", read(KeyRead::Type));
    takes("RENAME a b", MultiKey::Rename { from: bytes("a"), to: bytes("b"), only_absent: false });
    takes("RENAMENX a b", MultiKey::Rename { from: bytes("a"), to: bytes("b"), only_absent: true });
    takes("RANDOMKEY", KeyspaceCommand::RandomKey);
    takes("KEYS a*", KeyspaceCommand::Matching { pattern: bytes("a*") });
    takes("DBSIZE", KeyspaceCommand::Count);
    for line in ["FLUSHALL", "FLUSHDB async", "FLUSHALL SYNC"] {
        takes(line, KeyspaceCommand::Flush);
    }
    for line in ["FLUSHALL foo", "FLUSHDB SYNC SYNC"] {
        refuses(line, "syntax error");
    }
    takes("OBJECT ENCODING k", read(KeyRead::Encoding));
    takes("memory usage k", read(KeyRead::Footprint));
    takes("MEMORY USAGE k SAMPLES 0 samples 5", read(KeyRead::Footprint));
    refuses("MEMORY USAGE k SAMPLES x", "value is not an integer or out of range");
    for line in ["MEMORY USAGE k SAMPLES", "MEMORY USAGE k SAMPLES -1", "MEMORY USAGE k foo 1"] {
        refuses(line, "syntax error");
    }
    takes("DIGEST", Admin::Digest { before: None });
}

#[test]
fn scans() {
    let scan = |cursor, pattern: Option<&'static str>, count, strings| {
        KeyspaceCommand::Scan(ScanStep { cursor, pattern: pattern.map(bytes), count, strings })
    };
    takes("SCAN 0", scan(0, None, 10, true));
    takes("SCAN 18446744073709551615 match a* count 5 type STRING", scan(u64::MAX, Some("a*"), 5, true));
    takes("SCAN 5 TYPE list", scan(5, None, 10, false));
    takes("SCAN 5 TYPE list TYPE string MATCH a MATCH *", scan(5, None, 10, true));
    takes("SCAN ''", scan(0, None, 10, true));
    takes("SCAN +07", scan(7, None, 10, true));
    takes("SCAN -1", scan(u64::MAX, None, 10, true));
    assert_eq!(RequestWords::new([&b"SCAN"[..], b"5\0x"]).parse(), Ok(scan(5, None, 10, true).into()));
    for cursor in ["x", "+", "-", "+-1", "1x", "0x1", "18446744073709551616"] {
        refuses(&format!("SCAN {cursor}"), "invalid cursor");
    }
    refuses_words(&[b"SCAN", b" 1"], "invalid cursor");
    for options in ["COUNT 0", "COUNT -1", "COUNT", "MATCH", "TYPE", "foo 1", "COUNT 5 foo"] {
        refuses(&format!("SCAN 0 {options}"), "syntax error");
    }
    refuses("SCAN 0 COUNT x", "value is not an integer or out of range");
    // In their order.
    refuses("SCAN x COUNT x", "invalid cursor");
}

#[test]
fn expiries() {
    let expire = |at, only| write(ExpiryWrite::Expire { at, only });
    let none = ExpireOnly::default();
    takes("EXPIRE k 10", expire(NOW_MS + 10_000, none));
    takes("PEXPIRE k -10", expire(NOW_MS - 10, none));
    takes("EXPIREAT k 10", expire(10_000, none));
    takes("PEXPIREAT k -10", expire(-10, none));
    takes("PEXPIREAT k 9223372036854775807", expire(i64::MAX, none));
    takes("PEXPIRE k -9223372036854775808", expire(i64::MIN + NOW_MS, none));
    takes("EXPIRE k 10 nx NX", expire(NOW_MS + 10_000, ExpireOnly { endless: true, ..none }));
    takes("EXPIRE k 10 XX GT", expire(NOW_MS + 10_000, ExpireOnly { expiring: true, later: true, ..none }));
    takes("EXPIREAT k 10 lt xx", expire(10_000, ExpireOnly { expiring: true, earlier: true, ..none }));
    refuses("EXPIRE k x", "value is not an integer or out of range");
    for (line, name) in [
        ("EXPIRE k 9223372036854776", "expire"),
        ("EXPIRE k -9223372036854776", "expire"),
        ("EXPIREAT k 9223372036854776", "expireat"),
        ("PEXPIRE k 9223372036854775807", "pexpire"),
    ] {
        refuses(line, &format!("invalid expire time in '{name}' command"));
    }
    for options in ["NX XX", "NX GT", "LT NX", "NX GT LT"] {
        refuses(&format!("EXPIRE k x {options}"), "NX and XX, GT or LT options at the same time are not compatible");
    }
    refuses("EXPIRE k x GT LT", "GT and LT options at the same time are not compatible");
    refuses("EXPIRE k 10 NX XX foo", "Unsupported option foo");
    refuses_words(&[b"EXPIRE", b"k", b"10", b"fo\no\r\n"], "Unsupported option fo o");
    refuses_words(&[b"EXPIRE", b"k", b"10", b"foo\0bar"], "Unsupported option foo");
    for (name, absolute, milliseconds) in
        [("TTL", false, false), ("PTTL", false, true), ("EXPIRETIME", true, false), ("PEXPIRETIME", true, true)]
    {
        takes(&format!("{name} k"), read(ExpiryUnit { absolute, milliseconds }));
    }
    takes("PERSIST k", write(ExpiryWrite::Persist));
}

#[test]
fn the_clock_is_asked_only_for_what_is_relative() {
    let asked = |line: &str| {
        let (request, count) = (request(line), Cell::new(0));
        let parsed = table::parse(request.words(), &LIMITS, || {
            count.set(count.get() + 1);
            NOW_MS
        });
        assert!(parsed.is_ok(), "{line}");
        count.get()
    };
    for line in ["GET k", "SET k v", "SET k v PXAT 5", "EXPIREAT k 5", "TTL k", "GETEX k PERSIST"] {
        assert_eq!(asked(line), 0, "{line}");
    }
    for line in ["SET k v EX 5", "EXPIRE k 5", "GETEX k PX 5", "SETEX k 5 v"] {
        assert_eq!(asked(line), 1, "{line}");
    }
}
