//! The database file as the file system sees it: created private, checked, named.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Error;

/// Symbolic links followed before a path counts as a loop.
const MAX_LINKS: usize = 40;

/// What makes two paths the same file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    #[cfg(unix)]
    inode: (u64, u64),
    #[cfg(not(unix))]
    path: PathBuf,
}

/// The absolute path of the file, links followed, also where the last link points to nothing yet.
pub fn resolve(path: &Path) -> Result<PathBuf, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::canonicalize(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.map_err(failed),
        }
        let Some(name) = target.file_name() else {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        };
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let full = fs::canonicalize(folder).map_err(failed)?.join(name);
        match fs::read_link(&full) {
            // `join` keeps an absolute link as it is.
            Ok(link) => target = full.with_file_name("").join(link),
            Err(_) => return Ok(full),
        }
    }
    Err(failed(io::Error::other("too many symbolic links")))
}

/// Creates the file, empty and private, unless it exists.
///
/// A private temporary file is linked to the name, so the name never stands for a file with other modes, and the
/// process never closes a descriptor of a file that SQLite may already have open.
#[cfg(unix)]
pub fn create(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    let failed = |source| Error::Io { path: path.to_owned(), source };
    if path.exists() {
        return Ok(());
    }
    let temporary = beside(path, &format!(".{}-{:x}.tmp", std::process::id(), random()));
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
    // The umask may have taken even the owner's rights away.
    let prepared = file.set_permissions(fs::Permissions::from_mode(0o600));
    drop(file);
    let linked = prepared.and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // No hard links on this file system. Nothing can have the name open yet, bar a process that creates it just now.
        Err(_) if !path.exists() => fs::rename(&temporary, path),
        other => other,
    });
    // Gone already if it was renamed.
    drop(fs::remove_file(&temporary));
    linked.map_err(failed)?;
    // The name itself must survive a power loss. Some file systems cannot sync a folder; they need not.
    if let Some(Ok(folder)) = path.parent().map(fs::File::open) {
        drop(folder.sync_all());
    }
    Ok(())
}

/// Windows gives a new file the access list of its folder; SQLite creates it.
#[cfg(not(unix))]
pub fn create(path: &Path) -> Result<(), Error> {
    if !path.exists() {
        fs::File::create_new(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    }
    Ok(())
}

/// The smallest database that is not empty: one page of the smallest size.
#[cfg(unix)]
const SMALLEST: u64 = 512;

/// Names the file, after making sure that nobody but its owner, who must be us, can have written it.
///
/// The log files beside it are checked as well: SQLite would replay a foreign one into the database.
#[cfg(unix)]
pub fn check(path: &Path) -> Result<FileId, Error> {
    use std::os::unix::fs::MetadataExt;

    let found = fs::metadata(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    if !found.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(Error::Io { path: path.to_owned(), source });
    }
    if (1..SMALLEST).contains(&found.len()) {
        // SQLite takes so short a file for an empty database and would overwrite it.
        let source = io::Error::new(io::ErrorKind::InvalidData, "not a database");
        return Err(Error::Io { path: path.to_owned(), source });
    }
    check_access(path, &found)?;
    for suffix in ["-wal", "-shm", "-journal"] {
        let log = beside(path, suffix);
        if let Ok(found) = fs::symlink_metadata(&log) {
            check_access(&log, &found)?;
        }
    }
    Ok(FileId { inode: (found.dev(), found.ino()) })
}

#[cfg(not(unix))]
pub fn check(path: &Path) -> Result<FileId, Error> {
    Ok(FileId { path: path.to_owned() })
}

/// Names whatever file has this path now, if there is one.
pub fn id_of(path: &Path) -> Option<FileId> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(path).ok()?;
        Some(FileId { inode: (found.dev(), found.ino()) })
    }
    #[cfg(not(unix))]
    path.exists().then(|| FileId { path: path.to_owned() })
}

#[cfg(unix)]
fn check_access(path: &Path, found: &fs::Metadata) -> Result<(), Error> {
    use std::os::unix::fs::MetadataExt;

    let reason = if found.uid() != effective_user() {
        "owned by another user"
    } else if found.mode() & 0o002 != 0 {
        "writable by anyone"
    } else if found.file_type().is_symlink() {
        "a symbolic link"
    } else {
        return Ok(());
    };
    Err(Error::Untrusted { path: path.to_owned(), reason })
}

#[cfg(unix)]
#[allow(unsafe_code)]
fn effective_user() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// The path with something added to its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Unpredictable enough for a file name that must not collide.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn creates_private_file_and_keeps_an_existing_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.db");
        create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn follows_links_to_files_that_do_not_exist_yet() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        symlink("real.db", base.join("second")).unwrap();
        symlink(base.join("second"), base.join("first")).unwrap();
        assert_eq!(resolve(&base.join("first")).unwrap(), base.join("real.db"));
        symlink("loop", base.join("loop")).unwrap();
        assert!(resolve(&base.join("loop")).is_err());
        assert!(resolve(&base.join("missing/cache.db")).is_err());
    }

    #[test]
    fn refuses_files_that_anyone_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.db");
        create(&path).unwrap();
        assert!(check(&path).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(check(&path), Err(Error::Untrusted { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(folder.path().join("cache.db-wal"), "x").unwrap();
        fs::set_permissions(folder.path().join("cache.db-wal"), fs::Permissions::from_mode(0o602)).unwrap();
        assert!(matches!(check(&path), Err(Error::Untrusted { .. })));
        assert!(matches!(check(folder.path()), Err(Error::Io { .. })));
    }
}
