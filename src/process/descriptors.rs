//! Open files: how many this process may have, how they are shared out, and the error when none is
//! left.
//!
//! Clients get what everything else leaves. So even with the maximum of clients connected, the log
//! can switch files, peers can reconnect, and one more client can be turned away with a reason.

use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors beside peers and clients: standard streams, signals, ports, the directory and its
/// lock, the log and its successor, a snapshot, the files that STATUS reads, the audit log, and one
/// client that is turned away. Some are to spare.
const BESIDE: usize = 24;

/// Descriptors for each peer: a link each way, one that replaces another, and a name lookup while
/// dialling.
const PER_PEER: usize = 6;

/// The fewest clients that a node is worth starting for.
const CLIENTS_MIN: usize = 4;

/// Unidentified connections on the peer port, those that are being closed included, where there are
/// enough descriptors.
pub const UNIDENTIFIED_MAX: usize = 128;

/// How many connections of each kind there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    pub clients_max: usize,
    pub unidentified_max: usize,
}

/// Shares out `limit` descriptors, to at most `clients_max` clients. An error says that they are
/// too few even for `CLIENTS_MIN`.
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

/// Raises the soft limit on open files to the hard limit, which the operator sets. Returns the
/// limit now in force, or `None` where it cannot be read.
pub fn raise_limit() -> Option<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    // Some systems refuse an unlimited hard limit as a soft limit.
    let allowed = if soft == hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    Some(usize::try_from(allowed).unwrap_or(usize::MAX))
}

/// True if something could not be opened because this process has no descriptor left.
pub fn are_used_up(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EMFILE as i32)
}

/// An error of the system as a sentence. If no descriptor is left, it names the limit, since that
/// is what to change.
pub fn in_words(error: &io::Error) -> String {
    if are_used_up(error) { no_descriptor() } else { error.to_string() }
}

/// The sentence for an operation that found no descriptor left.
pub fn no_descriptor() -> String {
    format!("too many open files; limit {} (ulimit -n)", limit().map_or_else(|| "unknown".to_owned(), |limit| limit.to_string()))
}

fn limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
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

    #[test]
    fn that_none_is_left_is_said_with_the_limit() {
        let error = io::Error::from_raw_os_error(Errno::EMFILE as i32);
        assert!(in_words(&error).starts_with("too many open files; limit "), "{}", in_words(&error));
        assert_eq!(in_words(&io::Error::other("else")), "else");
    }
}
