//! Open files: how many this process may have, who gets how many of them, and what is said when none is left.
//!
//! Clients get what the rest leaves over. So when as many are connected as there may be, the log can still change, peers can come back, and one client more can be told so.

use std::io;

/// Standard streams, signals, ports, the directory and its lock, the log and its successor, a snapshot, what STATUS reads, and one client that is turned away; with some to spare.
const BESIDE: usize = 24;

/// For each peer: the links both ways, one that replaces another, and what resolves its address while it is dialled.
const PER_PEER: usize = 6;

/// A node that can serve no more clients than these is not worth starting.
const CLIENTS_MIN: usize = 4;

/// Connections on the peer port that have not said yet who they are, where there are descriptors enough; with those that are being closed.
pub const UNIDENTIFIED_MAX: usize = 128;

/// Who may have how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    pub clients_max: usize,
    pub unidentified_max: usize,
}

/// Shares out `limit` descriptors for a node that is to have `clients_max` clients if they are enough. An error says that they are too few for anybody.
pub fn share(limit: usize, peers: usize, clients_max: usize) -> Result<Shares, String> {
    let beside = BESIDE + PER_PEER * peers;
    let left = limit.saturating_sub(beside);
    let unidentified_max = (left / 4).min(UNIDENTIFIED_MAX);
    let clients_left = left - unidentified_max;
    if clients_left < CLIENTS_MIN.min(clients_max) {
        return Err(format!(
            "the system allows {limit} open files, and this node needs {beside} for itself and its peers, and some for clients: raise `ulimit -n` (systemd: LimitNOFILE)"
        ));
    }
    Ok(Shares { clients_max: clients_max.min(clients_left), unidentified_max })
}

/// Raises the soft limit to the hard one, which is the operator's own word. Returns what is allowed by then; `None` where nobody knows.
#[cfg(unix)]
pub fn raise_limit() -> Option<usize> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    // Where the hard limit is "as many as you like", some systems do not take it for a soft one.
    let allowed = if soft == hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    Some(usize::try_from(allowed).unwrap_or(usize::MAX))
}

#[cfg(not(unix))]
pub fn raise_limit() -> Option<usize> {
    None
}

/// Whether it is for want of a descriptor that something could not be opened.
pub fn are_used_up(error: &io::Error) -> bool {
    #[cfg(unix)]
    return error.raw_os_error() == Some(nix::errno::Errno::EMFILE as i32);
    #[cfg(not(unix))]
    false
}

/// An error of the system in words. That there is no descriptor left is said with the limit, since that is what to change.
pub fn in_words(error: &io::Error) -> String {
    if are_used_up(error) { no_descriptor() } else { error.to_string() }
}

/// That there is no descriptor left.
pub fn no_descriptor() -> String {
    format!("too many open files; limit {} (ulimit -n)", limit().map_or_else(|| "unknown".to_owned(), |limit| limit.to_string()))
}

#[cfg(unix)]
fn limit() -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

#[cfg(not(unix))]
fn limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_is_left_and_no_more_than_they_are_to_have() {
        assert_eq!(share(1 << 20, 2, 10_000), Ok(Shares { clients_max: 10_000, unidentified_max: UNIDENTIFIED_MAX }));
        assert_eq!(share(1_024, 2, 10_000), Ok(Shares { clients_max: 1_024 - 36 - UNIDENTIFIED_MAX, unidentified_max: UNIDENTIFIED_MAX }));
        assert_eq!(share(64, 2, 10_000), Ok(Shares { clients_max: 21, unidentified_max: 7 }));
        assert_eq!(share(64, 2, 5), Ok(Shares { clients_max: 5, unidentified_max: 7 }));
        for limit in 0..500 {
            for peers in 0..7 {
                if let Ok(shares) = share(limit, peers, 10_000) {
                    assert!(
                        BESIDE + PER_PEER * peers + shares.clients_max + shares.unidentified_max <= limit,
                        "{limit}, {peers}: {shares:?}"
                    );
                    assert!(shares.clients_max >= CLIENTS_MIN && shares.unidentified_max > 0, "{limit}, {peers}: {shares:?}");
                }
            }
        }
        assert!(share(20, 2, 10_000).unwrap_err().contains("20 open files"));
    }

    #[cfg(unix)]
    #[test]
    fn that_none_is_left_is_said_with_the_limit() {
        let error = io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32);
        assert!(in_words(&error).starts_with("too many open files; limit "), "{}", in_words(&error));
        assert_eq!(in_words(&io::Error::other("else")), "else");
    }
}
