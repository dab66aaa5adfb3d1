//! INFO: figures by section, in the form and under the names of Redis where there is an honest
//! counterpart.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::introspection::{REDIS_VERSION, VERSION, host_and_port};
use super::spec::Spec;
use crate::data::clock::{Now, wall_ms};
use crate::replication::status::{self, resident_len};
use crate::server::shared::Shared;
use crate::store::Keyspace;
use crate::wire::command::{Admin, Command};
use crate::wire::reply::{Reply, Wrong};
use crate::wire::resp::arguments::{Arguments, lower};

pub(super) static COMMANDS: &[Spec] = &[Spec::command("info", -1, "loading stale", parse_info)
    .categories("dangerous")
    .tips("nondeterministic_output request_policy:all_shards response_policy:special")
    .docs("server", "1.0.0", "O(1)")
    .help("[section...]", "Returns what was measured on this node.")];

/// Writes the lines of a section.
type Fill = fn(&Shared, &mut Lines);

/// The sections in Redis's order, with kvmesh's own behind them. A section that is not asked for is
/// not measured.
const SECTIONS: [(&str, Fill); 10] = [
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cpu),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
    ("Kvmesh", kvmesh),
];

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// Answers INFO with all sections, or with those that are named; an unknown name is ignored.
pub(super) fn info(shared: &Shared, sections: &[String]) -> Reply<'static> {
    let mut lines = Lines(String::new());
    for (title, fill) in SECTIONS {
        if sections.is_empty() || sections.iter().any(|section| section.eq_ignore_ascii_case(title)) {
            lines.begin(title);
            fill(shared, &mut lines);
        }
    }
    Reply::Text(lines.0)
}

struct Lines(String);

impl Lines {
    fn begin(&mut self, title: &str) {
        let gap = if self.0.is_empty() { "" } else { "\r\n" };
        // Writing to memory does not fail.
        let _ = write!(self.0, "{gap}# {title}\r\n");
    }

    fn put(&mut self, name: &str, value: impl Display) {
        let _ = write!(self.0, "{name}:{value}\r\n");
    }

    /// Writes a number of bytes, and the same for people.
    fn put_bytes(&mut self, name: &str, bytes: u64) {
        self.put(name, bytes);
        self.put(&format!("{name}_human"), human(bytes));
    }

    fn put_flag(&mut self, name: &str, is_set: bool) {
        self.put(name, u8::from(is_set));
    }
}

fn server(shared: &Shared, lines: &mut Lines) {
    let origin = shared.services.replica.origin();
    let uptime = Now::read().elapsed.as_secs();
    lines.put("redis_version", REDIS_VERSION);
    lines.put("kvmesh_version", VERSION);
    lines.put("redis_mode", "standalone");
    lines.put("os", os());
    lines.put("arch_bits", usize::BITS);
    lines.put("process_id", std::process::id());
    // Forty hexadecimal digits, and others at every start: this incarnation's own name.
    lines.put("run_id", format_args!("{:024x}{:016x}", origin.node.0, origin.nonce));
    lines.put("tcp_port", shared.addr.port());
    lines.put("server_time_usec", SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros());
    lines.put("uptime_in_seconds", uptime);
    lines.put("uptime_in_days", uptime / SECONDS_PER_DAY);
}

fn clients(shared: &Shared, lines: &mut Lines) {
    lines.put("connected_clients", shared.clients.len());
    lines.put("maxclients", shared.services.live.current().clients_max);
    lines.put("blocked_clients", shared.services.acks.blocked_len());
}

fn memory(shared: &Shared, lines: &mut Lines) {
    // What `maxmemory` is held against: the entries, by estimate.
    lines.put_bytes("used_memory", shared.services.store.memory().total() as u64);
    if let Some(len) = resident_len() {
        lines.put_bytes("used_memory_rss", len as u64);
    }
    if let Some(len) = system_memory() {
        lines.put_bytes("total_system_memory", len);
    }
    lines.put_bytes("maxmemory", shared.services.live.memory_max() as u64);
    lines.put("maxmemory_policy", "noeviction");
}

/// Writes the section on persistence: a snapshot is what Redis's dump is, and the write-ahead log
/// what its append-only file is.
fn persistence(shared: &Shared, lines: &mut Lines) {
    let replica = &shared.services.replica;
    lines.put_flag("loading", !replica.is_open());
    let disk = status::disk_figures(replica);
    if let Some((read, total)) = disk.as_ref().and_then(|disk| disk.replaying) {
        lines.put("loading_total_bytes", total);
        lines.put("loading_loaded_bytes", read);
        lines.put("loading_loaded_perc", format_args!("{:.2}", read as f64 * 100.0 / total.max(1) as f64));
    }
    lines.put_flag("aof_enabled", disk.is_some());
    let Some(disk) = disk else { return };
    lines.put_flag("rdb_bgsave_in_progress", disk.is_snapshotting);
    lines.put("rdb_saves", disk.condition.snapshots);
    // Redis says so of none, too.
    let took = if disk.condition.snapshots == 0 { -1 } else { disk.condition.snapshot_took.as_secs() as i64 };
    lines.put("rdb_last_bgsave_time_sec", took);
    lines.put("aof_last_write_status", if disk.is_writable { "ok" } else { "err" });
    lines.put("aof_current_size", disk.condition.log_len);
}

fn stats(shared: &Shared, lines: &mut Lines) {
    let counters = &shared.counters;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    lines.put("total_connections_received", shared.clients.admitted());
    lines.put("total_commands_processed", read(&counters.commands));
    lines.put("rejected_connections", read(&counters.clients_refused));
    lines.put("expired_keys", status::expired(&shared.services.replica));
    lines.put("evicted_keys", 0);
    lines.put("keyspace_hits", read(&counters.hits));
    lines.put("keyspace_misses", read(&counters.misses));
    lines.put("acl_access_denied_auth", read(&counters.logins_failed));
    lines.put("acl_access_denied_cmd", read(&counters.commands_denied));
}

fn replication(shared: &Shared, lines: &mut Lines) {
    let services = &shared.services;
    let peers = status::figures(&services.replica, Now::read()).peers;
    lines.put("role", "master");
    lines.put("connected_slaves", peers.len());
    for (place, peer) in peers.iter().enumerate() {
        let (ip, port) = host_and_port(&peer.addr);
        let lag = peer.heard_ago.as_secs();
        lines.put(&format!("slave{place}"), format_args!("ip={ip},port={port},state=online,offset={},lag={lag}", peer.received));
    }
    lines.put("master_repl_offset", services.submit.position());
}

fn cpu(_: &Shared, lines: &mut Lines) {
    let mut put = |suffix: &str, usage: Usage| {
        let seconds = |micros: i64| format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        lines.put(&format!("used_cpu_sys{suffix}"), seconds(usage.system_time().num_microseconds()));
        lines.put(&format!("used_cpu_user{suffix}"), seconds(usage.user_time().num_microseconds()));
    };
    for (suffix, who) in [("", UsageWho::RUSAGE_SELF), ("_children", UsageWho::RUSAGE_CHILDREN)] {
        if let Ok(usage) = getrusage(who) {
            put(suffix, usage);
        }
    }
}

fn cluster(_: &Shared, lines: &mut Lines) {
    // In the sense of Redis: no part of the keys is anywhere else.
    lines.put("cluster_enabled", 0);
}

fn keyspace(shared: &Shared, lines: &mut Lines) {
    let (store, now_ms) = (&shared.services.store, wall_ms());
    let keys = store.counts(now_ms).keys;
    if keys > 0 {
        let (expires, left_ms) = store.expiring(now_ms);
        lines.put("db0", format_args!("keys={keys},expires={expires},avg_ttl={left_ms}"));
    }
}

fn kvmesh(shared: &Shared, lines: &mut Lines) {
    let (config, replica) = (shared.services.live.current(), &shared.services.replica);
    let figures = status::figures(replica, Now::read());
    lines.put("node", config.id);
    lines.put("cluster", &config.cluster);
    lines.put("state", figures.state);
    lines.put("members", config.members().len());
    lines.put("members_up", figures.members_up);
    lines.put("majority", config.majority());
    lines.put("ack", config.ack);
    lines.put("fsync", config.fsync);
    lines.put("divergences", figures.divergences);
}

/// The system's own words for itself, which only Linux has in files.
fn os() -> String {
    let word = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok();
    let arch = std::env::consts::ARCH;
    match (word("ostype"), word("osrelease")) {
        (Some(kind), Some(release)) => format!("{} {} {arch}", kind.trim(), release.trim()),
        _ => format!("{} {arch}", std::env::consts::OS),
    }
}

/// The memory of the machine in bytes, where the system is Linux.
fn system_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// A number of bytes as Redis writes it for people: `512B`, `1.10M`.
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P", "E"];
    let unit = (1..=units.len()).rev().find(|power| bytes >> (10 * power) > 0);
    match unit {
        None => format!("{bytes}B"),
        Some(power) => format!("{:.2}{}", bytes as f64 / (1u64 << (10 * power)) as f64, units[power - 1]),
    }
}

/// INFO [section …]: all of them are few, so that Redis's `default`, `all` and `everything` are the
/// same here.
fn parse_info<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let sections: Vec<String> = words.few(1)?.map(lower).collect();
    let wants_all = sections.iter().any(|section| matches!(section.as_str(), "default" | "all" | "everything"));
    Ok(Admin::Info { sections: if wants_all { Vec::new() } else { sections } }.into())
}
