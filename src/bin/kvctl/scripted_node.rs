//! A scripted node, for tests.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::time::Duration;

use crate::Options;

/// Starts a node that gives each command its reply, to every client, and closes the connection at
/// any other command. A command that ends in `*` matches any rest. Returns its address.
pub fn scripted(lines: &[(&str, &str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let lines: Vec<(String, String)> = lines.iter().map(|(command, reply)| (command.to_string(), reply.to_string())).collect();
    // The thread ends with the test program: a listener cannot be told to stop.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let mut command = String::new();
            while reader.read_line(&mut command).is_ok_and(|len| len > 0) {
                let Some((_, reply)) = lines.iter().find(|(known, _)| is(known, command.trim_end())) else { break };
                if reader.get_mut().write_all(reply.as_bytes()).is_err() {
                    break;
                }
                command.clear();
            }
        }
    });
    addr
}

fn is(known: &str, command: &str) -> bool {
    known.strip_suffix('*').map_or(known == command, |begin| command.starts_with(begin))
}

/// An address at which nothing listens.
pub fn deserted() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

pub fn options(nodes: &[&str]) -> Options {
    let nodes = nodes.iter().map(|addr| addr.to_string()).collect();
    Options { nodes, credentials: None, tls: None, ack: None, json: false, timeout: Duration::from_secs(10) }
}
