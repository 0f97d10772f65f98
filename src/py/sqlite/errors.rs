//! Exceptions of SQLite: the standard library's own classes.

use std::ffi::c_int;

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::sqlite::{Entered, Failure, raw};

/// The classes of the standard library's `sqlite3`.
pub struct Classes {
    pub warning: Py<PyType>,
    pub interface: Py<PyType>,
    pub database: Py<PyType>,
    pub data: Py<PyType>,
    pub operational: Py<PyType>,
    pub integrity: Py<PyType>,
    pub internal: Py<PyType>,
    pub programming: Py<PyType>,
}

pub fn classes(py: Python<'_>) -> &Classes {
    static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();
    let made = CLASSES.get_or_try_init(py, || {
        let module = py.import("_sqlite3")?;
        let class = |name: &str| -> PyResult<Py<PyType>> { Ok(module.getattr(name)?.cast_into::<PyType>()?.unbind()) };
        PyResult::Ok(Classes {
            warning: class("Warning")?,
            interface: class("InterfaceError")?,
            database: class("DatabaseError")?,
            data: class("DataError")?,
            operational: class("OperationalError")?,
            integrity: class("IntegrityError")?,
            internal: class("InternalError")?,
            programming: class("ProgrammingError")?,
        })
    });
    made.expect("the package imported _sqlite3 before")
}

fn make(py: Python<'_>, class: &Py<PyType>, message: impl Into<String>) -> PyErr {
    PyErr::from_type(class.bind(py).clone(), message.into())
}

#[cold]
pub fn programming(py: Python<'_>, message: impl Into<String>) -> PyErr {
    make(py, &classes(py).programming, message)
}

#[cold]
pub fn interface(py: Python<'_>, message: impl Into<String>) -> PyErr {
    make(py, &classes(py).interface, message)
}

#[cold]
pub fn operational(py: Python<'_>, message: impl Into<String>) -> PyErr {
    make(py, &classes(py).operational, message)
}

#[cold]
pub fn data(py: Python<'_>, message: impl Into<String>) -> PyErr {
    make(py, &classes(py).data, message)
}

#[cold]
pub fn warning(py: Python<'_>, message: impl Into<String>) -> PyErr {
    make(py, &classes(py).warning, message)
}

/// The exception for what the last call on the connection returned.
#[cold]
pub fn of_code(py: Python<'_>, entered: &Entered<'_>, code: c_int) -> PyErr {
    of_failure(py, &entered.failure(code))
}

/// SQLite would say "database is locked", which is not what happened, and nothing is gained by trying again.
const STALE: &str = "this transaction cannot write: it has read, and another one has committed since; roll back, and begin \
                     transactions that read before they write with BEGIN IMMEDIATE";

/// The exception for a refusal of SQLite, with its code and the code's name as attributes.
#[cold]
pub fn of_failure(py: Python<'_>, failure: &Failure) -> PyErr {
    let classes = classes(py);
    let class = match failure.primary() {
        raw::SQLITE_NOMEM => return PyMemoryError::new_err(()),
        raw::SQLITE_INTERNAL | raw::SQLITE_NOTFOUND => &classes.internal,
        raw::SQLITE_ERROR
        | raw::SQLITE_PERM
        | raw::SQLITE_ABORT
        | raw::SQLITE_BUSY
        | raw::SQLITE_LOCKED
        | raw::SQLITE_READONLY
        | raw::SQLITE_INTERRUPT
        | raw::SQLITE_IOERR
        | raw::SQLITE_FULL
        | raw::SQLITE_CANTOPEN
        | raw::SQLITE_PROTOCOL
        | raw::SQLITE_EMPTY
        | raw::SQLITE_SCHEMA => &classes.operational,
        raw::SQLITE_CORRUPT => &classes.database,
        raw::SQLITE_TOOBIG => &classes.data,
        raw::SQLITE_CONSTRAINT | raw::SQLITE_MISMATCH => &classes.integrity,
        #[cfg(Py_3_11)]
        raw::SQLITE_MISUSE | raw::SQLITE_RANGE => &classes.interface,
        #[cfg(not(Py_3_11))]
        raw::SQLITE_MISUSE => &classes.programming,
        _ => &classes.database,
    };
    let message = match failure.code {
        raw::SQLITE_BUSY_SNAPSHOT => STALE.to_owned(),
        _ => failure.message.clone(),
    };
    with_code(py, make(py, class, message), failure.code)
}

/// Sets `sqlite_errorcode` and `sqlite_errorname`.
pub fn with_code(py: Python<'_>, error: PyErr, code: c_int) -> PyErr {
    let value = error.value(py);
    let set = value
        .setattr("sqlite_errorcode", code)
        .and_then(|()| value.setattr("sqlite_errorname", name_of(code).unwrap_or("unknown")));
    match set {
        Ok(()) => error,
        Err(failure) => failure,
    }
}

fn name_of(code: c_int) -> Option<&'static str> {
    NAMES.iter().find(|&&(_, known)| known == code).map(|&(name, _)| name)
}

macro_rules! names {
    ($($name:ident)*) => { &[$((stringify!($name), raw::$name)),*] };
}

/// Result codes by name.
const NAMES: &[(&str, c_int)] = names! {
    SQLITE_ABORT SQLITE_AUTH SQLITE_BUSY SQLITE_CANTOPEN SQLITE_CONSTRAINT SQLITE_CORRUPT SQLITE_DONE SQLITE_EMPTY
    SQLITE_ERROR SQLITE_FORMAT SQLITE_FULL SQLITE_INTERNAL SQLITE_INTERRUPT SQLITE_IOERR SQLITE_LOCKED SQLITE_MISMATCH
    SQLITE_MISUSE SQLITE_NOLFS SQLITE_NOMEM SQLITE_NOTADB SQLITE_NOTFOUND SQLITE_NOTICE SQLITE_OK SQLITE_PERM
    SQLITE_PROTOCOL SQLITE_RANGE SQLITE_READONLY SQLITE_ROW SQLITE_SCHEMA SQLITE_TOOBIG SQLITE_WARNING
    SQLITE_ABORT_ROLLBACK SQLITE_AUTH_USER SQLITE_BUSY_RECOVERY SQLITE_BUSY_SNAPSHOT SQLITE_BUSY_TIMEOUT
    SQLITE_CANTOPEN_CONVPATH SQLITE_CANTOPEN_DIRTYWAL SQLITE_CANTOPEN_FULLPATH SQLITE_CANTOPEN_ISDIR
    SQLITE_CANTOPEN_NOTEMPDIR SQLITE_CANTOPEN_SYMLINK SQLITE_CONSTRAINT_CHECK SQLITE_CONSTRAINT_COMMITHOOK
    SQLITE_CONSTRAINT_FOREIGNKEY SQLITE_CONSTRAINT_FUNCTION SQLITE_CONSTRAINT_NOTNULL SQLITE_CONSTRAINT_PINNED
    SQLITE_CONSTRAINT_PRIMARYKEY SQLITE_CONSTRAINT_ROWID SQLITE_CONSTRAINT_TRIGGER SQLITE_CONSTRAINT_UNIQUE
    SQLITE_CONSTRAINT_VTAB SQLITE_CORRUPT_INDEX SQLITE_CORRUPT_SEQUENCE SQLITE_CORRUPT_VTAB
    SQLITE_ERROR_MISSING_COLLSEQ SQLITE_ERROR_RETRY SQLITE_ERROR_SNAPSHOT SQLITE_IOERR_ACCESS SQLITE_IOERR_AUTH
    SQLITE_IOERR_BEGIN_ATOMIC SQLITE_IOERR_BLOCKED SQLITE_IOERR_CHECKRESERVEDLOCK SQLITE_IOERR_CLOSE
    SQLITE_IOERR_COMMIT_ATOMIC SQLITE_IOERR_CONVPATH SQLITE_IOERR_CORRUPTFS SQLITE_IOERR_DATA SQLITE_IOERR_DELETE
    SQLITE_IOERR_DELETE_NOENT SQLITE_IOERR_DIR_CLOSE SQLITE_IOERR_DIR_FSYNC SQLITE_IOERR_FSTAT SQLITE_IOERR_FSYNC
    SQLITE_IOERR_GETTEMPPATH SQLITE_IOERR_LOCK SQLITE_IOERR_MMAP SQLITE_IOERR_NOMEM SQLITE_IOERR_RDLOCK
    SQLITE_IOERR_READ SQLITE_IOERR_ROLLBACK_ATOMIC SQLITE_IOERR_SEEK SQLITE_IOERR_SHMLOCK SQLITE_IOERR_SHMMAP
    SQLITE_IOERR_SHMOPEN SQLITE_IOERR_SHMSIZE SQLITE_IOERR_SHORT_READ SQLITE_IOERR_TRUNCATE SQLITE_IOERR_UNLOCK
    SQLITE_IOERR_VNODE SQLITE_IOERR_WRITE SQLITE_LOCKED_SHAREDCACHE SQLITE_LOCKED_VTAB SQLITE_NOTICE_RECOVER_ROLLBACK
    SQLITE_NOTICE_RECOVER_WAL SQLITE_OK_LOAD_PERMANENTLY SQLITE_READONLY_CANTINIT SQLITE_READONLY_CANTLOCK
    SQLITE_READONLY_DBMOVED SQLITE_READONLY_DIRECTORY SQLITE_READONLY_RECOVERY SQLITE_READONLY_ROLLBACK
    SQLITE_WARNING_AUTOINDEX
};
