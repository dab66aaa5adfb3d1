//! Roles: how much the user of a connection may do.
//!
//! The tables of commands say which role each of them needs: `Spec` in server/commands and
//! [`VerbSpec`](crate::wire::text::VerbSpec). Knows no user.

use std::fmt;
use std::str::FromStr;

/// A role, which has the rights of every role before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Asks how the node is: STATUS, PEERS, INFO. Sees no key.
    Monitor,
    /// Reads keys.
    Read,
    /// Writes keys.
    Write,
    /// Has the node work on all data or on its disk, and sees and closes the clients of others.
    Admin,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Monitor, Role::Read, Role::Write, Role::Admin];
    /// The roles as errors about the configuration list them.
    pub const NAMES: &str = "\"monitor\", \"read\", \"write\" or \"admin\"";
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Monitor => "monitor",
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        })
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Role, String> {
        Role::ALL
            .into_iter()
            .find(|role| role.to_string() == text)
            .ok_or_else(|| format!("no role has this name; expected {}", Role::NAMES))
    }
}
