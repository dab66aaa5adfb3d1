//! Stdout, behind a thread of its own. A reader of stdout that is slow, or has left, delays nothing
//! else.

use std::io::{self, Write};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use kvmesh::process::threads::join_all;

/// Texts that wait for the reader of stdout; beyond this, the output of the nodes waits.
const QUEUE_LEN: usize = 16;
/// The longest wait of the supervisor's own lines; beyond this, the reader is taken to have
/// stopped.
const PRINT_TIMEOUT: Duration = Duration::from_millis(200);

/// The sending side of stdout.
pub struct Screen {
    text_tx: Sender<Vec<u8>>,
    /// True if the reader took nothing for [`PRINT_TIMEOUT`]. It is not waited for any more.
    is_stalled: bool,
}

/// The thread `stdout`.
pub struct Printer(JoinHandle<()>);

impl Screen {
    pub fn open() -> io::Result<(Screen, Printer)> {
        let (text_tx, text_rx) = bounded(QUEUE_LEN);
        let print = move || print_texts(&text_rx, io::stdout());
        let printer = thread::Builder::new().name("stdout".to_owned()).spawn(print)?;
        Ok((Screen { text_tx, is_stalled: false }, Printer(printer)))
    }

    /// A channel for whole lines, which come out in one piece. Sending waits for the reader.
    pub fn text_tx(&self) -> Sender<Vec<u8>> {
        self.text_tx.clone()
    }

    /// Prints whole lines, unless the reader has stopped reading.
    pub fn print(&mut self, text: String) {
        let wait = if self.is_stalled { Duration::ZERO } else { PRINT_TIMEOUT };
        self.is_stalled = self.text_tx.send_timeout(text.into_bytes(), wait).is_err();
    }
}

impl Printer {
    /// Waits until everything is printed, or until the deadline. The [`Screen`] must have been
    /// dropped.
    pub fn leave(self, deadline: Instant) {
        join_all(Some(self.0), deadline, "stdout");
    }
}

/// The loop of the thread `stdout`. What comes after the reader has left (`| head`) is dropped.
fn print_texts(text_rx: &Receiver<Vec<u8>>, mut out: impl Write) {
    let mut is_open = true;
    for text in text_rx {
        is_open = is_open && out.write_all(&text).and_then(|()| out.flush()).is_ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_has_left_does_not_stop_those_who_print() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (text_tx, text_rx) = bounded(1);
        let printer = thread::spawn(move || print_texts(&text_rx, Closed));
        for _ in 0..100 {
            text_tx.send_timeout(b"text\n".to_vec(), Duration::from_secs(10)).unwrap();
        }
        drop(text_tx);
        printer.join().unwrap();
    }

    #[test]
    fn a_reader_who_has_stopped_is_waited_for_once() {
        let (text_tx, _text_rx) = bounded(0);
        let mut screen = Screen { text_tx, is_stalled: false };
        let started = Instant::now();
        for _ in 0..20 {
            screen.print("text\n".to_owned());
        }
        assert!(started.elapsed() < 5 * PRINT_TIMEOUT);
    }
}
