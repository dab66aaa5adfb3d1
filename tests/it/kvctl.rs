//! kvctl as a person sees it, on a terminal: with keys and values of any bytes, and with a server
//! that is no node or an evil one.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::pty::openpty;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

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

/// An address for commands that ask no node.
fn nowhere() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

/// A node that believes nobody, and what it was sent first on each connection.
fn distrustful() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let firsts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&firsts);
    let addr = server(move |mut stream| {
        let mut received = vec![0; 4096];
        let len = stream.read(&mut received).unwrap_or_default();
        let first = String::from_utf8_lossy(&received[..len]).into_owned();
        let refusal = if first.starts_with('*') { "-WRONGPASS no\r\n" } else { "ERROR WRONGPASS no\n" };
        seen.lock().push(first);
        let _ = stream.write_all(refusal.as_bytes());
    });
    (addr, firsts)
}

#[test]
fn every_command_that_connects_says_first_who_asks_and_prints_no_password() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (password, new) = (path("password"), path("new"));
    let made = run(&mut program::kvctl(&[nowhere()], &["genpass", &password]));
    assert_eq!((made.code, made.err.as_str()), (Some(0), ""));
    let secret = fs::read_to_string(&password).unwrap().trim_end().to_owned();
    let (addr, firsts) = distrustful();
    for args in [
        &["get", "k"][..],
        &["put", "k", "v"],
        &["del", "k"],
        &["keys"],
        &["status"],
        &["peers"],
        &["digest"],
        &["dump"],
        &["ping"],
        &["compact"],
        &["backup", new.as_str()],
        &["converge", "--timeout", "0.1"],
        &["diff"],
        &["bench", "--clients", "1"],
        &["bench", "--clients", "1", "--protocol", "resp"],
    ] {
        for from_file in [true, false] {
            firsts.lock().clear();
            let mut command = match from_file {
                true => program::kvctl(&[addr, addr], &[&["--user", "ann", "--password-file", &password], args].concat()),
                false => program::kvctl(&[addr, addr], args),
            };
            if !from_file {
                command.env("KVMESH_USER", "ann").env("KVMESH_PASSWORD", &secret);
            }
            let ended = run(&mut command);
            let firsts = firsts.lock();
            assert!(ended.err.contains("WRONGPASS no") && !ended.outputs().contains(&secret), "{args:?}: {ended:?}");
            let expected = [format!("AUTH ann {secret}\n"), format!("*3\r\n$4\r\nAUTH\r\n$3\r\nann\r\n$64\r\n{secret}\r\n")];
            assert!(!firsts.is_empty() && firsts.iter().all(|first| expected.contains(first)), "{args:?}: {firsts:?}");
        }
    }
}

#[test]
fn a_password_that_others_can_read_is_refused_and_so_is_half_of_the_pair() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    fs::write(&path, "s3cret").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = path.to_str().unwrap();
    for (args, words) in [
        (&["--user", "ann", "--password-file", file, "ping"][..], "others can read or write it (mode 0644); expected mode 0600: chmod 600"),
        (&["--user", "ann", "ping"], "the password of user \"ann\" is missing"),
    ] {
        let ended = run(&mut program::kvctl(&[nowhere()], args));
        assert!(ended.code == Some(2) && ended.err.contains(words) && !ended.err.contains("s3cret"), "{ended:?}");
    }
}

#[test]
fn genpass_makes_a_secret_and_its_hash_and_never_replaces_a_file() {
    let word = |out: &str, name: &str| {
        let line = out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {out}")).to_owned()
    };
    let hash_of = |secret: &str| Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let [one, two] = [(); 2].map(|()| run(&mut program::kvctl(&[nowhere()], &["genpass"])).out);
    let secret = word(&one, "secret");
    assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()) && secret != word(&two, "secret"), "{one}{two}");
    assert_eq!(word(&one, "secret_sha256"), hash_of(&secret));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    let to_file = || run(&mut program::kvctl(&[nowhere()], &["genpass", path.to_str().unwrap()]));
    let made = to_file();
    let secret = fs::read_to_string(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((made.code, made.out), (Some(0), format!("secret_sha256 {}\n", hash_of(secret.trim_end()))));
    let refused = to_file();
    assert!(refused.code == Some(1) && refused.err.contains("cannot write a new file"), "{refused:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), secret);
}
