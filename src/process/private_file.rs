//! Files that are their owner's alone: those that hold a secret, and the audit log.
//!
//! Owns the check of their mode, on the file that is open and not on its name. Never shows what is
//! in such a file: its errors are clauses without a word of it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Bytes of a file with a secret. A longer one is no secret, and is not read to its end.
const SECRET_LEN_MAX: u64 = 1024;
/// The mode of a file that is created here.
const MODE: u32 = 0o600;
/// Others than the owner may read or write it.
const OTHERS_READ_OR_WRITE: u32 = 0o066;
/// Others than the owner may write it.
const OTHERS_WRITE: u32 = 0o022;

/// Reads the secret that a file holds: one line of printable characters without spaces, which is
/// what `kvctl genpass FILE` writes. The error is a clause that says what is wrong with the file.
///
/// A file that others than its owner can read or write is refused: such a secret is none.
pub fn read_secret(path: &Path) -> Result<String, String> {
    let cannot_read = |error: io::Error| format!("it cannot be read: {error}");
    let file = File::open(path).map_err(cannot_read)?;
    if let Some(mode) = open_to_others(&file).map_err(cannot_read)? {
        return Err(format!("others can read or write it (mode {mode:04o}); expected mode 0600: chmod 600 {}", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(SECRET_LEN_MAX + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    if bytes.len() as u64 > SECRET_LEN_MAX {
        return Err(format!("it is longer than {SECRET_LEN_MAX} bytes; expected one secret, such as kvctl genpass makes"));
    }
    let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    match std::str::from_utf8(secret) {
        Ok(secret) if is_secret(secret) => Ok(secret.to_owned()),
        _ => Err("it holds something else than one secret of printable characters without spaces, such as kvctl genpass makes".to_owned()),
    }
}

/// The mode of a file that others than its owner can read or write; `None` if they cannot.
pub fn open_to_others(file: &File) -> io::Result<Option<u32>> {
    let mode = mode(&file.metadata()?);
    Ok((mode & OTHERS_READ_OR_WRITE != 0).then_some(mode))
}

/// True if this can be a secret: it is one word in every protocol, never in need of quotes.
pub fn is_secret(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('"') && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Creates a file with mode 0600, which must not exist yet.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)
}

/// Opens a file to append to, and creates it with mode 0600. Refused if others can write it, or if
/// it is no regular file.
pub fn append_to(path: &Path) -> io::Result<File> {
    // To open a pipe waits for its reader.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::other("it is no regular file"));
    }
    let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
    let mode = mode(&file.metadata()?);
    if mode & OTHERS_WRITE != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("others can write it (mode {mode:04o}); expected mode 0600: chmod 600 {}", path.display()),
        ));
    }
    Ok(file)
}

fn mode(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_secret_is_one_word_in_a_file_of_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let read = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            set_mode(&path, mode);
            read_secret(&path)
        };
        for text in ["s3cret", "s3cret\n", "s3cret\r\n"] {
            assert_eq!(read(text, 0o600).as_deref(), Ok("s3cret"), "{text:?}");
        }
        assert_eq!(read("s3cret", 0o400).as_deref(), Ok("s3cret"));
        let long = "s3cret".repeat(200);
        for (text, mode, wrong) in [
            ("s3cret", 0o644, "(mode 0644); expected mode 0600: chmod 600 "),
            ("s3cret", 0o640, "(mode 0640)"),
            ("s3cret", 0o620, "(mode 0620)"),
            ("", 0o600, "something else than one secret"),
            ("\n", 0o600, "something else"),
            ("s3cret\n\n", 0o600, "something else"),
            ("s3cret two", 0o600, "something else"),
            ("\"s3cret\"", 0o600, "something else"),
            ("s3crét", 0o600, "something else"),
            (long.as_str(), 0o600, "longer than 1024 bytes"),
        ] {
            let error = read(text, mode).unwrap_err();
            assert!(error.contains(wrong) && !error.contains("s3cr"), "{text:?}, {mode:o}: {error}");
        }
        assert!(read_secret(&dir.path().join("none")).unwrap_err().starts_with("it cannot be read: "));
        assert!(read_secret(dir.path()).is_err());
    }

    #[test]
    fn what_is_created_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        create_new(&path).unwrap().write_all(b"1\n").unwrap();
        assert_eq!(mode(&fs::metadata(&path).unwrap()), 0o600);
        assert_eq!(create_new(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        append_to(&path).unwrap().write_all(b"2\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1\n2\n");
        let other = dir.path().join("other");
        append_to(&other).unwrap();
        assert_eq!(mode(&fs::metadata(&other).unwrap()), 0o600);
        // To read it harms nobody: some collect it that way.
        set_mode(&other, 0o644);
        append_to(&other).unwrap();
        set_mode(&other, 0o664);
        assert!(append_to(&other).unwrap_err().to_string().contains("others can write it (mode 0664)"));
        assert!(append_to(dir.path()).unwrap_err().to_string().contains("no regular file"));
    }
}
