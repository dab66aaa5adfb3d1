//! The process and its operating system: the command line, threads, signals, file descriptors,
//! files that are their owner's alone, and the log on stderr.

pub mod arguments;
pub mod descriptors;
pub mod logging;
pub mod private_file;
pub mod signals;
pub mod threads;
