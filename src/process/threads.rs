//! Threads: their scheduling policy, and joining them with a deadline.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The pause between two checks whether a thread has ended.
pub const JOIN_PAUSE: Duration = Duration::from_millis(2);

/// Joins threads that have been told to end. Those that have not ended by the deadline are left to
/// the end of the process.
pub fn join_all(threads: impl IntoIterator<Item = JoinHandle<()>>, deadline: Instant, name: &str) {
    for thread in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            thread::park_timeout(JOIN_PAUSE);
        }
        if !thread.is_finished() {
            log::warn!("thread did not end in time: {name}");
            continue;
        }
        // A panic has ended the process already.
        let _ = thread.join();
    }
}

/// Sets `SCHED_BATCH` for this thread and those that it starts: a thread that wakes up does not
/// preempt one that runs.
///
/// A node has hundreds of threads that do little at each turn. If every request that arrives
/// interrupted the work on the one before it, they would mostly switch context. A policy that was
/// set from outside (`chrt`) is left alone.
#[cfg(target_os = "linux")]
pub fn schedule_as_batch() -> io::Result<()> {
    use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy};
    use thread_priority::{set_thread_priority_and_policy, thread_native_id, thread_schedule_policy};

    let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    let unknown = |error| io::Error::other(format!("{error:?}"));
    if thread_schedule_policy().map_err(unknown)? != ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other) {
        return Ok(());
    }
    // The crate sets the niceness together with the policy. The niceness is to stay as it is.
    let nice = rustix::process::getpriority_process(None)?;
    let is_the_same = |priority: &ThreadPriority| priority.to_posix(batch).is_ok_and(|posix| posix == nice);
    let mut priorities = (0..=u8::MAX).map_while(|value| ThreadPriorityValue::try_from(value).ok()).map(ThreadPriority::Crossplatform);
    let same = priorities.find(is_the_same).ok_or_else(|| io::Error::other(format!("no priority stands for niceness {nice}")))?;
    set_thread_priority_and_policy(thread_native_id(), same, batch).map_err(unknown)
}

/// Does nothing: only Linux has such a policy.
#[cfg(not(target_os = "linux"))]
pub fn schedule_as_batch() -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};

    #[test]
    fn the_policy_is_passed_on_to_threads_and_the_niceness_stays() {
        for nice in [0, 7, 19] {
            let policy_and_nice = || (thread_schedule_policy().unwrap(), rustix::process::getpriority_process(None).unwrap());
            // On Linux the policy and the niceness are those of one thread.
            let starts = thread::spawn(move || {
                rustix::process::setpriority_process(None, nice).unwrap();
                schedule_as_batch().unwrap();
                (policy_and_nice(), thread::spawn(policy_and_nice).join().unwrap())
            });
            let batch = (ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch), nice);
            assert_eq!(starts.join().unwrap(), (batch, batch));
        }
    }
}
