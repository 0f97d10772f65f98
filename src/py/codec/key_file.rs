//! The secret beside a store: 32 random bytes in a file that nobody else can read.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::Key;

/// Path of the key that belongs to a database file.
pub fn beside(database: &Path) -> PathBuf {
    let mut path = OsString::from(database);
    path.push(".key");
    path.into()
}

/// The key, made if there is none. Two processes that make one at the same time end up with the same. Blocks on
/// the disk. The error says why there is no usable key.
pub fn read_or_create(path: &Path) -> Result<Key, String> {
    match open(path) {
        Ok(file) => return key_of(file, path),
        Err(err) if err.kind() == ErrorKind::NotFound => {}
        Err(err) => return Err(cannot("read", path, &err)),
    }
    create(path).map_err(|err| cannot("create", path, &err))?;
    read(path)
}

/// The key of an existing file. Blocks on the disk.
pub fn read(path: &Path) -> Result<Key, String> {
    let file = open(path).map_err(|err| cannot("read", path, &err))?;
    key_of(file, path)
}

fn cannot(verb: &str, path: &Path, err: &io::Error) -> String {
    format!("cannot {verb} key file {}: {err}", path.display())
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A link could lead to a file of the attacker's choice; a FIFO would block.
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
    }
    options.open(path)
}

fn key_of(mut file: File, path: &Path) -> Result<Key, String> {
    check(&file.metadata().map_err(|err| cannot("read", path, &err))?, path)?;
    let mut key = Key::default();
    let mut rest = [0];
    match file.read_exact(&mut key).and_then(|()| file.read(&mut rest)) {
        Ok(0) => Ok(key),
        Ok(_) => Err(format!("key file {} is damaged", path.display())),
        Err(err) if err.kind() == ErrorKind::UnexpectedEof => Err(format!("key file {} is damaged", path.display())),
        Err(err) => Err(cannot("read", path, &err)),
    }
}

/// Whoever knows the key can have this process run code: only its own user may read the file or have made it.
#[cfg(unix)]
fn check(meta: &fs::Metadata, path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    if !meta.is_file() {
        return Err(format!("key file {} is not a regular file", path.display()));
    }
    if meta.uid() != effective_uid() {
        return Err(format!("key file {} belongs to another user", path.display()));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(format!("key file {} is open to other users; chmod 600 it", path.display()));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check(meta: &fs::Metadata, path: &Path) -> Result<(), String> {
    if meta.is_file() { Ok(()) } else { Err(format!("key file {} is not a regular file", path.display())) }
}

#[cfg(unix)]
#[allow(unsafe_code)]
fn effective_uid() -> u32 {
    // SAFETY: no arguments, no preconditions, cannot fail.
    unsafe { libc::geteuid() }
}

/// Writes a key to a temporary file and links it in place: readers see a whole key or none, and only one link can
/// be first.
fn create(path: &Path) -> io::Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::from)?;
    let mut temporary = OsString::from(path);
    temporary.push(format!(".{:016x}.tmp", u64::from_le_bytes(random)));
    let temporary = PathBuf::from(temporary);
    let result = write_new(&temporary).and_then(|()| match fs::hard_link(&temporary, path) {
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(()),
        // A file system without hard links. The check and the rename are two steps there: of two processes that
        // both get past the check the later one wins, and the earlier one's few rows so far are dropped as not
        // authentic.
        Err(_) if !path.exists() => fs::rename(&temporary, path),
        linked => linked,
    });
    if let Err(err) = fs::remove_file(&temporary) {
        if err.kind() != ErrorKind::NotFound {
            log::debug!("cannot remove {}: {err}", temporary.display());
        }
    }
    result?;
    // Rows must not outlive their key in a power failure. Not every file system can sync a directory.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if let Err(err) = File::open(folder).and_then(|folder| folder.sync_all()) {
        log::debug!("cannot sync {}: {err}", folder.display());
    }
    Ok(())
}

fn write_new(path: &Path) -> io::Result<()> {
    let mut key = Key::default();
    getrandom::fill(&mut key).map_err(io::Error::from)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(&key)?;
    file.sync_all()
}
