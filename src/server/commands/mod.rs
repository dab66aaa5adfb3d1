//! Commands, a file for each family.
//!
//! A family holds the rows of its commands (`spec::Spec`: name, arity, flags, parser, words for
//! COMMAND DOCS), their parsers, and their meaning. [`table`] finds a row by name; `execute`
//! hands a typed command to its family. The kinds of commands are in wire/command.rs.

mod acl;
mod admin;
mod blocking;
mod client_command;
mod command_query;
mod config_get;
pub(super) mod deferred;
pub(super) mod execute;
mod expiry;
mod handshake;
mod info;
mod introspection;
mod key_specs;
mod keys;
mod multi_key;
pub(super) mod names;
mod one_key;
pub(super) mod refused;
mod scan;
pub(super) mod spec;
mod strings;
pub mod table;
mod transaction;
mod usage;

#[cfg(test)]
mod tests;
