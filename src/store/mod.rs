//! Opens the SQLite files the engine itself persists to.
//!
//! - [`file`]: creates the file with mode 0600, refuses one that others own or may write, names it by device and inode
//! - [`connection`]: a connection with the engine's pragmas that a forked child leaves alone
//! - [`reader`], [`log_head`], [`lookup`]: many small reads at the price of the lookups alone
//! - [`migrate`]: ordered migrations, counted in `PRAGMA user_version`
//! - [`fork`]: keeps a forked child's connections apart from the inherited ones
//! - [`private`]: with a bundled SQLite, keeps it from files that the interpreter's copy has open
//!
//! Within a process a database file is opened and closed by SQLite only: closing any other descriptor of it would drop
//! every POSIX lock the process holds on it.

mod connection;
mod file;
pub mod fork;
mod library;
mod log_head;
mod lookup;
mod migrate;
#[cfg(feature = "bundled-sqlite")]
pub mod private;
mod reader;

use std::path::{Path, PathBuf};

pub use connection::{Checkpoint, Connection, Synchronous};
pub use file::FileId;
pub use library::SharedMark;
pub use log_head::{LogHead, LogState};
pub use lookup::Line;
pub use migrate::Migration;
pub use reader::{Reader, Snapshot};

/// Why a store could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another user owns the file or may write to it, so its content cannot be trusted.
    #[error("{path}: {reason}")]
    Untrusted { path: PathBuf, reason: &'static str },
    /// The file, or the folder it is in, does not allow writing.
    #[error("{0}: the store is read-only")]
    ReadOnly(PathBuf),
    /// A later version of upshift (or another program) wrote the file.
    #[error("{path}: schema version {found}, this version knows {known}")]
    Newer { path: PathBuf, found: i64, known: i64 },
    /// A bundled SQLite must not open a file that the interpreter's own copy holds open in this process.
    #[error(
        "{0}: already open in this process outside upshift, which was built with an SQLite library of its own; \
         the two would not see each other's locks"
    )]
    HeldElsewhere(PathBuf),
    /// The path cannot be used: missing folder, not a regular file, no permission.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// SQLite refused: corrupt, locked, full, …
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// A database file that passed every check and is up to date.
pub struct Opened {
    /// Resolved path; symbolic links followed.
    pub path: PathBuf,
    pub id: FileId,
    /// The write-ahead log, if there is one.
    pub log: Option<FileId>,
    pub writer: Connection,
    pub reader: Reader,
}

/// Resolves `path` and creates the file if it is missing (empty, mode 0600 whatever the umask, durable in its folder).
///
/// Fails if the file is not trusted or cannot be created. The file stays closed.
pub fn prepare(path: &Path) -> Result<(PathBuf, FileId), Error> {
    let path = file::resolve(path)?;
    file::create(&path)?;
    let id = file::check(&path)?;
    Ok((path, id))
}

/// To be called before a connection is opened.
pub fn get_ready() {
    fork::separate_from_parent();
    #[cfg(feature = "bundled-sqlite")]
    private::get_ready();
}

/// Why this thread could not open a file since [`get_ready`], if it was because another SQLite library in this process
/// has it open. Can only happen with a bundled library. Said once.
pub fn refusal() -> Option<Error> {
    #[cfg(all(unix, feature = "bundled-sqlite"))]
    return private::take_refusal().map(Error::HeldElsewhere);
    #[cfg(not(all(unix, feature = "bundled-sqlite")))]
    None
}

fn connect(path: &Path) -> Result<Connection, Error> {
    get_ready();
    Connection::open(path).map_err(|error| refusal().unwrap_or(error))
}

/// Whether the write-ahead log under the name of this file is another one than that of the opening: someone deleted the
/// file, and has opened a new one by now.
pub fn is_log_replaced(path: &Path, log: Option<&FileId>) -> bool {
    file::id_of(&file::beside(path, "-wal")).is_some_and(|found| Some(&found) != log)
}

/// Names whatever file has this path now, if there is one.
pub fn id_of(path: &Path) -> Option<FileId> {
    file::id_of(path)
}

/// Opens a writing and a reading connection on a path from [`prepare`], in WAL mode, and brings the schema up to date.
///
/// Blocks while another process migrates the file or holds it locked, up to the busy timeout of the connections.
pub fn open(path: &Path, id: FileId, migrations: &[Migration]) -> Result<Opened, Error> {
    let mut writer = connect(path)?;
    if writer.is_readonly("main")? {
        return Err(Error::ReadOnly(path.to_owned()));
    }
    writer.start_wal()?;
    migrate::run(&mut writer, path, migrations)?;
    let reader = Reader::new(connect(path)?)?;
    // The file that was checked is the one that was opened, not one put in its place meanwhile.
    if file::check(path)? != id {
        return Err(Error::Untrusted { path: path.to_owned(), reason: "replaced while it was being opened" });
    }
    let log = file::id_of(&file::beside(path, "-wal"));
    Ok(Opened { path: path.to_owned(), id, log, writer, reader })
}
