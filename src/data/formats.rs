//! Format versions of files and dumps, and the error for those that this build does not read.
//!
//! Each file and dump begins with the number of its format. One of another version is not damaged:
//! the build that wrote it reads it, and nothing is to be thrown away because of it. So it is an
//! error of its own.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;

/// A format that this build does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherVersion {
    found: u32,
    read: RangeInclusive<u32>,
}

impl OtherVersion {
    /// Compares a format's number with the formats that are read. `None` if it is read, and for 0,
    /// which is no format's number.
    pub fn found(found: u32, read: RangeInclusive<u32>) -> Option<OtherVersion> {
        (found != 0 && !read.contains(&found)).then_some(OtherVersion { found, read })
    }

    /// Makes the error for a file with this path. It is `Unsupported`, where damage is
    /// `InvalidData`.
    pub fn in_file(&self, path: &str) -> io::Error {
        io::Error::new(io::ErrorKind::Unsupported, format!("{path} {self}"))
    }
}

/// Reads on behind a name: "the file … was written by another version".
impl fmt::Display for OtherVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OtherVersion { found, read } = self;
        write!(f, "was written by another version of kvmesh: it is of format {found}, and this build reads format {}", read.start())?;
        if read.start() < read.end() {
            write!(f, " to {}", read.end())?;
        }
        let age = if found > read.end() { "a newer" } else { "an older" };
        write!(f, ". Nothing is wrong with it: run the build that wrote it, or {age} one")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_what_is_read_and_what_to_do_are_said() {
        let said = |found, read| OtherVersion::found(found, read).map(|other| other.to_string());
        assert_eq!((said(1, 1..=1), said(2, 2..=3), said(0, 1..=1)), (None, None, None));
        assert_eq!(
            said(2, 1..=1).unwrap(),
            "was written by another version of kvmesh: it is of format 2, and this build reads format 1. Nothing is wrong with it: run the build that wrote \
             it, or a newer one"
        );
        assert!(
            said(1, 2..=3)
                .unwrap()
                .ends_with("reads format 2 to 3. Nothing is wrong with it: run the build that wrote it, or an older one")
        );
    }
}
