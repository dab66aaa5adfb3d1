//! Bytes that are no request: the same words, and a close, from both servers.

use std::thread;
use std::time::Duration;

use super::servers::{Servers, open};

const PING: &str = "*1\r\n$4\r\nPING\r\n";

/// Each is answered with an error and a close.
#[test]
fn what_is_no_request_is_refused_alike() {
    let Some(servers) = Servers::start() else { return };
    let numbers =
        ["a", "+1", "01", " 1", "1 ", "1.0", "", "1x", "0x1", "9223372036854775808", "99999999999999999999999", "-9223372036854775809"];
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    for number in numbers.iter().chain(&["2147483648", "9223372036854775807"]) {
        inputs.push(format!("*{number}\r\n").into());
    }
    for number in numbers.iter().chain(&["-1", "-2", "16777217", "2147483648", "9223372036854775807", "-9223372036854775808"]) {
        inputs.push(format!("*1\r\n${number}\r\n").into());
        inputs.push(format!("*2\r\n$3\r\nGET\r\n${number}\r\n").into());
    }
    for first in ["f", "*", ":", "+", "-", " ", "\n", "\r\n", "0", "\t", "\x01", "\x7f", "'", "\\", "%"] {
        inputs.push(format!("*1\r\n{first}4\r\nPING\r\n").into());
        inputs.push(format!("*2\r\n$4\r\nPING\r\n{first}1\r\n").into());
    }
    inputs.push(b"*1\r\n\xff4\r\n".to_vec());
    // Headers that do not end.
    inputs.push([b"*".as_slice(), &[b'1'; 70_000]].concat());
    inputs.push([b"*1\r\n$".as_slice(), &[b'1'; 70_000]].concat());
    inputs.push([b"*1\r\n$4\r\nPING\r\n*1\r\n$".as_slice(), &[b'1'; 70_000]].concat());
    // Behind requests that are answered first, and before one that is not.
    inputs.push(format!("{PING}{PING}*1\r\n$x\r\n").into());
    inputs.push(format!("{PING}*x\r\n{PING}").into());
    inputs.push(format!("*1\r\n$5\r\nMULTI\r\n{PING}*x\r\n").into());
    for input in inputs {
        let [redis, tested] = servers.each().map(|(name, addr)| {
            let mut connection = open(addr);
            // It may close before it has taken all.
            let _ = connection.send(&input);
            connection.rest_until_closed().unwrap_or_else(|error| panic!("{name}: {error} after {}", start_of(&input)))
        });
        assert!(redis.ends_with(b"\r\n") && !redis.is_empty(), "redis: {} after {}", redis.escape_ascii(), start_of(&input));
        // Sentences are text: see compare.rs.
        assert_eq!(String::from_utf8_lossy(&redis), String::from_utf8_lossy(&tested), "after {}", start_of(&input));
    }
}

/// Bytes that look odd and are a request, or nothing at all.
#[test]
fn what_is_odd_and_right_is_taken_alike() {
    let Some(servers) = Servers::start() else { return };
    let inputs = [
        format!("*0\r\n{PING}"),
        format!("*-1\r\n{PING}"),
        format!("*-10\r\n*0\r\n*-9223372036854775808\r\n{PING}"),
        // The two bytes behind a bulk string are ignored.
        format!("*1\r\n$4\r\nPINGxx{PING}"),
        format!("*2\r\n$4\r\nECHO\r\n$0\r\n\r\n{PING}"),
        format!("*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\r\n\r\n{PING}"),
        "*1\r\n$0\r\n\r\n".to_owned(),
        // An incomplete request at the end of a connection is none.
        format!("{PING}*2\r\n$4\r\nECHO\r\n$4\r\nab"),
        format!("{PING}*2\r\n"),
    ];
    for input in inputs {
        let [redis, tested] = servers.each().map(|(name, addr)| {
            let mut connection = open(addr);
            connection.send(input.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
            connection.finish().expect("the end of what is sent");
            connection.rest_until_closed().unwrap_or_else(|error| panic!("{name}: {error} after {input:?}"))
        });
        assert_eq!(redis.escape_ascii().to_string(), tested.escape_ascii().to_string(), "after {input:?}");
    }
}

/// Byte by byte, with pauses between some of them.
#[test]
fn requests_that_drip_are_taken_alike() {
    let Some(servers) = Servers::start() else { return };
    let input =
        format!("*3\r\n$3\r\nSET\r\n$5\r\ndrips\r\n$8\r\n\r\n*1\r\n$4\r\n*2\r\n$3\r\nGET\r\n$5\r\ndrips\r\n{PING}*1\r\n$4\r\nQUIT\r\n");
    let [redis, tested] = servers.each().map(|(name, addr)| {
        let mut connection = open(addr);
        for (number, byte) in input.bytes().enumerate() {
            connection.send([byte]).unwrap_or_else(|error| panic!("{name}: {error}"));
            if number % 7 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
        }
        connection.rest_until_closed().unwrap_or_else(|error| panic!("{name}: {error}"))
    });
    assert_eq!(redis.escape_ascii().to_string(), "+OK\\r\\n$8\\r\\n\\r\\n*1\\r\\n$4\\r\\n+PONG\\r\\n+OK\\r\\n");
    assert_eq!(redis.escape_ascii().to_string(), tested.escape_ascii().to_string());
}

fn start_of(input: &[u8]) -> String {
    let start = &input[..input.len().min(100)];
    format!("\"{}\" ({} bytes)", start.escape_ascii(), input.len())
}
