//! An SQLite file system on top of the default one that remembers what has been synced.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

/// Content of each file as of its last sync.
static SYNCED: Mutex<BTreeMap<PathBuf, Vec<u8>>> = Mutex::new(BTreeMap::new());

/// SQLite's own file system.
static INNER: OnceLock<Pointer> = OnceLock::new();

struct Pointer(*mut sqlite3_vfs);
// SAFETY: a file system object is made to be used by all threads.
unsafe impl Send for Pointer {}
// SAFETY: the same.
unsafe impl Sync for Pointer {}

/// Ours, with SQLite's file object right behind it.
#[repr(C)]
struct File {
    base: sqlite3_file,
    /// Made by `Box::into_raw`; null for temporary files.
    path: *mut PathBuf,
}

/// Puts the database, and its log, where `to` says, as they were last synced.
pub fn restore(from: &Path, to: &Path) {
    let synced = SYNCED.lock().unwrap();
    let mut private = fs::OpenOptions::new();
    private.write(true).create_new(true).mode(0o600);
    for suffix in ["", "-wal"] {
        let name = |path: &Path| PathBuf::from([path.as_os_str(), OsStr::new(suffix)].concat_os());
        let content = synced.get(&name(from)).cloned();
        // The engine creates the file, and syncs its folder, before SQLite opens it.
        if let Some(content) = content.or_else(|| suffix.is_empty().then(Vec::new)) {
            std::io::Write::write_all(&mut private.open(name(to)).unwrap(), &content).unwrap();
        }
    }
}

trait ConcatOs {
    fn concat_os(self) -> std::ffi::OsString;
}

impl ConcatOs for [&OsStr; 2] {
    fn concat_os(self) -> std::ffi::OsString {
        self.iter().copied().collect()
    }
}

/// Makes the shim the default of this process.
pub fn install() {
    // SAFETY: the default VFS lives as long as the process, and so does its copy, which is never freed. A copy whose open
    // and delete are replaced and whose file objects are larger is a valid VFS: the other methods do not look at files.
    unsafe {
        let inner = ffi::sqlite3_vfs_find(std::ptr::null());
        assert!(!inner.is_null());
        INNER.get_or_init(|| Pointer(inner));
        let mut shim = *inner;
        shim.szOsFile += size_of::<File>() as c_int;
        shim.zName = c"synced".as_ptr();
        shim.pNext = std::ptr::null_mut();
        shim.xOpen = Some(open);
        shim.xDelete = Some(delete);
        assert_eq!(ffi::sqlite3_vfs_register(Box::into_raw(Box::new(shim)), 1), ffi::SQLITE_OK);
    }
}

fn inner_vfs() -> *mut sqlite3_vfs {
    INNER.get().unwrap().0
}

unsafe fn inner(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: SQLite allocated as much as `szOsFile` says, and our part of it ends where the inner object begins.
    unsafe { file.cast::<File>().add(1).cast() }
}

unsafe fn path_of(name: *const c_char) -> PathBuf {
    // SAFETY: SQLite passes names as C strings.
    PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are those of SQLite; the inner file object is set up by the inner file system.
    unsafe {
        let result = (*inner_vfs()).xOpen.unwrap()(inner_vfs(), name, inner(file), flags, out);
        let ours = file.cast::<File>();
        (*ours).base.pMethods = if (*inner(file)).pMethods.is_null() { std::ptr::null() } else { &METHODS };
        (*ours).path = match name.is_null() {
            true => std::ptr::null_mut(),
            false => Box::into_raw(Box::new(path_of(name))),
        };
        result
    }
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: the arguments are those of SQLite.
    unsafe {
        SYNCED.lock().unwrap().remove(&path_of(name));
        (*inner_vfs()).xDelete.unwrap()(inner_vfs(), name, sync)
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once; the path was made by `open`.
    unsafe {
        let ours = file.cast::<File>();
        if !(*ours).path.is_null() {
            drop(Box::from_raw((*ours).path));
        }
        (*(*inner(file)).pMethods).xClose.unwrap()(inner(file))
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: the file is open.
    unsafe {
        let inner = inner(file);
        let methods = &*(*inner).pMethods;
        let result = methods.xSync.unwrap()(inner, flags);
        let path = (*file.cast::<File>()).path;
        if result == ffi::SQLITE_OK && !path.is_null() {
            let mut size: sqlite3_int64 = 0;
            assert_eq!(methods.xFileSize.unwrap()(inner, &mut size), ffi::SQLITE_OK);
            let mut content = vec![0_u8; size as usize];
            let buffer = content.as_mut_ptr().cast::<c_void>();
            assert_eq!(methods.xRead.unwrap()(inner, buffer, size as c_int, 0), ffi::SQLITE_OK);
            SYNCED.lock().unwrap().insert((*path).clone(), content);
        }
        result
    }
}

/// Methods that only pass on.
macro_rules! forward {
    ($($name:ident: $method:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => { $(
        unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $arg: $type)*) $(-> $result)? {
            // SAFETY: the arguments are those of SQLite, the file is open.
            unsafe { (*(*inner(file)).pMethods).$method.unwrap()(inner(file) $(, $arg)*) }
        }
    )* };
}

forward! {
    read: xRead(buffer: *mut c_void, size: c_int, at: sqlite3_int64) -> c_int;
    write: xWrite(buffer: *const c_void, size: c_int, at: sqlite3_int64) -> c_int;
    truncate: xTruncate(size: sqlite3_int64) -> c_int;
    file_size: xFileSize(size: *mut sqlite3_int64) -> c_int;
    lock: xLock(level: c_int) -> c_int;
    unlock: xUnlock(level: c_int) -> c_int;
    check_reserved_lock: xCheckReservedLock(out: *mut c_int) -> c_int;
    file_control: xFileControl(operation: c_int, argument: *mut c_void) -> c_int;
    sector_size: xSectorSize() -> c_int;
    characteristics: xDeviceCharacteristics() -> c_int;
    shm_map: xShmMap(page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int;
    shm_lock: xShmLock(from: c_int, count: c_int, flags: c_int) -> c_int;
    shm_barrier: xShmBarrier();
    shm_unmap: xShmUnmap(delete: c_int) -> c_int;
    fetch: xFetch(at: sqlite3_int64, size: c_int, out: *mut *mut c_void) -> c_int;
    unfetch: xUnfetch(at: sqlite3_int64, page: *mut c_void) -> c_int;
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
};
