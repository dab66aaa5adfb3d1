//! The report, for people or as JSON.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use crate::Options;
use crate::usage::Bench;

use super::tally::Tally;

pub fn report(options: &Options, bench: &Bench, total: &Tally, measured: Duration) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let per_second = total.done as f64 / measured.as_secs_f64();
    let errors: u64 = total.errors.values().sum();
    let micros = |nanos: u64| nanos as f64 / 1_000.0;
    let at = |quantile: f64| micros(total.latency.value_at_quantile(quantile));
    let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), micros(total.latency.max()));
    let ack = options.ack.map_or_else(|| "default".to_string(), |level| level.to_string());
    if options.json {
        let report = json!({
            "clients": bench.clients.0, "depth": bench.depth.0, "seconds": measured.as_secs_f64(), "keys": bench.keys.0,
            "value_size": bench.value_size.0, "reads_percent": bench.reads.0, "ack": ack, "nodes": options.nodes,
            "operations": total.done, "operations_per_second": per_second.round(), "errors": total.errors,
            "rounds": total.latency.len(), "round_us": { "p50": p50, "p99": p99, "p99.9": p999, "max": max },
        });
        return writeln!(out, "{report}");
    }
    writeln!(
        out,
        "{} connections, {} deep, {} % reads, {} keys, {} byte values, ack {ack}, {measured:?} on {}",
        bench.clients.0,
        bench.depth.0,
        bench.reads.0,
        bench.keys.0,
        bench.value_size.0,
        options.nodes.join(", ")
    )?;
    writeln!(out, "operations/s  {per_second:.0}  ({} operations)", total.done)?;
    writeln!(out, "errors        {errors}")?;
    for (code, count) in &total.errors {
        writeln!(out, "  {code:<12}{count}")?;
    }
    writeln!(out, "round         p50 {p50:.0} us, p99 {p99:.0} us, p99.9 {p999:.0} us, max {max:.0} us")
}
