//! [`Disk`] on the machine's own files. Every call blocks a thread of tokio's blocking pool, never a worker.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation};

use super::{Disk, DiskFile, OpenMode, WriteSyncError};

/// A directory of the machine.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    /// The directory's own handle: it carries the lock, so that a directory that is not ours gets no lock file.
    locked: Arc<Mutex<Option<File>>>,
}

impl RealDisk {
    /// The directory `root`, which need not exist yet. Nothing is touched before [`Disk::lock`].
    pub fn new(root: PathBuf) -> Self {
        Self { root, locked: Arc::default() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Runs `work` on the blocking pool.
pub(crate) async fn blocking<T, F>(work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) => Err(io::Error::other(join)),
    }
}

fn create_private(root: &Path) -> io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    let parent = root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[async_trait]
impl Disk for RealDisk {
    async fn lock(&self) -> io::Result<()> {
        let (root, locked) = (self.root.clone(), Arc::clone(&self.locked));
        blocking(move || {
            create_private(&root)?;
            let dir = File::open(&root)?;
            rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
            *locked.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir);
            Ok(())
        })
        .await
    }

    async fn restrict(&self) -> io::Result<()> {
        let root = self.root.clone();
        blocking(move || fs::set_permissions(&root, Permissions::from_mode(0o700))).await
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        let root = self.root.clone();
        blocking(move || {
            let mut names = Vec::new();
            for entry in fs::read_dir(&root)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.root.join(name);
        blocking(move || {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).mode(0o600);
            match mode {
                OpenMode::Existing => &mut options,
                OpenMode::Create => options.create(true).truncate(false),
                OpenMode::Fresh => options.create(true).truncate(true),
            };
            let file: Arc<dyn DiskFile> = Arc::new(RealFile(Arc::new(options.open(&path)?)));
            Ok(file)
        })
        .await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.root.join(from), self.root.join(to));
        blocking(move || fs::rename(from, to)).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        blocking(move || fs::remove_file(path)).await
    }

    async fn sync_dir(&self) -> io::Result<()> {
        let root = self.root.clone();
        blocking(move || File::open(root)?.sync_all()).await
    }

    fn describe(&self, name: &str) -> String {
        if name.is_empty() {
            self.root.display().to_string()
        } else {
            self.root.join(name).display().to_string()
        }
    }
}

struct RealFile(Arc<File>);

#[async_trait]
impl DiskFile for RealFile {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let file = Arc::clone(&self.0);
        blocking(move || {
            let mut buffer = vec![0; len];
            let mut filled = 0;
            while filled < len {
                match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            buffer.truncate(filled);
            Ok(Bytes::from(buffer))
        })
        .await
    }

    async fn write_at(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        let file = Arc::clone(&self.0);
        blocking(move || file.write_all_at(&bytes, offset)).await
    }

    async fn sync_data(&self) -> io::Result<()> {
        let file = Arc::clone(&self.0);
        blocking(move || file.sync_data()).await
    }

    async fn write_synced(&self, offset: u64, bytes: Bytes) -> Result<(), WriteSyncError> {
        let file = Arc::clone(&self.0);
        let work = move || {
            file.write_all_at(&bytes, offset).map_err(WriteSyncError::Write)?;
            file.sync_data().map_err(WriteSyncError::Sync)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(join) => Err(WriteSyncError::Sync(io::Error::other(join))),
        }
    }

    async fn size_bytes(&self) -> io::Result<u64> {
        let file = Arc::clone(&self.0);
        blocking(move || Ok(file.metadata()?.len())).await
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        let file = Arc::clone(&self.0);
        blocking(move || file.set_len(len)).await
    }

    async fn preallocate(&self, len: u64) -> io::Result<()> {
        let file = Arc::clone(&self.0);
        blocking(move || match rustix::fs::fallocate(&*file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // Not every file system can reserve; growing the file keeps the length stable at least.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) if file.metadata()?.len() < len => {
                file.set_len(len)
            }
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(e) => Err(e.into()),
        })
        .await
    }
}
