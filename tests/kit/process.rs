//! A process that was started here, and that does not outlive its handle.

use std::fs;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use super::wait::poll_until;

/// Until every thread of a process has obeyed SIGSTOP.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A child process. Dropping it kills it.
pub struct Process {
    /// Its pipes may be taken.
    pub child: Child,
    is_paused: bool,
}

impl Process {
    pub fn start(command: &mut Command) -> io::Result<Process> {
        Ok(Process { child: command.spawn()?, is_paused: false })
    }

    pub fn id(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.id()), signal)?)
    }

    /// Its exit status, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child process")
    }

    /// Waits for its end. `None` if it still runs after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        poll_until(Instant::now() + timeout, || self.try_wait().ok_or(())).ok()
    }

    /// Ends it as a power cut does. It may have ended by itself.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Returns once none of its threads runs any more: the signal alone only asks for that.
    pub fn pause(&mut self) -> io::Result<()> {
        self.is_paused = true;
        self.signal(Signal::SIGSTOP)?;
        let threads = format!("/proc/{}/task", self.id());
        poll_until(Instant::now() + STOP_TIMEOUT, || {
            let stats = fs::read_dir(&threads)?.flatten().map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
            // The state is behind the name, which is in parentheses.
            match stats.filter(|stat| !stat.is_empty() && !stat.contains(") T ")).count() {
                0 => Ok(()),
                running => Err(io::Error::other(format!("{running} threads of process {} run on after SIGSTOP", self.id()))),
            }
        })
    }

    pub fn resume(&mut self) -> io::Result<()> {
        self.is_paused = false;
        self.signal(Signal::SIGCONT)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

/// A number that the system shows of a process under this name: `VmRSS:`, `Threads:`.
pub fn status_number(process_id: i32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process_id}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Limits what a process that runs may use of a resource; `None` lifts the limit. Returns the
/// limit until now.
pub fn limit(process_id: i32, resource: Resource, current: Option<u64>) -> io::Result<Option<u64>> {
    let own = getrlimit(resource);
    let limit = Rlimit { current: current.or(own.current), maximum: own.maximum };
    Ok(prlimit(rustix::process::Pid::from_raw(process_id), resource, limit)?.current)
}
