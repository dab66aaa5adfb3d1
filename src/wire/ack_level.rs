//! The ack level: how many members must hold a write before its client hears `OK`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::wire::quoting::shown;

/// The number of members that must hold a write before its client hears `OK`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckLevel {
    /// This node alone.
    Local,
    /// More than half of the configured members, this node included.
    #[default]
    Majority,
    /// Every member that is up, and never fewer than a majority.
    All,
}

impl AckLevel {
    /// The levels as errors about the configuration list them.
    pub const NAMES: &str = "\"local\", \"majority\" or \"all\"";
}

impl fmt::Display for AckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AckLevel::Local => "local",
            AckLevel::Majority => "majority",
            AckLevel::All => "all",
        })
    }
}

impl FromStr for AckLevel {
    type Err = String;
    /// Takes a level as clients type it, in upper or lower case.
    fn from_str(text: &str) -> Result<AckLevel, String> {
        [AckLevel::Local, AckLevel::Majority, AckLevel::All]
            .into_iter()
            .find(|level| level.to_string().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("{} is no ack level; expected local, majority or all", shown(text.as_bytes())))
    }
}
