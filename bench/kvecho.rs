//! `kvecho`: what a session of a node costs without a store, which is the limit of a thread for
//! each connection.
//!
//! It has a node's port, threads, scheduling policy, socket options, read buffer and parser of
//! requests, and answers a round with one write, as a session does. Behind that is nothing: a
//! `SET` is answered with `OK` and forgotten, a `GET` with always the same value. Beside them it
//! knows what the generators ask before they begin, and counts, so that `bench/compare.sh` can
//! check it as it checks everybody.
//!
//! It never replicates, logs or evaluates anything, and does not stop in order: it is killed.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use kvmesh::budget::{self, ByteBudget};
use kvmesh::net::{Acceptor, AfterAccept, listen};
use kvmesh::process::arguments;
use kvmesh::process::threads::schedule_as_batch;
use kvmesh::wire::bytes::Limits;
use kvmesh::wire::resp::Words;
use kvmesh::wire::resp::arguments::is;
use kvmesh::wire::resp::encoding;
use kvmesh::wire::resp::request::{ParsedWords, Partial, parse, request_len_max};
use socket2::{SockRef, TcpKeepalive};

use read_buffer::ReadBuffer;

// A session's own, so that it is never another one here.
#[allow(dead_code, reason = "a session reads ahead while replies wait, and nothing waits here")]
#[path = "../src/server/read_buffer.rs"]
mod read_buffer;

/// The stack of a session: `STACK_LEN` in src/server/clients.rs.
const STACK_LEN: usize = 256 << 10;
/// Bytes of memory for replies that are kept between rounds: `REPLIES_LEN_KEPT` in
/// src/server/session.rs.
const REPLIES_LEN_KEPT: usize = 16 << 10;
/// A node's limits, as they come.
const LIMITS: Limits = Limits { key_len_max: 64 << 10, value_len_max: 16 << 20 };
/// Bytes of large commands that arrive at the same time, in all sessions.
const READ_BUDGET: usize = 256 << 20;

/// Answer SET and GET over RESP without storing anything, until killed.
#[derive(FromArgs, ArgsInfo)]
struct Arguments {
    /// listen here (host:port)
    #[argh(positional)]
    addr: SocketAddr,

    /// bytes of the value that a GET gets
    #[argh(positional)]
    value_len: usize,
}

/// The state that all sessions share.
struct Shared {
    sets: AtomicU64,
    gets: AtomicU64,
    /// The reply to every GET.
    value: Vec<u8>,
    read_budget: Arc<ByteBudget>,
}

/// The counts of one round.
#[derive(Default)]
struct Tally {
    sets: u64,
    gets: u64,
}

fn main() -> ExitCode {
    let arguments: Arguments = arguments::from_env("kvecho");
    match run(&arguments) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("kvecho: {}: {error}", arguments.addr);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<std::convert::Infallible> {
    schedule_as_batch()?;
    let mut value = Vec::new();
    bulk(&vec![b'v'; arguments.value_len], &mut value);
    let read_budget = ByteBudget::new(READ_BUDGET);
    let shared = Arc::new(Shared { sets: AtomicU64::new(0), gets: AtomicU64::new(0), value, read_budget });
    let mut clients = 0;
    let _acceptor = Acceptor::start("accept", listen(arguments.addr)?, move |_, accepted| {
        clients += 1;
        match accepted.and_then(|(socket, _)| start_session(socket, clients, &shared)) {
            Ok(()) => AfterAccept::Continue,
            Err(error) => {
                eprintln!("kvecho: client {clients}: {error}");
                AfterAccept::Pause
            }
        }
    })?;
    loop {
        thread::park();
    }
}

fn start_session(socket: TcpStream, id: u64, shared: &Arc<Shared>) -> io::Result<()> {
    set_options(&socket)?;
    let shared = Arc::clone(shared);
    // An error is a client that has gone.
    let run = move || drop(serve(&socket, &shared));
    thread::Builder::new().name(format!("client-{id}")).stack_size(STACK_LEN).spawn(run).map(drop)
}

/// Sets what src/server/listener.rs sets.
fn set_options(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
    #[cfg(target_os = "linux")]
    let keepalive = keepalive.with_retries(3);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// The loop of a thread `client-N`: reads, answers everything that has come, with one write.
fn serve(mut socket: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut buffer = ReadBuffer::new(request_len_max(&LIMITS), &shared.read_budget);
    let (mut partial, mut replies) = (Partial::default(), Vec::new());
    loop {
        buffer.make_room().map_err(|_| io::ErrorKind::OutOfMemory)?;
        if buffer.fill(&mut socket)? == 0 {
            return Ok(());
        }
        let consumed = run_round(buffer.unread(), &mut partial, shared, &mut replies)?;
        buffer.consume(consumed);
        if !replies.is_empty() {
            socket.write_all(&replies)?;
            replies.clear();
            replies.shrink_to(REPLIES_LEN_KEPT);
        }
    }
}

/// Answers the requests that `unread` begins with. Returns how many bytes they have.
fn run_round(unread: &[u8], partial: &mut Partial, shared: &Shared, replies: &mut Vec<u8>) -> io::Result<usize> {
    let (mut at, mut tally) = (0, Tally::default());
    loop {
        match parse(&unread[at..], partial, &LIMITS) {
            ParsedWords::Incomplete => break,
            ParsedWords::Empty { consumed } => at += consumed,
            ParsedWords::Request { words, consumed } => {
                answer(&words, shared, &mut tally, replies);
                at += consumed;
            }
            ParsedWords::Fatal { wrong } => return Err(io::Error::other(format!("{wrong:?}"))),
        }
    }
    // Before the replies leave: who has one finds it counted.
    for (counter, more) in [(&shared.sets, tally.sets), (&shared.gets, tally.gets)] {
        if more > 0 {
            counter.fetch_add(more, Ordering::Relaxed);
        }
    }
    Ok(at)
}

fn answer(words: &Words<'_, '_>, shared: &Shared, tally: &mut Tally, replies: &mut Vec<u8>) {
    let word = |place| words.get(place).unwrap_or_default();
    let name = word(0);
    if is(name, "GET") && words.len() == 2 {
        tally.gets += 1;
        replies.extend_from_slice(&shared.value);
    } else if is(name, "SET") && words.len() >= 3 {
        tally.sets += 1;
        replies.extend_from_slice(b"+OK\r\n");
    } else if is(name, "PING") {
        replies.extend_from_slice(b"+PONG\r\n");
    } else if is(name, "CONFIG") && is(word(1), "GET") {
        // redis-benchmark asks for `save` and `appendonly`, and shows them. Neither is on.
        encoding::request(&[word(2), b"".as_slice()], replies);
    } else if is(name, "HELLO") {
        let fields = ["server", "kvecho", "version", env!("CARGO_PKG_VERSION"), "mode", "standalone", "role", "master"];
        encoding::request(&fields, replies);
    } else if is(name, "INFO") {
        bulk(info(shared).as_bytes(), replies);
    } else {
        replies.extend_from_slice(b"-ERR kvecho answers SET, GET, PING, CONFIG GET, HELLO and INFO\r\n");
    }
}

/// The counts under the names that Redis has for them.
fn info(shared: &Shared) -> String {
    let (sets, gets) = (shared.sets.load(Ordering::Relaxed), shared.gets.load(Ordering::Relaxed));
    format!(
        "# Stats\r\nkeyspace_hits:{gets}\r\n\
         # Commandstats\r\ncmdstat_set:calls={sets},usec=0,usec_per_call=0.00,rejected_calls=0,failed_calls=0\r\n"
    )
}

fn bulk(bytes: &[u8], replies: &mut Vec<u8>) {
    let head = format!("${}\r\n", bytes.len());
    replies.extend([head.as_bytes(), bytes, b"\r\n"].concat());
}
