use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, channel};

use kvmesh::wire::frame::{read, seal};

use super::*;

const SOON: Duration = Duration::from_secs(10);
/// Long enough to notice what must not arrive.
const A_WHILE: Duration = Duration::from_millis(200);

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// An event at the dialled node: a frame, or the end of a connection.
#[derive(Debug, PartialEq)]
enum Received {
    Frame(Vec<u8>),
    Clean,
    Broken(io::ErrorKind),
}
use Received::{Broken, Clean, Frame};

/// Reads the frames of each connection as a node does, answers each with the byte that it begins
/// with, and closes at the first error.
fn node() -> (SocketAddr, Receiver<Received>) {
    let listener = listener();
    let addr = listener.local_addr().unwrap();
    let (received_tx, received_rx) = channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let received_tx = received_tx.clone();
            thread::spawn(move || {
                let mut frame = Vec::new();
                loop {
                    let received = match read(&mut stream, &mut frame, 1 << 20) {
                        Ok(true) => Frame(frame[HEAD_LEN..].to_vec()),
                        Ok(false) => Clean,
                        Err(error) => Broken(error.kind()),
                    };
                    if let Frame(body) = &received {
                        let _ = stream.write_all(&body[..1]);
                    }
                    let is_last = !matches!(received, Frame(_));
                    if received_tx.send(received).is_err() || is_last {
                        return;
                    }
                }
            });
        }
    });
    (addr, received_rx)
}

fn frame(number: u8) -> Vec<u8> {
    long_frame(number, 20)
}

fn long_frame(number: u8, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    seal(&mut out, number, |out| out.resize(out.len() + len, b'.'));
    out
}

fn dial(link: &Link) -> TcpStream {
    let stream = TcpStream::connect(link.addr()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A link in this mode, a connection through it, and the node at its end.
fn link(mode: Mode) -> (Link, TcpStream, Receiver<Received>) {
    let (addr, received) = node();
    let link = Link::to(addr, listener()).unwrap();
    link.set(mode);
    let stream = dial(&link);
    (link, stream, received)
}

/// A link in this mode, once a frame has passed through it and was answered.
fn link_in_use(mode: Mode) -> (Link, TcpStream, Receiver<Received>) {
    let (link, mut stream, received) = link(Mode::Pass);
    stream.write_all(&frame(1)).unwrap();
    assert_eq!((next(&received), answer(&stream)), (1, Some(1)));
    link.set(mode);
    (link, stream, received)
}

fn end(received: &Receiver<Received>) -> Received {
    received.recv_timeout(SOON).unwrap()
}

/// The number of the next frame that the node received.
fn next(received: &Receiver<Received>) -> u8 {
    match end(received) {
        Frame(body) => body[0],
        other => panic!("{other:?}"),
    }
}

/// The next byte of the node; `None` for a close that the link has passed on.
fn answer(mut stream: &TcpStream) -> Option<u8> {
    let mut byte = [0];
    matches!(stream.read(&mut byte), Ok(1)).then_some(byte[0])
}

fn is_silent(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(A_WHILE)).unwrap();
    let kind = stream.read(&mut [0]).map_err(|error| error.kind());
    stream.set_read_timeout(Some(SOON)).unwrap();
    matches!(kind, Err(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
}

fn await_effect(link: &Link, wanted: impl Fn(&Effects) -> bool) {
    let began = Instant::now();
    while !wanted(&link.effects()) {
        assert!(began.elapsed() < SOON, "{:?}", link.effects());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn frames_pass_in_pieces_and_together() {
    let (link, mut stream, received) = link(Mode::Pass);
    let bytes = [frame(1), frame(2), frame(3)].concat();
    let (first, rest) = bytes.split_at(40);
    stream.write_all(first).unwrap();
    thread::sleep(Duration::from_millis(20));
    stream.write_all(rest).unwrap();
    assert_eq!([1, 2, 3], [(); 3].map(|()| next(&received)));
    drop(stream);
    assert_eq!(end(&received), Clean);
    assert_eq!(link.effects(), Effects::default());
}

#[test]
fn a_frame_that_has_begun_to_pass_ends_unchanged() {
    let (link, mut stream, received) = link(Mode::Pass);
    let bytes = [frame(1), frame(2)].concat();
    let (first, rest) = bytes.split_at(20);
    stream.write_all(first).unwrap();
    thread::sleep(Duration::from_millis(20));
    link.set(Mode::DuplicateFrames);
    stream.write_all(rest).unwrap();
    stream.write_all(&[frame(3), frame(4)].concat()).unwrap();
    let numbers = [(); 5].map(|()| next(&received));
    assert_eq!((numbers[0], link.effects().duplicated), (1, 1), "{numbers:?}");
}

#[test]
fn a_cut_breaks_what_is_open_and_what_is_dialled() {
    let (link, stream, received) = link_in_use(Mode::Cut);
    assert_eq!((answer(&stream), end(&received), answer(&dial(&link))), (None, Clean, None));
    let effects = link.effects();
    assert_eq!((effects.broken, effects.refused), (1, 1));
    link.set(Mode::Pass);
    dial(&link).write_all(&frame(2)).unwrap();
    assert_eq!(next(&received), 2);
}

#[test]
fn a_forgotten_connection_leads_nowhere_and_a_new_one_works() {
    let (link, mut old, received) = link_in_use(Mode::Pass);
    link.forget();
    old.write_all(&frame(2)).unwrap();
    let mut new = dial(&link);
    new.write_all(&frame(3)).unwrap();
    assert_eq!((next(&received), answer(&new)), (3, Some(3)));
    assert!(is_silent(&old));
    // Nor is a close passed on.
    drop(old);
    assert!(received.recv_timeout(A_WHILE).is_err());
    assert_eq!((link.effects().forgotten, link.effects().broken), (1, 0));
}

#[test]
fn a_target_that_is_not_there_is_felt_at_once() {
    let unused = listener().local_addr().unwrap();
    let link = Link::to(unused, listener()).unwrap();
    assert_eq!(answer(&dial(&link)), None);
}

#[test]
fn what_is_swallowed_never_comes_and_its_connection_ends_with_the_fault() {
    let (link, mut stream, received) = link_in_use(Mode::Swallow);
    stream.write_all(&[frame(2), frame(3)].concat()).unwrap();
    await_effect(&link, |effects| effects.frames_dropped == 2);
    link.set(Mode::Pass);
    assert_eq!((end(&received), answer(&stream)), (Clean, None));
    assert_eq!(link.effects().broken, 1);
}

#[test]
fn a_deaf_link_holds_back_and_loses_nothing() {
    let (link, mut stream, received) = link_in_use(Mode::Deaf);
    stream.write_all(&frame(2)).unwrap();
    assert!(received.recv_timeout(A_WHILE).is_err());
    link.set(Mode::Pass);
    assert_eq!(next(&received), 2);
    assert_eq!(link.effects().bytes_held, frame(2).len() as u64);
}

#[test]
fn a_stall_holds_everything_back_and_loses_nothing() {
    let (link, mut old, received) = link_in_use(Mode::Stall);
    let mut new = dial(&link);
    for (stream, number) in [(&mut old, 2), (&mut new, 3)] {
        stream.write_all(&frame(number)).unwrap();
        assert!(is_silent(stream));
    }
    assert!(received.try_recv().is_err());
    link.set(Mode::Pass);
    assert_eq!([&old, &new].map(answer), [Some(2), Some(3)]);
}

#[test]
fn a_delay_is_felt() {
    let pause = Duration::from_millis(80);
    let (link, mut stream, received) = link(Mode::Delay(pause));
    let began = Instant::now();
    stream.write_all(&frame(1)).unwrap();
    assert_eq!(next(&received), 1);
    assert!(began.elapsed() >= pause);
    assert_eq!(link.effects().bytes_delayed, frame(1).len() as u64);
}

#[test]
fn a_narrow_link_takes_its_time_for_each_piece_until_it_is_wide_again() {
    let (link, mut stream, received) = link(Mode::Narrow(Duration::from_millis(20)));
    let long = long_frame(1, 5 * PIECE_LEN);
    let began = Instant::now();
    stream.write_all(&long).unwrap();
    assert_eq!(next(&received), 1);
    assert!(began.elapsed() >= Duration::from_millis(100), "in {:?}", began.elapsed());
    assert_eq!(link.effects().bytes_slowed, long.len() as u64);
    link.set(Mode::Narrow(SOON * 10));
    stream.write_all(&long).unwrap();
    thread::sleep(Duration::from_millis(20));
    link.set(Mode::Pass);
    assert_eq!(next(&received), 1);
}

/// Bytes that a narrow link has not carried wait at the node that sends, not in the link.
#[test]
fn a_narrow_link_passes_a_frame_before_it_has_all_of_it() {
    let (link, mut stream, received) = link(Mode::Narrow(Duration::from_millis(5)));
    let long = long_frame(1, 50 * PIECE_LEN);
    let (first, rest) = long.split_at(long.len() / 2);
    stream.write_all(first).unwrap();
    await_effect(&link, |effects| effects.bytes_slowed == first.len() as u64);
    stream.write_all(rest).unwrap();
    assert_eq!(next(&received), 1);
}

#[test]
fn a_reset_comes_in_mid_frame() {
    let (link, mut stream, received) = link(Mode::Reset);
    stream.write_all(&frame(1)).unwrap();
    let end = end(&received);
    assert!(matches!(end, Broken(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof)), "{end:?}");
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!((link.effects().resets, link.effects().broken), (1, 1));
}

#[test]
fn a_flipped_bit_is_a_wrong_checksum_and_who_notices_closes() {
    let (link, mut stream, received) = link(Mode::Flip);
    stream.write_all(&frame(1)).unwrap();
    assert_eq!((end(&received), answer(&stream)), (Broken(io::ErrorKind::InvalidData), None));
    await_effect(&link, |effects| effects.closed_by_node == 1);
    assert_eq!((link.effects().flipped, link.effects().corrupted), (1, 1));
}

#[test]
fn frames_come_twice_and_bytes_that_come_twice_are_no_frames() {
    let (link, mut stream, received) = link(Mode::DuplicateFrames);
    stream.write_all(&[frame(1), frame(2)].concat()).unwrap();
    assert_eq!([1, 1, 2], [(); 3].map(|()| next(&received)));
    link.set(Mode::DuplicateBytes);
    stream.write_all(&[frame(3), frame(4), frame(5)].concat()).unwrap();
    assert_eq!(next(&received), 3);
    let end = end(&received);
    assert!(matches!(end, Broken(_)), "{end:?}");
    await_effect(&link, |effects| effects.closed_by_node == 1);
    assert_eq!(link.effects().duplicated, 2);
}

#[test]
fn a_corrupted_connection_that_its_dialling_side_ends_is_not_left_open_by_the_other() {
    // The dialled side reads nothing, and so never finds out.
    let dialled = listener();
    let link = Link::to(dialled.local_addr().unwrap(), listener()).unwrap();
    link.set(Mode::Flip);
    let mut stream = dial(&link);
    let (_deaf, _) = dialled.accept().unwrap();
    stream.write_all(&frame(1)).unwrap();
    await_effect(&link, |effects| effects.corrupted == 1);
    assert_eq!(link.effects().corrupted_open(), 1);
    drop(stream);
    await_effect(&link, |effects| effects.ended_by_dialler == 1);
    assert_eq!((link.effects().closed_by_node, link.effects().corrupted_open()), (0, 0));
}
