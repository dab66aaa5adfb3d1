//! Failpoints: the process dies at a chosen file operation, for tests of crashes.

/// Dies, as by `kill -9`, at the operation that `KVMESH_FAILPOINT` names, such as `before:rename:2`
/// for the second one. Only with the feature `testing`, which only tests switch on.
#[cfg(feature = "testing")]
pub fn failpoint(when: &str, operation: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static CHOSEN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let point = std::env::var("KVMESH_FAILPOINT").ok()?;
        let (name, count) = point.rsplit_once(':').expect("KVMESH_FAILPOINT is like before:append:1");
        Some((name.to_owned(), count.parse().expect("KVMESH_FAILPOINT ends with a number")))
    });
    if let Some((name, count)) = chosen
        && *name == format!("{when}:{operation}")
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        eprintln!("failpoint {name}:{count}");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(not(feature = "testing"))]
pub fn failpoint(_when: &str, _operation: &str) {}
