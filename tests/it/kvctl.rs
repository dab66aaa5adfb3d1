//! kvctl as a person sees it, on a terminal: with keys and values of any bytes, and with a server
//! that is no node or an evil one.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::pty::openpty;

use crate::cluster::Cluster;
use crate::kit::process::Process;
use crate::program::{self, run};

/// Sets a title, clears the screen, colours, fills the clipboard, the same in eight bits, and turns
/// the direction of text.
const EVIL: &[u8] = b"\x1b]0;owned\x07\x1b[2J\x1b[31mFAKE\x1b[0m\x1b]52;c;ZXZpbA==\x07\x9b31m\xc2\x9b31m\xe2\x80\xaegnp.exe";

fn kvctl(addr: SocketAddr, args: &[&str]) -> Command {
    program::kvctl(&[addr], &[&["--timeout", "10"], args].concat())
}

/// Runs a command on a terminal on which this is typed. Returns its exit code and what a person
/// sees there.
fn seen(mut command: Command, typed: &[u8]) -> (Option<i32>, Vec<u8>) {
    let ends = openpty(None, None).unwrap();
    let (mut terminal, kvctls) = (File::from(ends.master), ends.slave);
    let both = || Stdio::from(kvctls.try_clone().unwrap());
    command.stdin(both()).stdout(both()).stderr(both()).env("TERM", "dumb").env("HOME", "/nonexistent").env_remove("XDG_STATE_HOME");
    let mut kvctl = Process::start(&mut command).unwrap();
    // The terminal ends when no process holds its other end.
    drop((command, kvctls));
    terminal.write_all(typed).unwrap();
    let reader = thread::spawn(move || {
        let mut shown = Vec::new();
        // Linux reports that end as an error.
        let _ = terminal.read_to_end(&mut shown);
        shown
    });
    let status = kvctl.ended();
    (status.code(), reader.join().unwrap())
}

/// Checks that no byte is one that a terminal obeys. Lines end with `\r\n` there.
#[track_caller]
fn assert_text(shown: &[u8], what: &str) {
    let text = std::str::from_utf8(shown).unwrap_or_else(|_| panic!("{what}: {}", shown.escape_ascii()));
    let is_obeyed = |c: char| c.is_control() && !matches!(c, '\r' | '\n' | '\t') || c == '\u{202e}';
    assert!(!text.contains(is_obeyed) && !text.replace("\r\n", "").contains('\r'), "{what}: {text:?}");
}

#[test]
fn no_key_and_no_value_reaches_a_terminal_as_it_is_and_a_pipe_gets_the_bytes() {
    let cluster = Cluster::plan(1).start();
    let addr = cluster.client_addr(1);
    let mut client = cluster.client(1);
    let quoted = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let key = [b"k", EVIL].concat();
    for (key, value) in [(&b"k"[..], EVIL), (&key, b"v"), (b"text", b"plain"), (b"odd", b"\xc2\x9b31m\xe2\x80\xaegnp.exe")] {
        assert_eq!(client.ask_line(&format!("SET \"{}\" \"{}\"", quoted(key), quoted(value))).unwrap(), "OK");
    }
    for args in [
        &["get", "k"][..],
        &["get", "odd"],
        &["--json", "get", "k"],
        &["--json", "get", "odd"],
        &["keys"],
        &["--json", "keys"],
        &["dump"],
        &["status"],
        &["peers"],
    ] {
        let (code, shown) = seen(kvctl(addr, args), b"");
        assert_text(&shown, args[0]);
        assert_eq!(code, Some(0), "{args:?}: {}", shown.escape_ascii());
    }
    let (_, shown) = seen(kvctl(addr, &["get", "odd"]), b"");
    assert_eq!(String::from_utf8(shown).unwrap(), "\"\\xC2\\x9B31m\\xE2\\x80\\xAEgnp.exe\"\r\n");
    let (_, shown) = seen(kvctl(addr, &["get", "text"]), b"");
    assert_eq!(String::from_utf8(shown).unwrap(), "plain\r\n");
    // A user who asks for the bytes gets them.
    let (_, shown) = seen(kvctl(addr, &["get", "--raw", "k"]), b"");
    assert_eq!(shown, EVIL);
    let piped = kvctl(addr, &["get", "k"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(piped.stdout, [EVIL, b"\n"].concat());

    // The prompt's editor moves the cursor; what it prints of the node does not.
    let (code, shown) = seen(kvctl(addr, &[]), b"GET k\rGET odd\rKEYS\rexit\r");
    assert_eq!(code, Some(0));
    let is_in = |wanted: &[u8]| shown.windows(wanted.len()).any(|part| part == wanted);
    assert!(is_in(b"FAKE") && is_in(b"gnp.exe\"\r\n"), "{}", shown.escape_ascii());
    for part in [&b"\x1b]"[..], b"\x1b[2J", b"\x9b", b"\x07", b"\xe2\x80\xae"] {
        assert!(!is_in(part), "{}: {}", part.escape_ascii(), shown.escape_ascii());
    }
}

/// Serves every connection in a thread of its own, which ends with the test program.
pub fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    addr
}

/// A server that waits for a command and then sends this.
fn saying(reply: Vec<u8>) -> SocketAddr {
    server(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&reply);
    })
}

#[test]
fn no_word_of_a_server_reaches_a_terminal_as_it_is() {
    let line = |before: &str, after: &str| saying([before.as_bytes(), EVIL, after.as_bytes()].concat());
    for addr in [
        line("ERROR UNKNOWN ", "\n"),
        line("VALUE ", "\n"),
        line("", "\n"),
        line("state ", "\nEND\n"),
        line("KEY \"", "\"\nEND\n"),
        line("DIGEST ", " 1\n"),
    ] {
        for args in [
            &["get", "k"][..],
            &["keys"],
            &["status"],
            &["peers"],
            &["--json", "peers"],
            &["digest"],
            &["dump"],
            &["set", "a", "b"],
            &["ping"],
            &["count"],
        ] {
            let (code, shown) = seen(kvctl(addr, args), b"");
            assert!(code.is_some(), "{args:?}");
            assert_text(&shown, args[0]);
        }
        for args in [&["diff"][..], &["converge", "--timeout", "0.1"]] {
            let (_, shown) = seen(program::kvctl(&[addr, addr], args), b"");
            assert_text(&shown, args[0]);
        }
    }
}

/// Runs kvctl with short timeouts, as a script does, to its end.
fn end(addr: SocketAddr, args: &[&str]) -> (Option<i32>, String) {
    let ended = run(&mut program::kvctl(&[addr, addr], &[&["--timeout", "0.2"], args].concat()));
    (ended.code, ended.err)
}

/// Each byte, and each line, comes in time; the end of the reply never does.
#[test]
fn a_server_that_drips_is_given_up() {
    let drip = |piece: &'static [u8]| {
        server(move |mut stream| {
            // The last attempt of `converge` waits 50 ms for a byte, on a machine that may be busy.
            for byte in piece.iter().cycle() {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(3));
            }
        })
    };
    let (bytes, keys, states) = (drip(b"x"), drip(b"KEY a\n"), drip(b"state open\n"));
    for (addr, args, expected) in [
        (bytes, &["get", "k"][..], 3),
        (bytes, &["set", "k", "v"], 4),
        (bytes, &["status"], 3),
        (keys, &["keys"], 3),
        (states, &["status"], 3),
        (states, &["converge", "--timeout", "0.5"], 3),
    ] {
        let (code, err) = end(addr, args);
        assert_eq!(code, Some(expected), "{args:?}: {err}");
        assert!(err.contains("and that was not all of it"), "{args:?}: {err}");
    }
}

/// The bytes that it was sent until it left show how much of them it held.
#[test]
fn a_line_without_end_and_a_report_without_end_are_given_up() {
    const SENT_MAX: usize = 64 << 20;
    for (piece, args, expected) in [
        (&[b'x'; 65536][..], &["get", "k"][..], 1),
        (&[b'x'; 65536], &["put", "k", "v"], 4),
        (&[b'x'; 65536], &["status"], 1),
        (&b"state open\n".repeat(5000), &["status"], 1),
        (&b"state open\n".repeat(5000), &["converge", "--timeout", "0.5"], 3),
    ] {
        let (sent, piece) = (Arc::new(AtomicUsize::new(0)), piece.to_vec());
        let counted = Arc::clone(&sent);
        let addr = server(
            move |mut stream| {
                while stream.write_all(&piece).is_ok() && counted.fetch_add(piece.len(), Ordering::Relaxed) < 8 * SENT_MAX {}
            },
        );
        let (code, err) = end(addr, args);
        assert_eq!(code, Some(expected), "{args:?}: {err}");
        assert!(err.contains("of more than"), "{args:?}: {err}");
        // Commands that ask both nodes, or several times, are sent it as often.
        let sent = sent.load(Ordering::Relaxed);
        assert!(args[0] == "converge" || sent < SENT_MAX, "{args:?}: {sent} bytes");
    }
}
