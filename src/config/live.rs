//! The configuration of a running node, of which a reload changes a part.
//!
//! Owns which fields a reload changes ([`RELOADED`]), the file that it reads, and what is in force.
//! A reload is all or nothing: the file is read and checked as at the start, every part of the node
//! prepares itself for it, and only when nothing was refused do the new values take the place of
//! the old ones. The fields that are not among [`RELOADED`] stay as they were at the start. Peers
//! count on some of them, files and buffers are laid out by others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::fields::Config;

/// Reads the configuration anew, with the options of the command line. The error says what is wrong
/// with the file.
pub type ReadConfig = Box<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// Makes a part of the node ready for another configuration, with all that can fail. What it
/// returns puts that in force.
pub type Prepare = Box<dyn Fn(&Config) -> Result<PutInForce, String> + Send + Sync>;
pub type PutInForce = Box<dyn FnOnce() + Send>;

/// Makes [`RELOADED`] and `adopt` of the fields that a reload changes.
macro_rules! reloaded {
    ($($member:ident = $name:literal,)+) => {
        /// The fields that a reload changes.
        pub const RELOADED: &[&str] = &[$($name),+];

        fn adopt(config: &mut Config, wanted: &Config) {
            $(config.$member.clone_from(&wanted.$member);)+
        }
    };
}

// Each is looked at anew wherever it is used: nothing has been laid out by its old value.
reloaded! {
    users = "users",
    disabled_commands = "disabled_commands",
    is_insecure = "insecure",
    ack = "ack",
    audit_file = "audit_file",
    log_level = "log_level",
    tls = "tls",
    clients_max = "clients_max",
    memory_max = "memory_max",
    compact_factor = "compact_factor",
    compact_log_min = "compact_log_min",
    ack_timeout = "ack_timeout_ms",
    write_timeout = "write_timeout_ms",
    shutdown_timeout = "shutdown_timeout_ms",
}

/// The configuration that is in force now.
pub struct LiveConfig {
    read: ReadConfig,
    /// Held for the whole of a reload. It guards no data: two reloads must not mix.
    reloading: Mutex<()>,
    current: Mutex<Arc<Config>>,
    parts: Mutex<Vec<Arc<Prepare>>>,
    /// Read before every write, so kept beside the lock.
    memory_max: AtomicUsize,
}

/// The result of a reload, by the names of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// They have changed, and are in force.
    pub applied: Vec<&'static str>,
    /// They differ from what is in force, and stay so until a restart.
    pub needs_restart: Vec<&'static str>,
}

impl LiveConfig {
    pub fn new(config: Config, read: ReadConfig) -> Arc<LiveConfig> {
        Arc::new(LiveConfig {
            read,
            reloading: Mutex::default(),
            memory_max: config.memory_max.into(),
            current: Mutex::new(Arc::new(config)),
            parts: Mutex::default(),
        })
    }

    /// A configuration without a file: for nodes in a test.
    pub fn fixed(config: Config) -> Arc<LiveConfig> {
        LiveConfig::new(config, Box::new(|| Err("this node was started without a configuration file".to_owned())))
    }

    /// The configuration in force. Takes a lock: not to be called for every command.
    pub fn current(&self) -> Arc<Config> {
        Arc::clone(&self.current.lock())
    }

    pub fn memory_max(&self) -> usize {
        self.memory_max.load(Ordering::Relaxed)
    }

    /// Adds a part that every reload from now on prepares and puts in force, in the order in which
    /// they were added.
    pub fn add_part(&self, prepare: Prepare) {
        self.parts.lock().push(Arc::new(prepare));
    }

    /// Reads the file and puts in force what can change while the node runs. An error says what was
    /// refused; nothing has changed then. Waits for a reload that is under way.
    pub fn reload(&self) -> Result<Reloaded, String> {
        let _one_at_a_time = self.reloading.lock();
        let wanted = (self.read)()?;
        let current = self.current();
        let mut next = Config::clone(&current);
        adopt(&mut next, &wanted);
        // Cloned, so that nothing is prepared under the lock.
        let parts = self.parts.lock().clone();
        let prepared = parts.iter().map(|prepare| prepare(&next)).collect::<Result<Vec<_>, _>>()?;
        let reloaded = Reloaded { applied: current.changed(&next), needs_restart: next.changed(&wanted) };
        self.memory_max.store(next.memory_max, Ordering::Relaxed);
        *self.current.lock() = Arc::new(next);
        prepared.into_iter().for_each(|put_in_force| put_in_force());
        Ok(reloaded)
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "applied {}; needs a restart: {}", named(&self.applied), named(&self.needs_restart))
    }
}

/// The names with spaces between, or `none`.
pub fn named(fields: &[&'static str]) -> String {
    if fields.is_empty() { "none".to_owned() } else { fields.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use crate::config::FIELDS;

    fn config(fields: &str) -> Config {
        let text = format!(r#"{{ "id": 1, "client_addr": "127.0.0.1:0", "peer_addr": "127.0.0.1:0"{fields} }}"#);
        Config::from_json(&text, "a test").unwrap()
    }

    /// A configuration whose file holds at each reload the next of these.
    fn live(files: &[&'static str]) -> Arc<LiveConfig> {
        let left = Mutex::new(files.iter().rev().copied().collect::<Vec<_>>());
        let read = move || {
            let next = left.lock().pop();
            next.map(config).ok_or_else(|| "the file is wrong".to_owned())
        };
        LiveConfig::new(config(""), Box::new(read))
    }

    #[test]
    fn every_field_of_the_list_is_one_and_has_its_own_member() {
        for name in RELOADED {
            assert!(FIELDS.iter().any(|field| field.name == *name), "{name}");
        }
        let other = config(
            r#", "users": [{ "name": "u", "secret_sha256": "0000000000000000000000000000000000000000000000000000000000000000", "role": "read" }],
            "disabled_commands": ["keys"], "insecure": true, "ack": "all", "audit_file": "a", "log_level": "warn",
            "clients_max": 7, "memory_max": 7, "compact_factor": 7, "compact_log_min": 7, "ack_timeout_ms": 7,
            "write_timeout_ms": 7, "shutdown_timeout_ms": 7, "heartbeat_ms": 7, "cluster": "other",
            "tls": { "cert_file": "a", "key_file": "b" }"#,
        );
        let mut adopted = config("");
        adopt(&mut adopted, &other);
        assert_eq!(config("").changed(&adopted), RELOADED);
        assert_eq!(adopted.changed(&other), ["cluster", "heartbeat_ms"]);
    }

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        let live = live(&[r#", "memory_max": 5, "ack_timeout_ms": 9, "peer_timeout_ms": 5000"#, r#", "peer_timeout_ms": 5000"#, ""]);
        let reloaded = live.reload().unwrap();
        assert_eq!(reloaded, Reloaded { applied: vec!["memory_max", "ack_timeout_ms"], needs_restart: vec!["peer_timeout_ms"] });
        assert_eq!(reloaded.to_string(), "applied memory_max ack_timeout_ms; needs a restart: peer_timeout_ms");
        let current = live.current();
        assert_eq!((live.memory_max(), current.memory_max, current.ack_timeout), (5, 5, Duration::from_millis(9)));
        assert_eq!(current.peer_timeout, Duration::from_secs(2));
        // It still differs from what is in force. What the file names no more is the default again.
        let reloaded = live.reload().unwrap();
        assert_eq!(reloaded, Reloaded { applied: vec!["memory_max", "ack_timeout_ms"], needs_restart: vec!["peer_timeout_ms"] });
        assert_eq!(live.reload().unwrap(), Reloaded::default());
        assert_eq!(live.memory_max(), 0);
    }

    #[test]
    fn a_file_or_a_part_that_refuses_changes_nothing() {
        let live = live(&[r#", "memory_max": 5"#, r#", "memory_max": 6"#]);
        let in_force = Arc::new(Mutex::new(Vec::new()));
        for part in [0, 1] {
            let in_force = Arc::clone(&in_force);
            live.add_part(Box::new(move |config| {
                let (in_force, memory_max) = (Arc::clone(&in_force), config.memory_max);
                match (part, memory_max) {
                    (1, 5) => Err("part 1 is not ready".to_owned()),
                    _ => Ok(Box::new(move || in_force.lock().push((part, memory_max)))),
                }
            }));
        }
        assert_eq!(live.reload(), Err("part 1 is not ready".to_owned()));
        assert_eq!((live.memory_max(), in_force.lock().len()), (0, 0));
        assert_eq!(live.reload().unwrap().applied, ["memory_max"]);
        assert_eq!((live.memory_max(), in_force.lock().clone()), (6, vec![(0, 6), (1, 6)]));
        assert_eq!(live.reload(), Err("the file is wrong".to_owned()));
        assert_eq!(live.memory_max(), 6);
        assert!(LiveConfig::fixed(config("")).reload().is_err());
    }
}
