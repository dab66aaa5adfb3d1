use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, channel};

use kvmesh::wire::frame::{read, seal};

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// What the dialled side made of its connections: frames, and how each connection ended.
#[derive(Debug, PartialEq)]
enum Heard {
    Frame(Vec<u8>),
    Clean,
    Broken(io::ErrorKind),
}
use Heard::{Broken, Clean, Frame};

/// Reads frames of one connection after the other, as a node does, and closes at the first fault.
fn node() -> (SocketAddr, Receiver<Heard>) {
    let listener = listener();
    let addr = listener.local_addr().unwrap();
    let (heard_tx, heard_rx) = channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let heard_tx = heard_tx.clone();
            thread::spawn(move || {
                let mut envelope = Vec::new();
                loop {
                    let heard = match read(&mut stream, &mut envelope, 1 << 20) {
                        Ok(true) => Frame(envelope[HEAD_LEN..].to_vec()),
                        Ok(false) => Clean,
                        Err(error) => Broken(error.kind()),
                    };
                    let is_last = !matches!(heard, Frame(_));
                    if heard_tx.send(heard).is_err() || is_last {
                        return;
                    }
                }
            });
        }
    });
    (addr, heard_rx)
}

fn frame(number: u8) -> Vec<u8> {
    let mut out = Vec::new();
    seal(&mut out, number, |out| out.extend_from_slice(b"a body of some length"));
    out
}

fn dial(link: &Link) -> TcpStream {
    let stream = TcpStream::connect(link.addr()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn link() -> (Link, Receiver<Heard>) {
    let (addr, heard) = node();
    (Link::to(addr, listener()).unwrap(), heard)
}

fn hear(heard: &Receiver<Heard>) -> Heard {
    heard.recv_timeout(SOON).unwrap()
}

fn number(heard: Heard) -> u8 {
    match heard {
        Frame(body) => body[0],
        other => panic!("{other:?}"),
    }
}

/// A close that the proxy has passed on, to the side that dials.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.read(&mut [0; 1]).unwrap_or(0) == 0
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
    let (link, heard) = link();
    let mut stream = dial(&link);
    let bytes = [frame(1), frame(2), frame(3)].concat();
    let (first, rest) = bytes.split_at(40);
    stream.write_all(first).unwrap();
    thread::sleep(Duration::from_millis(20));
    stream.write_all(rest).unwrap();
    assert_eq!([1, 2, 3], [(); 3].map(|()| number(hear(&heard))));
    drop(stream);
    assert_eq!(hear(&heard), Clean);
    assert_eq!(link.effects(), Effects::default());
}

#[test]
fn a_cut_breaks_what_is_open_and_refuses_what_is_dialled() {
    let (link, heard) = link();
    let mut stream = dial(&link);
    stream.write_all(&frame(1)).unwrap();
    hear(&heard);
    link.set(Mode::Cut);
    assert!(is_closed(&stream));
    assert_eq!(hear(&heard), Clean);
    assert!(is_closed(&dial(&link)));
    let effects = link.effects();
    assert_eq!((effects.broken, effects.refused), (1, 1));
    link.set(Mode::Pass);
    dial(&link).write_all(&frame(2)).unwrap();
    assert_eq!(number(hear(&heard)), 2);
}

#[test]
fn what_is_swallowed_never_comes_and_its_connection_ends_with_the_fault() {
    let (link, heard) = link();
    let mut stream = dial(&link);
    stream.write_all(&frame(1)).unwrap();
    hear(&heard);
    link.set(Mode::Swallow);
    stream.write_all(&[frame(2), frame(3)].concat()).unwrap();
    await_effect(&link, |effects| effects.frames_dropped == 2);
    link.set(Mode::Pass);
    assert_eq!(hear(&heard), Clean);
    assert!(is_closed(&stream));
    assert_eq!(link.effects().broken, 1);
}

#[test]
fn a_deaf_link_holds_back_and_loses_nothing() {
    let (link, heard) = link();
    let mut stream = dial(&link);
    stream.write_all(&frame(1)).unwrap();
    hear(&heard);
    link.set(Mode::Deaf);
    stream.write_all(&frame(2)).unwrap();
    assert!(heard.recv_timeout(Duration::from_millis(100)).is_err());
    link.set(Mode::Pass);
    assert_eq!(number(hear(&heard)), 2);
}

#[test]
fn a_delay_is_felt() {
    let (link, heard) = link();
    let pause = Duration::from_millis(80);
    link.set(Mode::Delay(pause));
    let began = Instant::now();
    dial(&link).write_all(&frame(1)).unwrap();
    assert_eq!(number(hear(&heard)), 1);
    assert!(began.elapsed() >= pause);
    assert_eq!(link.effects().bytes_delayed, frame(1).len() as u64);
}

#[test]
fn a_narrow_link_takes_its_time_for_each_piece_until_it_is_wide_again() {
    let (link, heard) = link();
    let mut stream = dial(&link);
    let mut long = Vec::new();
    seal(&mut long, 1, |out| out.extend_from_slice(&[0; 5 * PIECE_LEN]));
    link.set(Mode::Narrow(Duration::from_millis(20)));
    let began = Instant::now();
    stream.write_all(&long).unwrap();
    assert_eq!(number(hear(&heard)), 1);
    assert!(began.elapsed() >= Duration::from_millis(100), "in {:?}", began.elapsed());
    assert_eq!(link.effects().bytes_slowed, long.len() as u64);
    link.set(Mode::Narrow(SOON * 10));
    stream.write_all(&long).unwrap();
    thread::sleep(Duration::from_millis(20));
    link.set(Mode::Pass);
    assert_eq!(number(hear(&heard)), 1);
}

#[test]
fn a_reset_comes_in_mid_frame() {
    let (link, heard) = link();
    link.set(Mode::Reset);
    let stream = dial(&link);
    (&stream).write_all(&frame(1)).unwrap();
    let end = hear(&heard);
    assert!(matches!(end, Broken(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof)), "{end:?}");
    assert_eq!((&stream).read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!((link.effects().resets, link.effects().broken), (1, 1));
}

#[test]
fn a_flipped_bit_is_a_wrong_checksum_and_who_notices_closes() {
    let (link, heard) = link();
    link.set(Mode::Flip);
    let stream = dial(&link);
    (&stream).write_all(&frame(1)).unwrap();
    assert_eq!(hear(&heard), Broken(io::ErrorKind::InvalidData));
    assert!(is_closed(&stream));
    await_effect(&link, |effects| effects.closed_by_node == 1);
    assert_eq!((link.effects().flipped, link.effects().corrupted), (1, 1));
}

#[test]
fn frames_come_twice_and_bytes_that_come_twice_are_no_frames() {
    let (link, heard) = link();
    link.set(Mode::DuplicateFrames);
    let stream = dial(&link);
    (&stream).write_all(&[frame(1), frame(2)].concat()).unwrap();
    assert_eq!([1, 1, 2], [(); 3].map(|()| number(hear(&heard))));
    link.set(Mode::DuplicateBytes);
    (&stream).write_all(&[frame(3), frame(4), frame(5)].concat()).unwrap();
    assert_eq!(number(hear(&heard)), 3);
    let end = hear(&heard);
    assert!(matches!(end, Broken(_)), "{end:?}");
    assert!(is_closed(&stream));
    await_effect(&link, |effects| effects.closed_by_node == 1);
    assert_eq!(link.effects().duplicated, 2);
}

#[test]
fn a_corrupted_connection_that_its_dialling_side_ends_is_not_left_open_by_the_other() {
    // Who is dialled reads nothing, and so never finds out.
    let dialled = listener();
    let link = Link::to(dialled.local_addr().unwrap(), listener()).unwrap();
    link.set(Mode::Flip);
    let stream = dial(&link);
    let (_deaf, _) = dialled.accept().unwrap();
    (&stream).write_all(&frame(1)).unwrap();
    await_effect(&link, |effects| effects.corrupted == 1);
    assert_eq!(link.effects().corrupted_open(), 1);
    drop(stream);
    await_effect(&link, |effects| effects.ended_by_dialler == 1);
    assert_eq!((link.effects().closed_by_node, link.effects().corrupted_open()), (0, 0));
}
