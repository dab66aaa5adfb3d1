//! Replies as JSON. Bytes that are not UTF-8 are base64 under a name of their own, as in a dump:
//! `k64` for `k`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// Puts bytes into an object: as `name`, or in base64 as `name64`.
pub fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_string(), text.into()),
        Err(_) => object.insert(format!("{name}64"), STANDARD.encode(bytes).into()),
    };
}

/// Turns a report, lines of `name value…`, into an object. A name that comes again makes a list.
pub fn report(lines: &[impl AsRef<str>]) -> Value {
    let mut object = Map::new();
    for line in lines {
        let (name, value) = line.as_ref().split_once(' ').unwrap_or((line.as_ref(), ""));
        let value = as_json(value);
        match object.get_mut(name) {
            None => {
                object.insert(name.to_string(), value);
            }
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(object)
}

/// Turns a line of PEERS into an object: `peer 2 up`, followed by names and values in turn. `None`
/// if the line has another form.
pub fn peer(line: &str) -> Option<Value> {
    let mut words = line.strip_prefix("peer ")?.split(' ');
    let mut object = Map::new();
    object.insert("peer".to_string(), as_json(words.next()?));
    object.insert("state".to_string(), as_json(words.next()?));
    while let Some(name) = words.next() {
        object.insert(name.to_string(), as_json(words.next()?));
    }
    Some(Value::Object(object))
}

/// Turns a value into JSON: a number, an object, or else text. Only what is written as a plain
/// number is one: `1e5` may be a digest. A number that not every reader of JSON holds exactly, such
/// as a stamp, stays text.
fn as_json(text: &str) -> Value {
    const EXACT_MAX: f64 = (1u64 << 53) as f64;
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Number(number)) if plain && number.as_f64().is_some_and(|number| number.abs() < EXACT_MAX) => Value::Number(number),
        Ok(Value::Object(object)) => Value::Object(object),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_an_object_with_numbers_lists_and_objects() {
        let lines = [
            "node 1",
            "drift_s -0.5",
            "digest 1e5",
            "vector {\"1-0f\":\"9\"}",
            "peer 2 up",
            "peer 3 down",
            "peer 4 up",
            "id 0012",
            "stamp 9007199254740993",
            "bare",
        ];
        let expected = r#"{"node":1,"drift_s":-0.5,"digest":"1e5","vector":{"1-0f":"9"},"peer":["2 up","3 down","4 up"],"id":"0012","stamp":"9007199254740993","bare":""}"#;
        assert_eq!(report(&lines), serde_json::from_str::<Value>(expected).unwrap());
    }

    #[test]
    fn a_peer_becomes_an_object() {
        let expected = r#"{"peer":2,"state":"up","addr":"127.0.0.1:7102","lag_s":0.5,"acked":"116069418624417792"}"#;
        let line = "peer 2 up addr 127.0.0.1:7102 lag_s 0.5 acked 116069418624417792";
        assert_eq!(peer(line).unwrap(), serde_json::from_str::<Value>(expected).unwrap());
        assert_eq!(peer("peer 2 up addr"), None);
        assert_eq!(peer("node 1"), None);
    }

    #[test]
    fn bytes_that_are_not_text_are_base64() {
        let mut object = Map::new();
        put_bytes(&mut object, "k", "é".as_bytes());
        put_bytes(&mut object, "v", b"\xff\x00");
        assert_eq!(Value::Object(object).to_string(), r#"{"k":"é","v64":"/wA="}"#);
    }
}
