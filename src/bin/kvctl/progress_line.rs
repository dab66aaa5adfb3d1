//! A line on the terminal that shows the progress of something long. Where stderr is no terminal,
//! nothing is printed.
//!
//! [`ProgressLine`] counts bytes of a file. For other progress there is [`StatusLine`].

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// The pause between two updates of the line.
const PAUSE: Duration = Duration::from_millis(100);
const BAR_LEN: u64 = 24;

pub struct ProgressLine {
    what: &'static str,
    /// The number of bytes in total, if it is known.
    size: Option<u64>,
    begun: Instant,
    shown: Option<Instant>,
    line: StatusLine,
}

impl ProgressLine {
    pub fn new(what: &'static str, size: Option<u64>) -> ProgressLine {
        ProgressLine { what, size, begun: Instant::now(), shown: None, line: StatusLine::new() }
    }

    /// Updates the line when it is time. To be called often.
    pub fn show(&mut self, bytes: u64, entries: u64) {
        let now = Instant::now();
        if !self.line.is_terminal || self.shown.is_some_and(|shown| now.duration_since(shown) < PAUSE) {
            return;
        }
        self.shown = Some(now);
        let text = line(self.what, bytes, self.size, entries, now.duration_since(self.begun));
        self.line.show(&text);
    }
}

/// A line on stderr; each text covers the one before.
pub struct StatusLine {
    /// Characters of the text on the screen.
    len: usize,
    is_terminal: bool,
}

impl StatusLine {
    pub fn new() -> StatusLine {
        StatusLine { len: 0, is_terminal: io::stderr().is_terminal() }
    }

    pub fn show(&mut self, text: &str) {
        if self.is_terminal {
            self.print(text);
        }
    }

    fn print(&mut self, text: &str) {
        let width = self.len;
        // An error cannot be reported anywhere.
        let _ = write!(io::stderr(), "\r{text:<width$}");
        self.len = text.chars().count();
    }
}

/// Clears the line; what is printed next takes its place.
impl Drop for StatusLine {
    fn drop(&mut self) {
        if self.len > 0 {
            self.print("");
            let _ = write!(io::stderr(), "\r");
        }
    }
}

fn line(what: &str, bytes: u64, size: Option<u64>, entries: u64, elapsed: Duration) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let rate = entries as f64 / elapsed.as_secs_f64().max(0.001);
    let so_far = match size {
        None | Some(0) => format!("{:.1} MiB", mib(bytes)),
        Some(size) => {
            let bytes = bytes.min(size);
            let full = (u128::from(bytes) * u128::from(BAR_LEN) / u128::from(size)) as usize;
            let bar = "#".repeat(full) + &".".repeat(BAR_LEN as usize - full);
            format!("[{bar}] {:3.0} % of {:.1} MiB", 100.0 * bytes as f64 / size as f64, mib(size))
        }
    };
    format!("{what} {so_far}, {rate:.0} entries/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_much_of_what_and_how_fast() {
        let second = Duration::from_secs(1);
        assert_eq!(line("restoring", 0, Some(1 << 20), 0, second), "restoring [........................]   0 % of 1.0 MiB, 0 entries/s");
        let half = line("restoring", 1 << 20, Some(2 << 20), 5000, 2 * second);
        assert_eq!(half, "restoring [############............]  50 % of 2.0 MiB, 2500 entries/s");
        assert_eq!(line("checking", 3 << 20, None, 7, second), "checking 3.0 MiB, 7 entries/s");
        // A file that has grown meanwhile, and an empty one.
        assert!(line("restoring", 9, Some(3), 7, second).contains("] 100 %"));
        assert!(line("restoring", 0, Some(0), 0, Duration::ZERO).contains("0.0 MiB"));
    }
}
