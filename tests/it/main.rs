//! The integration tests: real `kvnode` processes on loopback, driven from outside.
//!
//! Read in this order: `kit` and `cluster` (the harness), `golden` (what a user types and sees, as
//! scripts), `writers` (load that remembers what was acknowledged), then the tests by theme.
//! `redis` compares a node with a real redis-server. Nothing here knows the insides of a node: a
//! test configures it by a file, speaks to its ports, sends it signals and reads its log.

mod abuse;
mod audit;
mod backup;
mod bench;
mod circles;
mod client;
mod cluster;
mod configuration;
mod crashes;
mod descriptors;
mod disks;
mod docs;
mod exits;
mod expiry;
mod failpoints;
mod faults;
mod full_disk;
mod golden;
mod imports;
mod impostors;
mod incarnations;
#[path = "../kit/mod.rs"]
mod kit;
mod kvctl;
mod kvsim;
mod logs;
mod members;
mod narrow;
mod outcomes;
mod pages;
mod program;
mod random;
mod redis;
mod reload;
mod repository;
mod secrets;
mod starts;
mod strangers;
mod supervision;
mod tidy;
mod tls;
mod tls_peers;
mod tombstones;
mod torture;
mod users;
mod versions;
mod walk;
mod writers;
