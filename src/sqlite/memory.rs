//! Databases in memory that the connections of a process share: those of SQLite's file system `memdb`, under a name.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::path::Path;

use rusqlite::ffi;

/// Where the main database of a connection is.
pub enum Home {
    /// In a file, or in a temporary one, or in memory that nobody else can reach.
    Usual,
    /// In memory, under a name that others can open unless it is `None`.
    Memory(Option<Box<str>>),
}

impl Home {
    /// # Safety
    /// The connection is open and nobody else uses it. It was opened as `given`; `found` is what SQLite calls the file.
    pub unsafe fn of(raw: *mut ffi::sqlite3, given: &Path, found: &Path) -> Self {
        // SAFETY: the caller's promise.
        if !unsafe { is_memdb(raw) } {
            return Self::Usual;
        }
        // Newer versions of SQLite do not tell the name.
        let name = match found.to_str() {
            Some("") | None => given.to_str().and_then(path_of_uri),
            Some(name) => Some(name.to_owned()),
        };
        // Others begin a database of their own.
        Self::Memory(name.filter(|name| name.starts_with('/')).map(String::into_boxed_str))
    }
}

/// # Safety
/// The connection is open and nobody else uses it.
unsafe fn is_memdb(raw: *mut ffi::sqlite3) -> bool {
    let mut vfs: *mut ffi::sqlite3_vfs = std::ptr::null_mut();
    let place = (&raw mut vfs).cast::<c_void>();
    // SAFETY: the call stores a pointer to the file system of the database, which lives as long as the process, with a
    // terminated name.
    unsafe {
        let code = ffi::sqlite3_file_control(raw, c"main".as_ptr(), ffi::SQLITE_FCNTL_VFS_POINTER, place);
        code == ffi::SQLITE_OK && !vfs.is_null() && CStr::from_ptr((*vfs).zName) == c"memdb"
    }
}

/// The path that SQLite reads from a URI: without scheme, authority, parameters and fragment, unescaped.
pub(super) fn path_of_uri(uri: &str) -> Option<String> {
    let rest = uri.strip_prefix("file:")?;
    let rest = rest.split(['?', '#']).next()?;
    let path = match rest.strip_prefix("//") {
        Some(rest) => &rest[rest.find('/').unwrap_or(rest.len())..],
        None => rest,
    };
    let mut bytes = path.bytes();
    let mut found = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digits = [ahead.next(), ahead.next()].map(|digit| (digit? as char).to_digit(16));
        match (byte, digits) {
            (b'%', [Some(high), Some(low)]) => {
                found.push((high * 16 + low) as u8);
                bytes = ahead;
            }
            _ => found.push(byte),
        }
    }
    String::from_utf8(found).ok()
}

#[cfg(test)]
mod tests {
    use super::super::{Db, Open};
    use super::*;

    #[test]
    fn a_shared_database_has_one_name_however_it_is_written() {
        let open = |uri: &str| Db::open(Path::new(uri), &Open { uri: true, ..Open::default() }).unwrap();
        for uri in [
            "file:/upshift memory?vfs=memdb",
            "file:///upshift%20memory?vfs=memdb&cache=private",
            "file://localhost/upshift%20mem%6fry?vfs=memdb#mark",
        ] {
            let db = open(uri);
            assert_eq!(db.memory(), Some("/upshift memory"), "{uri}");
            assert!(!db.has_file());
            let again = open("file:/upshift memory?vfs=memdb");
            assert!(std::sync::Arc::ptr_eq(db.enter().lane().unwrap(), again.enter().lane().unwrap()));
        }
        for uri in ["file:upshift?vfs=memdb", ":memory:", "", "file::memory:"] {
            let db = open(uri);
            assert!(db.memory().is_none() && !db.has_file() && db.enter().lane().is_none(), "{uri}");
        }
    }

    #[test]
    fn an_escape_that_is_none_stays_as_it_is() {
        assert_eq!(path_of_uri("file:/a%2Fb%zz%4").as_deref(), Some("/a/b%zz%4"));
        assert_eq!(path_of_uri("/a"), None);
        assert_eq!(path_of_uri("file://nowhere").as_deref(), Some(""));
    }
}
