//! Signals: SIGINT, SIGTERM and SIGHUP.
//!
//! They are blocked in every thread and waited for in one, `signals`, which is an ordinary thread and not a handler. What they mean is node.rs's affair.

use std::io;
use std::thread;

use nix::sys::signal::SigSet;

pub use nix::sys::signal::Signal;

/// From here on none of them interrupts this thread, nor those that it starts.
pub fn block() -> io::Result<()> {
    ours().thread_block().map_err(io::Error::from)
}

/// Starts the thread that takes them, and calls `on_signal` at each. It ends with the process. To be called after [`block`], which every other thread must have
/// been under.
pub fn watch(mut on_signal: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    let wait = move || {
        loop {
            // Cannot fail for a set of signals that exist.
            on_signal(ours().wait().unwrap_or_else(|error| panic!("cannot wait for signals: {error}")));
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

fn ours() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}
