//! The file system, as far as the write-ahead log uses it: a handful of operations on the files of
//! one directory.
//!
//! Two implement it: [`Directory`] is the real one; the tests' simulated disk forgets what was not
//! synced. So the code that decides what is durable runs on both.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::process::descriptors::in_words;
use crate::testing::failpoint::failpoint;

/// One directory. Errors name the file that they are about.
///
/// Nothing is durable before a sync: bytes of a file before [`DiskFile::sync`], names before
/// [`Disk::sync_names`].
pub trait Disk: Send + Sync {
    /// Creates an empty file, open to append. An older one of this name is gone.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing file to append.
    fn append_to(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to read. Returns its bytes, and how many there are.
    fn read(&self, name: &str) -> io::Result<(Box<dyn Read + Send>, u64)>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns whether there is a file of this name, as far as one can see.
    fn exists(&self, name: &str) -> bool;
    /// Returns all names, in no order.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Makes the names of files that were created, renamed and removed durable.
    fn sync_names(&self) -> io::Result<()>;
    /// Returns the path of a file, for people.
    fn path(&self, name: &str) -> String;
    /// Checks that the directory is where it was when it was opened; `NotFound` if it is not.
    fn check(&self) -> io::Result<()>;
}

/// A file that is open to append.
pub trait DiskFile: Send {
    /// Appends all bytes, in one system call if the system takes them so. After an error any part
    /// of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything that was appended durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to this length, and goes on from there.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Checks that the file still has a name, without which nothing will ever read it; `NotFound`
    /// if it has none.
    fn check(&self) -> io::Result<()>;
}

/// A directory of the operating system's file system.
pub struct Directory {
    /// Invariant: absolute.
    path: PathBuf,
    /// The directory itself, kept open and locked. So its names can be synced when no further file
    /// may be opened, and another directory in its place is noticed. `None` on systems that do not
    /// open directories.
    itself: Option<File>,
    /// The identity that the directory is recognised by.
    identity: Option<Identity>,
    /// The lock file, locked as well: builds that do not lock the directory lock this.
    _lock: File,
    was_used: bool,
}

const LOCK: &str = "lock";

impl Directory {
    /// Creates the directory if need be, for this user alone, and locks it: two processes on the
    /// same files would destroy them.
    pub fn open(path: &Path) -> io::Result<Directory> {
        let path = std::path::absolute(path)?;
        let explain = |error: io::Error| {
            let what = match error.kind() {
                // It exists, and is no directory, or something on the way to it is none.
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                    "this is no directory, but a file or a link that leads nowhere".to_owned()
                }
                _ => in_words(&error),
            };
            io::Error::new(error.kind(), format!("data_dir {}: {what}", path.display()))
        };
        create_private(&path).map_err(explain)?;
        // Only Unix opens a directory.
        let itself = if cfg!(unix) { Some(File::open(&path).map_err(explain)?) } else { None };
        let identity = itself.as_ref().and_then(|itself| identity_of(&itself.metadata().ok()?));
        let there = fs::metadata(&path).map_err(explain)?;
        if let Some(mode) = open_to_others(&there) {
            log::warn!("data_dir {} is open to others than its owner (mode {mode:04o}): chmod 700", path.display());
        }
        if let Some(itself) = &itself {
            match itself.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Err(explain(in_use())),
                // Some file systems lock files alone.
                Err(fs::TryLockError::Error(error)) => log::warn!("data_dir {}: only its file {LOCK} is locked: {error}", path.display()),
            }
        }
        let lock_path = path.join(LOCK);
        let was_used = lock_path.exists();
        let lock = private().create(true).truncate(false).write(true).open(&lock_path).map_err(|error| about(&lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(explain(in_use())),
            Err(fs::TryLockError::Error(error)) => return Err(about(&lock_path, error)),
        }
        if let Some(parent) = path.parent() {
            sync_directory(parent).map_err(|error| about(parent, error))?;
        }
        // On a file system where the same directory looks different by its name, there is nothing
        // to recognise it by.
        let identity = identity.filter(|identity| identity_of(&there).as_ref() == Some(identity));
        Ok(Directory { path, itself, identity, _lock: lock, was_used })
    }

    /// Returns the absolute path of the directory.
    pub fn absolute_path(&self) -> &Path {
        &self.path
    }

    /// Returns whether a node has been started here before.
    pub fn was_used(&self) -> bool {
        self.was_used
    }
}

fn in_use() -> io::Error {
    let what = "another process uses it; is this node running already? Stop it, or give this node a data_dir of its own";
    io::Error::new(io::ErrorKind::ResourceBusy, what)
}

impl Disk for Directory {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        // Not in another directory that has taken its place: that one is not locked.
        self.check()?;
        let path = self.path.join(name);
        let create = || private().create(true).truncate(true).write(true).open(&path);
        at("create", create).map(|file| NamedFile::boxed(file, &path)).map_err(|error| about(&path, error))
    }

    fn append_to(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        OpenOptions::new().append(true).open(&path).map(|file| NamedFile::boxed(file, &path)).map_err(|error| about(&path, error))
    }

    fn read(&self, name: &str) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let path = self.path.join(name);
        let opened = File::open(&path).and_then(|file| file.metadata().map(|metadata| (file, metadata.len())));
        let (file, len) = opened.map_err(|error| about(&path, error))?;
        Ok((Box::new(NamedSource { file, path }), len))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let path = self.path.join(from);
        at("rename", || fs::rename(&path, self.path.join(to))).map_err(|error| about(&path, error))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        at("remove", || fs::remove_file(&path)).map_err(|error| about(&path, error))
    }

    fn exists(&self, name: &str) -> bool {
        // What cannot be looked at is not known to be gone.
        self.path.join(name).try_exists().unwrap_or(true)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let names = fs::read_dir(&self.path).and_then(|entries| entries.map(name).collect());
        names.map_err(|error| about(&self.path, error))
    }

    fn sync_names(&self) -> io::Result<()> {
        // On other systems names are durable when the system says so.
        let sync = || self.itself.as_ref().map_or(Ok(()), File::sync_all);
        at("sync-names", sync).map_err(|error| about(&self.path, error))
    }

    fn path(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    fn check(&self) -> io::Result<()> {
        let Some(identity) = &self.identity else { return Ok(()) };
        let is_gone = match fs::metadata(&self.path) {
            Ok(metadata) => identity_of(&metadata).as_ref() != Some(identity),
            // An error of another kind says nothing of where the directory is.
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        if is_gone { Err(gone(&self.path, "was removed, moved away, or replaced by another directory")) } else { Ok(()) }
    }
}

/// A file that is open to append, with its path for errors.
struct NamedFile {
    file: File,
    path: PathBuf,
    /// The system counts the names of this file at all.
    has_names: bool,
}

impl NamedFile {
    fn boxed(file: File, path: &Path) -> Box<dyn DiskFile> {
        let has_names = names_of(&file) != Some(0);
        Box::new(NamedFile { file, path: path.to_owned(), has_names })
    }
}

impl DiskFile for NamedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        at("append", || self.file.write_all(bytes)).map_err(|error| about(&self.path, error))
    }

    fn sync(&mut self) -> io::Result<()> {
        at("sync", || self.file.sync_data()).map_err(|error| about(&self.path, error))
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let truncate = || {
            self.file.set_len(len)?;
            io::Seek::seek(&mut self.file, io::SeekFrom::Start(len)).map(|_| ())
        };
        at("truncate", truncate).map_err(|error| about(&self.path, error))
    }

    fn check(&self) -> io::Result<()> {
        if self.has_names && names_of(&self.file) == Some(0) { Err(gone(&self.path, "was removed")) } else { Ok(()) }
    }
}

/// A file that is open to read, with its path for errors.
struct NamedSource {
    file: File,
    path: PathBuf,
}

impl Read for NamedSource {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into).map_err(|error| about(&self.path, error))
    }
}

/// Names the file in an error, and keeps its kind.
fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {}", path.display(), in_words(&error)))
}

fn gone(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} {what}", path.display()))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    // Only Unix opens a directory; elsewhere names are durable when the system says so.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// The identity of a directory: device and inode.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity_of(metadata: &fs::Metadata) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity_of(_metadata: &fs::Metadata) -> Option<Identity> {
    None
}

/// Returns how many names a file has, where the system tells.
#[cfg(unix)]
fn names_of(file: &File) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    file.metadata().ok().map(|metadata| metadata.nlink())
}

#[cfg(not(unix))]
fn names_of(_file: &File) -> Option<u64> {
    None
}

/// Options for files that only their owner is to read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Creates a directory that only its owner is to enter, unless it is there.
fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)
}

/// Returns the mode of a directory that others than its owner may read or enter. It is not changed:
/// whoever set it may have had a reason.
#[cfg(unix)]
fn open_to_others(metadata: &fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    let mode = metadata.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}

#[cfg(not(unix))]
fn open_to_others(_metadata: &fs::Metadata) -> Option<u32> {
    None
}

/// Runs one operation between its two failpoints.
fn at<T>(operation: &str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    failpoint("before", operation);
    let done = work();
    failpoint("after", operation);
    done
}
