//! The process and its operating system: the command line, threads, signals, file descriptors,
//! files that are their owner's alone, the log on stderr, and the audit log.

pub mod arguments;
pub mod audit;
pub mod descriptors;
pub mod logging;
pub mod private_file;
pub mod signals;
pub mod threads;
