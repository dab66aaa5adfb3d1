//! The line on a terminal that shows the progress of a measurement.

use std::time::{Duration, Instant};

use crate::progress_line::StatusLine;

use super::bench_run::BenchRun;

pub struct LiveLine {
    line: StatusLine,
    /// Operations when the line was last shown, and when that was.
    done: u64,
    shown: Instant,
}

impl LiveLine {
    pub fn new() -> LiveLine {
        LiveLine { line: StatusLine::new(), done: 0, shown: Instant::now() }
    }

    /// Updates the line; to be called once a second. `ready`: connections that could begin.
    pub fn show(&mut self, shared: &BenchRun, ready: usize) {
        let now = Instant::now();
        let text = match shared.span.get() {
            None => format!("bench: {ready} of {} connections are ready", shared.args.clients.0),
            Some(span) if now < span.begin => "bench: warming up".to_string(),
            Some(span) => {
                let (done, errors) = shared.done_and_errors();
                // The first update counts from the end of the warm-up.
                let passed = now - self.shown.max(span.begin);
                let text = text(span.end.saturating_duration_since(now), done - self.done, passed, errors);
                self.done = done;
                text
            }
        };
        self.shown = now;
        self.line.show(&text);
    }
}

fn text(left: Duration, done: u64, passed: Duration, errors: u64) -> String {
    let per_second = done as f64 / passed.as_secs_f64().max(0.001);
    format!("bench: {:.0} s left, {per_second:.0} operations/s, {errors} errors", left.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_left_how_fast_it_goes_and_what_went_wrong() {
        let line = text(Duration::from_millis(6_980), 3_000, Duration::from_millis(1_500), 2);
        assert_eq!(line, "bench: 7 s left, 2000 operations/s, 2 errors");
        assert_eq!(text(Duration::ZERO, 0, Duration::ZERO, 0), "bench: 0 s left, 0 operations/s, 0 errors");
    }
}
