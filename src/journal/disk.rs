//! The file system, as far as the journal uses it: a handful of operations on the files of one directory.
//!
//! Two implement it: [`Directory`] is the real one; the tests' simulated disk forgets what was not synced. So the code that decides what is durable runs on both.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// One directory. Nothing is durable before a sync: of a file's bytes before [`DiskFile::sync`], of names before [`Disk::sync_names`].
pub trait Disk: Send + Sync {
    /// A new, empty file, open to append; an older one of this name is gone.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// An existing file, open to append.
    fn append_to(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Its bytes, and how many there are.
    fn read(&self, name: &str) -> io::Result<(Box<dyn Read + Send>, u64)>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// All names, in no order.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Makes names durable: of files created, renamed and removed.
    fn sync_names(&self) -> io::Result<()>;
    /// Where it is, for people.
    fn path(&self, name: &str) -> String;
}

/// A file that is written from its end.
pub trait DiskFile: Send {
    /// All bytes, in one call of the system if it takes them; after an error any part of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes all that was appended durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file, and goes on from there.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// The real one.
pub struct Directory {
    path: PathBuf,
    /// Holds the lock for as long as this lives.
    _lock: File,
}

impl Directory {
    /// Creates the directory if need be, and locks it: two processes on the same files would destroy them.
    pub fn open(path: &Path) -> io::Result<Directory> {
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("data_dir {}: {error}", path.display()));
        fs::create_dir_all(path).map_err(explain)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock")).map_err(explain)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let what = "another process uses it; is this node running already? Stop it, or give this node a data_dir of its own";
                return Err(explain(io::Error::new(io::ErrorKind::ResourceBusy, what)));
            }
            Err(fs::TryLockError::Error(error)) => return Err(explain(error)),
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent).map_err(explain)?;
        }
        Ok(Directory { path: path.to_owned(), _lock: lock })
    }
}

impl Disk for Directory {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let create = || OpenOptions::new().create(true).truncate(true).write(true).open(self.path.join(name));
        at("create", create).map(|file| Box::new(file) as Box<dyn DiskFile>)
    }

    fn append_to(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().append(true).open(self.path.join(name))?))
    }

    fn read(&self, name: &str) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let file = File::open(self.path.join(name))?;
        let len = file.metadata()?.len();
        Ok((Box::new(file), len))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        at("rename", || fs::rename(self.path.join(from), self.path.join(to)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        at("remove", || fs::remove_file(self.path.join(name)))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn sync_names(&self) -> io::Result<()> {
        at("sync-names", || sync_directory(&self.path))
    }

    fn path(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

impl DiskFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        at("append", || self.write_all(bytes))
    }

    fn sync(&mut self) -> io::Result<()> {
        at("sync", || self.sync_data())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        at("truncate", || {
            self.set_len(len)?;
            io::Seek::seek(self, io::SeekFrom::Start(len)).map(|_| ())
        })
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    // Only Unix opens a directory; elsewhere names are durable when the system says so.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// One operation, between its two failpoints.
fn at<T>(operation: &str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    failpoint("before", operation);
    let done = work();
    failpoint("after", operation);
    done
}

/// With the feature `testing`, which only tests switch on: the process dies, as by `kill -9`, at the operation that `KVMESH_FAILPOINT` names, such as
/// `before:rename:2` for the second one.
#[cfg(feature = "testing")]
fn failpoint(when: &str, operation: &str) {
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
fn failpoint(_when: &str, _operation: &str) {}
