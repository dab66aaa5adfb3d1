//! A file that replaces another one atomically: written beside it, synced, and renamed into its
//! place. Until then the other one stays as it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::terminal::print_error;
use crate::{Code, Failure};

const BUFFER_LEN: usize = 256 << 10;
/// The mode of the new file: its keys and values are for its owner.
const MODE: u32 = 0o600;

/// The path of the part from its creation until it is removed or renamed. Whoever creates, removes
/// or renames it holds the lock.
type PartPath = Mutex<Option<PathBuf>>;

pub struct AtomicFile {
    file: BufWriter<File>,
    /// The file that is to be replaced.
    target: PathBuf,
    path: Arc<PartPath>,
    len: u64,
}

impl AtomicFile {
    /// Creates a part beside `target`, which may exist if it is a regular file. A signal that ends
    /// the process removes the part first.
    pub fn beside(target: &Path) -> Result<AtomicFile, Failure> {
        let refused = |why: &str| Err(Failure::new(Code::Usage, format_args!("cannot write to {}: {why}", target.display())));
        match fs::symlink_metadata(target) {
            Ok(metadata) if !metadata.is_file() => return refused("it exists, and is no regular file"),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return refused(&error.to_string()),
        }
        if target.file_name().is_none() {
            return refused("it names no file");
        }
        let path = Arc::default();
        remove_on_signal(&path);
        let file = {
            let mut path = path.lock();
            let name = directory_of(target).join(format!(".kvctl-{:016x}.part", fastrand::u64(..)));
            match OpenOptions::new().write(true).create_new(true).mode(MODE).open(path.insert(name)) {
                Ok(file) => file,
                Err(error) => return refused(&format!("cannot create a file beside it: {error}")),
            }
        };
        Ok(AtomicFile { file: BufWriter::with_capacity(BUFFER_LEN, file), target: target.to_owned(), path, len: 0 })
    }

    pub fn write_line(&mut self, line: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(line).and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|error| self.cannot_write(&error))?;
        self.len += line.len() as u64 + 1;
        Ok(())
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Replaces the target. The file and its name are on disk then.
    pub fn take_place(mut self) -> Result<(), Failure> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(|error| self.cannot_write(&error))?;
        let mut path = self.path.lock();
        if let Some(written) = path.as_deref() {
            fs::rename(written, &self.target).map_err(|error| self.cannot_write(&error))?;
        }
        *path = None;
        drop(path);
        File::open(directory_of(&self.target)).and_then(|directory| directory.sync_all()).map_err(|error| {
            let target = self.target.display();
            Failure::new(
                Code::Refused,
                format_args!("{target} is complete, but a power failure may undo that: cannot sync its directory: {error}"),
            )
        })
    }

    fn cannot_write(&self, error: &io::Error) -> Failure {
        let target = self.target.display();
        Failure::new(Code::Refused, format_args!("cannot write {target}: {error}; nothing there was changed"))
    }
}

/// A part that was not renamed is removed.
impl Drop for AtomicFile {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn directory_of(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes the part. Returns true if there was one.
fn remove(path: &PartPath) -> bool {
    let removed = path.lock().take();
    // A part that cannot be removed has a name that says what it is.
    removed.map(fs::remove_file).is_some()
}

fn remove_on_signal(path: &Arc<PartPath>) {
    let path = Arc::clone(path);
    let on_signal = move || {
        if remove(&path) {
            print_error("kvctl: interrupted: nothing was written");
        }
        #[expect(clippy::exit, reason = "this is what the signal asks for")]
        std::process::exit(Code::Refused.number().into());
    };
    // If that fails, a signal ends the process and leaves the part.
    let _ = ctrlc::set_handler(on_signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good<T>(done: Result<T, Failure>) -> T {
        done.unwrap_or_else(|failure| panic!("{}", failure.text))
    }

    #[test]
    fn a_file_changes_only_when_the_new_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("backup");
        let there = || {
            let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let mut first = good(AtomicFile::beside(&target));
        good(first.write_line(b"one"));
        assert!(!target.exists());
        good(first.take_place());
        assert_eq!((fs::read(&target).unwrap(), there()), (b"one\n".to_vec(), vec!["backup".into()]));

        let mut second = good(AtomicFile::beside(&target));
        good(second.write_line(b"two"));
        assert_eq!(there().len(), 2);
        drop(second);
        assert_eq!((fs::read(&target).unwrap(), there()), (b"one\n".to_vec(), vec!["backup".into()]));
    }

    #[test]
    fn what_is_no_regular_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("elsewhere", &link).unwrap();
        for target in [dir.path(), &link, &dir.path().join(".."), Path::new(""), Path::new("/dev/null"), &dir.path().join("none/backup")] {
            let refused = AtomicFile::beside(target).err().map(|failure| failure.code);
            assert_eq!(refused, Some(Code::Usage), "{}", target.display());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
