//! A private copy of SQLite (feature `bundled-sqlite`) beside the interpreter's: made to behave like that, and kept from
//! files that the other copy has open.
//!
//! Two copies in one process do not see each other's locks, and one closing a file drops the locks of the other. So our
//! copy opens files through a function that looks at the descriptors of the process first: one of the same file that our
//! copy has not opened means that somebody else has it open, and the file is refused. What the other copy opens later
//! cannot be prevented; it is noticed with the next connection.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::sync::Once;

use rusqlite::ffi;

/// To be called before each opening.
pub fn get_ready() {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        // SAFETY: both options take one int. If SQLite is at work already it changes nothing.
        unsafe {
            // A name that begins with "file:" is a URI only if so asked.
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_URI, 0 as c_int);
            // Statistics that nobody reads, for the price of a lock around every allocation.
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0 as c_int);
        }
        #[cfg(unix)]
        descriptors::install();
    });
    #[cfg(unix)]
    descriptors::forget_refusal();
}

/// Foreign keys are not enforced unless asked for; the bundled copy is compiled to enforce them.
///
/// # Safety
/// The connection is open and nobody else uses it.
pub unsafe fn set_defaults(connection: *mut ffi::sqlite3) {
    // SAFETY: the caller's promise. The option takes an int and a pointer that may be null.
    unsafe {
        ffi::sqlite3_db_config(connection, ffi::SQLITE_DBCONFIG_ENABLE_FKEY, 0 as c_int, std::ptr::null_mut::<c_int>())
    };
}

#[cfg(unix)]
pub use descriptors::take_refusal;

#[cfg(unix)]
mod descriptors {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::ffi::{CStr, OsStr, c_char, c_int};
    use std::fs::{self, File, Metadata};
    use std::mem::{ManuallyDrop, transmute};
    use std::os::fd::FromRawFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;

    use parking_lot::Mutex;
    use rusqlite::ffi;

    use super::super::fork;

    /// For a test only, which shows what the refusal is good for: with this variable set to 1 nothing is refused.
    const SHARE: &str = "UPSHIFT_TEST_SHARE_FILES";

    /// Files that SQLite names after a database. Who opens them has that open.
    const COMPANIONS: [&[u8]; 3] = [b"-wal", b"-shm", b"-journal"];

    type Open = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
    type Close = unsafe extern "C" fn(c_int) -> c_int;
    type Any = unsafe extern "C" fn();

    struct System {
        open: Open,
        close: Close,
        share: bool,
    }

    static SYSTEM: OnceLock<System> = OnceLock::new();

    /// Descriptors of our copy. Held while one is opened or closed, so that none is taken for somebody else's.
    static OWN: Mutex<BTreeSet<c_int>> = Mutex::new(BTreeSet::new());

    thread_local! {
        static REFUSED: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
    }

    /// Has our copy open and close files through the functions below.
    pub fn install() {
        // SAFETY: the default VFS lives as long as the process. SQLite calls these two by the signatures above, and the
        // functions put in their place are never unloaded.
        unsafe {
            let vfs = ffi::sqlite3_vfs_find(std::ptr::null());
            if vfs.is_null() || (*vfs).iVersion < 3 {
                return;
            }
            let (Some(get), Some(set)) = ((*vfs).xGetSystemCall, (*vfs).xSetSystemCall) else { return };
            let (Some(system_open), Some(system_close)) = (get(vfs, c"open".as_ptr()), get(vfs, c"close".as_ptr()))
            else {
                return;
            };
            let share = std::env::var_os(SHARE).is_some_and(|value| value == "1");
            let (open_file, close_file) = (transmute::<Any, Open>(system_open), transmute::<Any, Close>(system_close));
            if SYSTEM.set(System { open: open_file, close: close_file, share }).is_ok() {
                set(vfs, c"open".as_ptr(), Some(transmute::<Open, Any>(open)));
                set(vfs, c"close".as_ptr(), Some(transmute::<Close, Any>(close)));
            }
        }
    }

    pub fn forget_refusal() {
        REFUSED.with_borrow_mut(Option::take);
    }

    /// The file that was refused to this thread, if one was.
    pub fn take_refusal() -> Option<PathBuf> {
        REFUSED.with_borrow_mut(Option::take)
    }

    unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
        let Some(system) = SYSTEM.get() else { return -1 };
        if fork::is_child() {
            // It inherits descriptors that nobody uses, and maybe a lock that nobody gives back.
            // SAFETY: called by SQLite in place of this function, with the same arguments.
            return unsafe { (system.open)(path, flags, mode) };
        }
        // SAFETY: a path is a terminated text.
        let name = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
        let mut own = OWN.lock();
        if !system.share && is_held_elsewhere(name, &own) {
            REFUSED.set(Some(name.to_owned()));
            // Fails like the file that cannot be opened, which has no name.
            // SAFETY: as below.
            return unsafe { (system.open)(c"".as_ptr(), flags, mode) };
        }
        // SAFETY: called by SQLite in place of this function, with the same arguments.
        let descriptor = unsafe { (system.open)(path, flags, mode) };
        if descriptor >= 0 {
            own.insert(descriptor);
        }
        descriptor
    }

    unsafe extern "C" fn close(descriptor: c_int) -> c_int {
        let Some(system) = SYSTEM.get() else { return -1 };
        let own = (!fork::is_child()).then(|| OWN.lock());
        // SAFETY: called by SQLite in place of this function, with the same argument.
        let closed = unsafe { (system.close)(descriptor) };
        if let Some(mut own) = own {
            own.remove(&descriptor);
        }
        closed
    }

    /// Whether a descriptor of this process that is not of our copy stands for the database file.
    fn is_held_elsewhere(path: &Path, own: &BTreeSet<c_int>) -> bool {
        let name = path.as_os_str().as_bytes();
        if COMPANIONS.iter().any(|suffix| name.ends_with(suffix)) {
            return false;
        }
        let Ok(wanted) = fs::metadata(path) else { return false };
        // Everybody may have the devices open that SQLite reads, such as that of random numbers.
        if !wanted.is_file() {
            return false;
        }
        // Lists the descriptors of this process; looking at one neither opens nor closes it.
        let listed = fs::read_dir("/dev/fd").into_iter().flatten().flatten();
        let others = listed
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|descriptor| !own.contains(descriptor));
        others.filter_map(metadata).any(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    }

    fn metadata(descriptor: c_int) -> Option<Metadata> {
        // SAFETY: only asked, never closed. Should its owner have closed it meanwhile, that is an error.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
        file.metadata().ok()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::path::Path;

    use rusqlite::{Connection, OpenFlags};

    use super::super::{get_ready, refusal};

    fn open(path: &Path) -> rusqlite::Result<Connection> {
        get_ready();
        let connection = Connection::open_with_flags(path, OpenFlags::default())?;
        connection.execute_batch("CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (1)")?;
        Ok(connection)
    }

    #[test]
    fn a_file_that_somebody_else_has_open_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        open(&path).unwrap();
        let elsewhere = fs::File::open(&path).unwrap();
        assert!(open(&path).is_err());
        let message = refusal().unwrap().to_string();
        assert!(message.starts_with(path.canonicalize().unwrap().to_str().unwrap()), "{message}");
        assert!(refusal().is_none());
        // Under any name, and by any way.
        let link = folder.path().join("link.db");
        fs::hard_link(&path, &link).unwrap();
        assert!(open(&link).is_err());
        let other = open(&folder.path().join("b.db")).unwrap();
        assert!(other.execute("ATTACH ?1 AS a", [path.to_str()]).is_err());
        drop(elsewhere);
        open(&path).unwrap();
        other.execute("ATTACH ?1 AS a", [path.to_str()]).unwrap();
        assert!(open(Path::new("/nowhere/at/all.db")).is_err());
        assert!(refusal().is_none());
    }

    #[test]
    fn what_our_own_copy_has_open_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, attached) = (folder.path().join("a.db"), folder.path().join("b.db"));
        let first = open(&path).unwrap();
        first.execute("ATTACH ?1 AS b", [attached.to_str()]).unwrap();
        first.execute_batch("CREATE TABLE b.t (x); BEGIN; INSERT INTO main.t VALUES (1)").unwrap();
        // While locks are held, SQLite keeps the descriptors of closed connections open.
        for _ in 0..3 {
            let second = Connection::open(&path).unwrap();
            second.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
        }
        open(&attached).unwrap();
        drop(first);
        open(&path).unwrap();
    }

    #[test]
    fn connections_opened_and_closed_by_many_threads_are_all_our_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        open(&path).unwrap().query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        get_ready();
                        let connection = Connection::open(&path).unwrap();
                        connection.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn a_name_is_no_uri_unless_so_asked() {
        let folder = tempfile::tempdir().unwrap();
        let uri = format!("file:{}/a.db", folder.path().display());
        get_ready();
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        // No folder is called "file:".
        assert!(Connection::open_with_flags(&uri, flags).is_err());
        flags |= OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(&uri, flags).unwrap();
    }
}
