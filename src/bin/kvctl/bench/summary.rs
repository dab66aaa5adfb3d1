//! The report of a run, in words or as JSON.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::Options;
use crate::command_line::{BenchArgs, Seconds};

use super::bench_run::{BenchRun, RunOutcome};
use super::measurements::Measurements;

pub fn print(shared: &BenchRun, total: &Measurements, outcome: &RunOutcome) -> io::Result<()> {
    let report = Summary::new(&shared.options, &shared.args, total, outcome);
    let mut out = io::stdout().lock();
    if shared.options.json { writeln!(out, "{}", report.as_json()) } else { out.write_all(report.in_words().as_bytes()) }
}

struct Summary<'a> {
    options: &'a Options,
    args: &'a BenchArgs,
    total: &'a Measurements,
    outcome: &'a RunOutcome,
    ack: String,
    per_second: f64,
    /// True if an open loop kept its rate; `None` for a closed loop.
    is_rate_reached: Option<bool>,
}

impl Summary<'_> {
    fn new<'a>(options: &'a Options, args: &'a BenchArgs, total: &'a Measurements, outcome: &'a RunOutcome) -> Summary<'a> {
        let seconds = outcome.measured.as_secs_f64();
        let ack = options.ack.map_or_else(|| "default".to_string(), |level| level.to_string());
        let is_rate_reached = args.rate.map(|rate| is_reached(rate.0 as f64 * seconds, total.done, args.depth.0 as u64));
        Summary { options, args, total, outcome, ack, per_second: total.done as f64 / seconds, is_rate_reached }
    }

    fn as_json(&self) -> Value {
        let Summary { options, args, total, outcome, .. } = self;
        let errors: serde_json::Map<String, Value> = total.errors.iter().map(|(code, count)| (code.to_string(), count.into())).collect();
        json!({
            "protocol": args.protocol.to_string(), "clients": args.clients.0, "depth": args.depth.0, "seconds": outcome.measured.as_secs_f64(),
            "keys": args.keys.0, "value_size": args.value_size.0, "reads_percent": args.reads.0, "ack": self.ack,
            "wait": args.wait.map(|wait| wait.0), "nodes": options.nodes,
            "loop": if args.rate.is_some() { "open" } else { "closed" }, "rate": args.rate.map(|rate| rate.0),
            "rate_reached": self.is_rate_reached, "rounds_unsent": total.rounds_unsent,
            "interrupted": outcome.was_interrupted, "connections_unanswered": outcome.unanswered,
            "operations": total.done, "operations_per_second": self.per_second.round(), "errors": errors,
            "rounds": total.rounds(), "round_us": total.percentiles().as_json(),
        })
    }

    fn in_words(&self) -> String {
        let Summary { options, args, total, outcome, ack, .. } = self;
        let wait = args.wait.map_or_else(String::new, |wait| format!(", WAIT {} after each SET", wait.0));
        let mut text = format!(
            "{} protocol, {} connections, {} deep, {} % reads, {} keys, {} byte values, ack {ack}{wait}, {:?} on {}\n",
            args.protocol,
            args.clients.0,
            args.depth.0,
            args.reads.0,
            args.keys.0,
            args.value_size.0,
            Duration::from_millis(outcome.measured.as_millis() as u64),
            options.nodes.join(", ")
        );
        if outcome.was_interrupted {
            let Seconds(asked) = args.seconds;
            text += &format!("INTERRUPTED   {:.1?} of {asked:?} were measured", outcome.measured);
            if outcome.unanswered > 0 {
                text += &format!("; the last rounds of {} connections were not answered, and are in no figure", outcome.unanswered);
            }
            text.push('\n');
        }
        text += &format!("loop          {}\n", self.loop_in_words());
        text += &format!("operations/s  {:.0}  ({} operations)\n", self.per_second, total.done);
        text += &format!("errors        {}\n", total.errors.sum());
        for (code, count) in total.errors.iter() {
            text += &format!("  {code:<12}{count}\n");
        }
        text + &format!("round         {}\n", total.percentiles().in_words())
    }

    fn loop_in_words(&self) -> String {
        let (Some(rate), Some(is_reached)) = (self.args.rate, self.is_rate_reached) else {
            return "closed: a connection sends its next round when the last one is answered".to_string();
        };
        let reached = if is_reached { "reached" } else { "NOT REACHED:" };
        let mut text =
            format!("open: {}/s asked for, {reached} {:.0}/s; a round's time counts from when it was due", rate.0, self.per_second);
        if self.total.rounds_unsent > 0 {
            text += &format!(
                "; {} rounds that were due were never sent, and count with the time that they had waited",
                self.total.rounds_unsent
            );
        }
        text
    }
}

/// True if a rate of which `asked` operations were due was kept. A hundredth may be missing, and a
/// round at each edge of the time.
fn is_reached(asked: f64, done: u64, depth: u64) -> bool {
    (done + 2 * depth) as f64 >= asked * 0.99
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::default_args;
    use crate::command_line::{BenchProtocol, Bounded};
    use crate::scripted_node::options;

    const SECOND: Duration = Duration::from_secs(1);

    fn total() -> Measurements {
        let mut total = Measurements::new(SECOND);
        total.done = 800;
        (1..=50).for_each(|millis| total.record(Duration::from_millis(millis)));
        total
    }

    fn whole() -> RunOutcome {
        RunOutcome { measured: SECOND, was_interrupted: false, unanswered: 0 }
    }

    #[test]
    fn a_closed_loop_says_so() {
        let (options, args, total, outcome) = (options(&["a:1", "b:2"]), default_args(), total(), whole());
        let report = Summary::new(&options, &args, &total, &outcome);
        let text = report.in_words();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "text protocol, 50 connections, 16 deep, 0 % reads, 100000 keys, 64 byte values, ack default, 1s on a:1, b:2");
        assert!(lines[1].starts_with("loop          closed"), "{text}");
        assert_eq!(lines[2..4], ["operations/s  800  (800 operations)", "errors        0"]);
        assert!(lines[4].starts_with("round         p50 25") && lines.len() == 5, "{text}");
        let json = report.as_json();
        assert_eq!((json["loop"].as_str(), json["protocol"].as_str()), (Some("closed"), Some("text")));
        assert!(json["rate"].is_null() && json["rate_reached"].is_null() && json["wait"].is_null());
        assert_eq!((json["operations"].as_u64(), json["rounds"].as_u64(), json["seconds"].as_f64()), (Some(800), Some(50), Some(1.0)));
        assert_eq!(json["errors"].as_object().map(|errors| errors.len()), Some(0));
        assert_eq!(json["round_us"].as_object().map(|round| round.len()), Some(6));
    }

    #[test]
    fn an_open_loop_says_what_was_asked_for_and_what_was_reached() {
        let (options, mut total, outcome) = (options(&["a:1"]), total(), whole());
        let args = BenchArgs { protocol: BenchProtocol::Resp, wait: Some(Bounded(2)), rate: Some(Bounded(800)), ..default_args() };
        let text = Summary::new(&options, &args, &total, &outcome).in_words();
        assert!(
            text.contains("ack default, WAIT 2 after each SET, 1s on") && text.contains("open: 800/s asked for, reached 800/s;"),
            "{text}"
        );
        total.record_unsent(7, |_| SECOND);
        let args = BenchArgs { rate: Some(Bounded(900)), ..args };
        let report = Summary::new(&options, &args, &total, &outcome);
        let text = report.in_words();
        assert!(text.contains("open: 900/s asked for, NOT REACHED: 800/s;") && text.contains("; 7 rounds that were due"), "{text}");
        let json = report.as_json();
        assert_eq!((json["rate"].as_u64(), json["rate_reached"].as_bool()), (Some(900), Some(false)));
        assert_eq!((json["rounds_unsent"].as_u64(), json["rounds"].as_u64(), json["wait"].as_u64()), (Some(7), Some(57), Some(2)));
    }

    #[test]
    fn a_run_that_was_ended_early_says_so_and_errors_are_told() {
        let (options, args, mut total) = (options(&["a:1"]), default_args(), total());
        total.errors.count("LOST", 16);
        let outcome = RunOutcome { measured: SECOND / 2 + Duration::from_micros(3), was_interrupted: true, unanswered: 3 };
        let report = Summary::new(&options, &args, &total, &outcome);
        let text = report.in_words();
        assert!(text.contains(", 500ms on a:1\nINTERRUPTED   500.0ms of 1s were measured; the last rounds of 3 connections"), "{text}");
        assert!(text.contains("operations/s  1600  ") && text.contains("errors        16\n  LOST        16\n"), "{text}");
        let json = report.as_json();
        assert_eq!((json["interrupted"].as_bool(), json["connections_unanswered"].as_u64()), (Some(true), Some(3)));
        assert_eq!((json["seconds"].as_f64(), json["errors"]["LOST"].as_u64()), (Some(0.500003), Some(16)));
    }

    #[test]
    fn a_rate_is_reached_if_next_to_nothing_is_missing() {
        assert!(is_reached(100_000.0, 100_000, 1) && is_reached(100_000.0, 98_999, 1));
        assert!(!is_reached(100_000.0, 98_000, 1));
        // With few rounds, the edges decide how many fall into the time.
        assert!(is_reached(50.0, 32, 16) && !is_reached(50.0, 16, 16));
    }
}
