//! `kvctl bench` as a user runs it: both protocols, with nodes and with a real redis-server, on a
//! schedule, and ended early. Its counts are checked, never its speed: other tests run meanwhile.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cluster::{Cluster, DEADLINE, until};
use crate::program::{Ended, Program, begin, kvctl};
use crate::redis::Redis;

/// Few connections and one second: enough to count.
const SHORT: [&str; 9] = ["--json", "--clients", "3", "--depth", "4", "--keys", "100", "--seconds", "1"];

fn bench(addrs: &[SocketAddr], args: &[&str]) -> Ended {
    begin_bench(addrs, args).end()
}

fn begin_bench(addrs: &[SocketAddr], args: &[&str]) -> Program {
    begin(&mut kvctl(addrs, &[&["bench"], args].concat()), None)
}

#[track_caller]
fn json(done: &Ended) -> Value {
    serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {:?} {:?}", done.out, done.err))
}

/// Runs a benchmark that must do what it was asked without an error.
#[track_caller]
fn good(addrs: &[SocketAddr], more: &[&str]) -> Value {
    let done = bench(addrs, &[&SHORT, more].concat());
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{}", done.out);
    let report = json(&done);
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
    assert!(count("operations") > 0 && count("rounds") > 0, "{report}");
    assert_eq!(report["errors"], serde_json::json!({}), "{report}");
    let times = ["p50", "p90", "p99", "p99.9", "p99.99", "max"].map(|name| report["round_us"][name].as_f64().unwrap());
    assert!(times[0] > 0.0 && times.is_sorted(), "{report}");
    report
}

#[test]
fn both_protocols_are_measured_in_either_loop() {
    let cluster = Cluster::plan(1).patient().set("fsync", "never").start();
    let nodes = cluster.client_addrs();
    for protocol in ["text", "resp"] {
        for reads in ["0", "50", "100"] {
            let report = good(&nodes, &["--protocol", protocol, "--reads", reads]);
            assert_eq!((report["protocol"].as_str(), report["loop"].as_str()), (Some(protocol), Some("closed")), "{report}");
            assert!(report["rate"].is_null() && report["rate_reached"].is_null() && report["wait"].is_null(), "{report}");
        }
        let report = good(&nodes, &["--protocol", protocol, "--rate", "200", "--ack", "local"]);
        assert_eq!((report["loop"].as_str(), report["rate"].as_u64(), report["ack"].as_str()), (Some("open"), Some(200), Some("local")));
        assert!(report["rate_reached"].is_boolean(), "{report}");
        // A schedule is not exceeded: one second, and the warm-up before it.
        assert!(report["operations"].as_u64().unwrap() <= 300 + 4, "{report}");
    }
    assert_eq!(cluster.ask_line(1, "COUNT"), "100");
    // More than can be sent: the report gives the rate that was reached, and that it is less.
    let report = good(&nodes, &["--rate", "1000000000"]);
    assert!(report["rate_reached"] == false && report["rounds_unsent"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn writes_wait_for_replicas_of_a_mesh() {
    let cluster = Cluster::plan(3).patient().set("fsync", "never").start();
    // At `majority`, the node's own level, one peer holds the write when it is answered.
    let report = good(&cluster.client_addrs(), &["--protocol", "resp", "--wait", "1", "--reads", "25"]);
    assert_eq!((report["wait"].as_u64(), report["ack"].as_str()), (Some(1), Some("default")), "{report}");

    // More replicas than there are: every pair is an error, and all are of one kind.
    let one = ["--json", "--clients", "1", "--depth", "1", "--seconds", "2", "--protocol", "resp", "--wait", "3"];
    let done = bench(&cluster.client_addrs(), &one);
    assert_eq!((done.code, &*done.err), (Some(1), "kvctl: there were errors\n"));
    let report = json(&done);
    assert!(report["errors"]["SHORT"].as_u64().unwrap() > 0 && report["errors"].as_object().unwrap().len() == 1, "{report}");
    assert_eq!(report["operations"].as_u64(), Some(0), "{report}");
}

#[test]
fn a_redis_server_is_measured_as_well() {
    let Some(redis) = Redis::start() else { return };
    let server = [redis.addr];
    good(&server, &["--protocol", "resp", "--reads", "50"]);
    good(&server, &["--protocol", "resp", "--rate", "200"]);
    let one = ["--json", "--clients", "1", "--depth", "1", "--seconds", "2", "--protocol", "resp", "--wait", "1"];
    let done = bench(&server, &one);
    // This server has no replica.
    assert!(done.code == Some(1) && json(&done)["errors"]["SHORT"].as_u64().unwrap() > 0, "{}{}", done.out, done.err);
    let refused = bench(&server, &[&SHORT[..], &["--protocol", "resp", "--ack", "local"]].concat());
    assert_eq!((refused.code, &*refused.out), (Some(1), ""));
    assert!(refused.err.contains("--ack is for kvmesh nodes"), "{}", refused.err);
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_sent() {
    let unused = ["127.0.0.1:1".parse().unwrap()];
    for (args, words) in [
        (&["--wait", "1"][..], "--wait needs --protocol resp"),
        (&["--wait", "1", "--protocol", "resp", "--reads", "100"], "with --reads 100 there is none"),
        (&["--wait", "1", "--protocol", "resp", "--timeout", "1"], "--timeout is 1s; expected a longer one"),
        (&["--wait", "0", "--protocol", "resp"], "expected a number from 1 to 1000"),
        (&["--protocol", "http"], "expected text or resp"),
        (&["--rate", "0"], "expected a number from 1 to 1000000000"),
        (&["--rate", "100", "--seconds", "1"], "expected at least --rate 800"),
    ] {
        let done = bench(&unused, args);
        assert_eq!((done.code, &*done.out), (Some(2), ""), "{args:?}: {}", done.err);
        assert!(done.err.contains(words), "{args:?}: {}", done.err);
    }
    assert_eq!(bench(&unused, &["--protocol", "resp"]).code, Some(3));
}

/// Starts a run, and returns once its warm-up is over.
fn begun(cluster: &Cluster, args: &[&str]) -> Program {
    const WARM_UP: Duration = Duration::from_millis(600);
    let writes = || cluster.status(1).number("writes");
    let before = writes();
    let child = begin_bench(&cluster.client_addrs(), args);
    let wait_for = |what: &str, has_come: &dyn Fn() -> bool| until(what, DEADLINE, || has_come().then_some(()).ok_or_else(String::new));
    wait_for("the first write", &|| writes() > before);
    let written = Instant::now();
    wait_for("the end of the warm-up", &|| written.elapsed() > WARM_UP);
    child
}

#[test]
fn a_run_that_is_interrupted_reports_what_it_has_measured() {
    let mut cluster = Cluster::plan(1).patient().set("fsync", "never").start();
    let child = begun(&cluster, &["--json", "--clients", "3", "--seconds", "600"]);
    child.signal(Signal::SIGINT);
    let done = child.end();
    assert_eq!(done.code, Some(1));
    assert!(done.err.starts_with("kvctl: interrupted after ") && done.err.ends_with(" of 600s\n"), "{}", done.err);
    let report = json(&done);
    assert_eq!((report["interrupted"].as_bool(), report["connections_unanswered"].as_u64()), (Some(true), Some(0)), "{report}");
    assert!(report["seconds"].as_f64().unwrap() < 600.0 && report["errors"] == serde_json::json!({}), "{report}");

    // The node does not answer any more: the report comes all the same, long before the timeout.
    let child = begun(&cluster, &["--clients", "3", "--seconds", "600", "--timeout", "600"]);
    cluster.pause(1);
    child.signal(Signal::SIGINT);
    let done = child.end();
    assert_eq!(done.code, Some(1));
    assert!(done.out.contains("\nINTERRUPTED ") && done.out.contains("; the last rounds of "), "{}", done.out);
    cluster.resume(1);

    // A second signal ends the run at once, without a report.
    let child = begun(&cluster, &["--clients", "3", "--seconds", "600", "--timeout", "600"]);
    cluster.pause(1);
    // Two signals that come too close together are one.
    for _ in 0..6 {
        child.signal(Signal::SIGINT);
        thread::sleep(Duration::from_millis(50));
    }
    let done = child.end();
    cluster.resume(1);
    assert_eq!((done.code, &*done.out), (Some(1), ""));
}

/// The reason for an open loop: in a closed one, a server that stands still shows in only one round
/// of each connection.
#[test]
fn a_server_that_stalls_shows_in_the_times_of_an_open_loop() {
    const STALL: Duration = Duration::from_millis(1_500);
    let mut cluster = Cluster::plan(1).patient().set("fsync", "never").start();
    let child = begun(&cluster, &["--json", "--clients", "2", "--depth", "1", "--seconds", "5", "--rate", "1000"]);
    cluster.pause(1);
    thread::sleep(STALL);
    cluster.resume(1);
    let done = child.end();
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{}", done.out);
    let report = json(&done);
    // Three tenths of all rounds were due while it stood still, a tenth of them in its first half
    // second.
    assert!(report["round_us"]["p90"].as_f64().unwrap() > 500_000.0, "{report}");
}
