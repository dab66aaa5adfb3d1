//! Why a configuration is refused, in words: which field, what was found, what would be right.

use std::fmt;
use std::io;

/// Why a configuration is refused: the file, and what in it was found instead of what.
#[derive(Debug)]
pub enum ConfigError {
    Unreadable { source_name: String, error: io::Error },
    NotJson { source_name: String, error: serde_json::Error },
    NotAnObject { source_name: String, found: String },
    Field { source_name: String, refusal: Box<ConfigRefusal> },
}

/// One field, what it held, and what would be right.
#[derive(Debug)]
pub struct ConfigRefusal {
    pub field: String,
    pub found: String,
    pub expected: String,
}

impl ConfigRefusal {
    pub(super) fn new(field: impl fmt::Display, found: impl fmt::Display, expected: impl fmt::Display) -> ConfigRefusal {
        ConfigRefusal { field: field.to_string(), found: found.to_string(), expected: expected.to_string() }
    }
}

impl fmt::Display for ConfigRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field {:?}: found {}, expected {}", self.field, self.found, self.expected)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { source_name, error } => {
                write!(f, "{source_name}: cannot be read: {error}; expected a file such as config/node1.json")
            }
            ConfigError::NotJson { source_name, error } => {
                write!(f, "{source_name}: is not JSON: {error}; expected one JSON object; see config/node1.json")
            }
            ConfigError::NotAnObject { source_name, found } => {
                write!(f, "{source_name}: found {found}, expected one object such as config/node1.json holds")
            }
            ConfigError::Field { source_name, refusal } => {
                write!(f, "{source_name}: {refusal}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

/// Errors are lines to be read, whatever the file holds.
pub(super) fn shortened(text: &str) -> String {
    const LEN_MAX: usize = 80;
    match text.char_indices().nth(LEN_MAX) {
        Some((end, _)) => format!("{}…", text.split_at(end).0),
        None => text.to_owned(),
    }
}
