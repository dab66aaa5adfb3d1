//! Signals, blocked in every thread and waited for in one.
//!
//! The waiting thread is called `signals`. It is an ordinary thread and not a handler, so it may do
//! anything. The meaning of each signal is the caller's affair.

use std::io;
use std::thread;

use nix::sys::signal::SigSet;

pub use nix::sys::signal::Signal;

/// The signals that a node waits for. SIGQUIT is not among them: it ends a process with a core
/// dump.
pub const NODE: &[Signal] = &[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Blocks these signals, and no others, in this thread and in those that it starts.
///
/// A set that the parent process has blocked is inherited. It is replaced here.
pub fn block(signals: &[Signal]) -> io::Result<()> {
    set(signals).thread_set_mask().map_err(io::Error::from)
}

/// Starts the thread that waits for these signals and calls `on_signal` for each. It ends with the
/// process.
///
/// To be called after [`block`], which every other thread must have been under.
pub fn watch(signals: &[Signal], mut on_signal: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    let signals = set(signals);
    let wait = move || {
        loop {
            // Cannot fail for a set of signals that exist.
            on_signal(signals.wait().expect("a signal can be waited for"));
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

fn set(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}
