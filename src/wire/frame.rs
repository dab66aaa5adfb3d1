//! The frame of everything binary: `length u32 | crc32 u32 | body`, little-endian. The checksum is
//! over the body, whose first byte names its kind.
//!
//! Peers send frames, and the log on disk is a row of them: what came from a peer is logged as it
//! came. Knows nothing of what a body means.

use std::io::{self, Read};

/// Bytes in front of the body.
pub const HEAD_LEN: usize = 8;

/// Bytes of scratch space that are kept for the next frame. Beyond this they are given back.
const KEPT_LEN: usize = 4 << 20;

/// Appends a frame whose body is `kind` and what `payload` appends.
pub fn seal(out: &mut Vec<u8>, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_LEN]);
    out.push(kind);
    payload(out);
    let body = &out[start + HEAD_LEN..];
    let len = (body.len() as u32).to_le_bytes();
    let crc = crc32fast::hash(body).to_le_bytes();
    out[start..start + 4].copy_from_slice(&len);
    out[start + 4..start + HEAD_LEN].copy_from_slice(&crc);
}

/// The head of a frame: length and checksum of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    pub len: usize,
    crc: u32,
}

impl FrameHead {
    pub fn decode(head: [u8; HEAD_LEN]) -> FrameHead {
        let [a, b, c, d, crc @ ..] = head;
        FrameHead { len: u32::from_le_bytes([a, b, c, d]) as usize, crc: u32::from_le_bytes(crc) }
    }

    /// Returns whether this is the body that was sealed.
    pub fn fits(&self, body: &[u8]) -> bool {
        body.len() == self.len && crc32fast::hash(body) == self.crc
    }
}

/// Reads one frame into `frame`, which is scratch space of the caller's. Its body has at most
/// `len_max` bytes. `false` is a clean end in front of the frame. One that is cut off is
/// `UnexpectedEof`, a malformed one `InvalidData` with what is wrong.
pub fn read(reader: &mut impl Read, frame: &mut Vec<u8>, len_max: usize) -> io::Result<bool> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = [0; HEAD_LEN];
    match reader.read(&mut head)? {
        0 => return Ok(false),
        got => reader.read_exact(&mut head[got..])?,
    }
    frame.clear();
    frame.shrink_to(KEPT_LEN);
    frame.extend_from_slice(&head);
    let head = FrameHead::decode(head);
    if head.len > len_max {
        return Err(invalid(format!("a message of {} bytes; at most {len_max} are taken", head.len)));
    }
    // Grows as bytes arrive: a length is only a claim.
    let got = reader.take(head.len as u64).read_to_end(frame)?;
    if got < head.len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !head.fits(&frame[HEAD_LEN..]) {
        return Err(invalid("a message whose checksum is wrong".to_owned()));
    }
    Ok(true)
}
