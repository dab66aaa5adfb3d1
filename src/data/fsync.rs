//! The configured durability of the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// When records that were written to the log are made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Before anything is acknowledged or answered because of them.
    #[default]
    Always,
    /// Once a second. Nothing waits for it.
    EverySecond,
    /// When the operating system likes, and at a clean stop.
    Never,
}

impl Fsync {
    /// The values that a configuration may hold, for its errors.
    pub const NAMES: &str = "\"always\", \"everysec\" or \"never\"";
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fsync::Always => "always",
            Fsync::EverySecond => "everysec",
            Fsync::Never => "never",
        })
    }
}

impl FromStr for Fsync {
    type Err = String;
    fn from_str(text: &str) -> Result<Fsync, String> {
        [Fsync::Always, Fsync::EverySecond, Fsync::Never]
            .into_iter()
            .find(|fsync| fsync.to_string() == text)
            .ok_or_else(|| format!("\"{text}\" is no choice; expected {}", Fsync::NAMES))
    }
}
