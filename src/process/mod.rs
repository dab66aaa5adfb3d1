//! The process and its operating system: the command line, threads, signals, file descriptors, and
//! the log on stderr.

pub mod arguments;
pub mod descriptors;
pub mod logging;
pub mod signals;
pub mod threads;
