//! Is the SQLite library that the engine uses the very one that someone else in the process uses?
//!
//! Two copies in one process defeat POSIX locks on a shared file. An in-memory database of the `memdb` file system is seen
//! under its name by every connection of one copy, and by none of another.

use rusqlite::{Connection, OpenFlags};

/// A named in-memory database with one table, `mark`; it lives as long as this.
pub struct SharedMark {
    uri: String,
    _connection: Connection,
}

impl SharedMark {
    /// Makes the database under a name nobody else uses.
    pub fn new() -> Result<Self, super::Error> {
        let name = crate::support::random::unit().to_bits() ^ u64::from(std::process::id());
        let uri = format!("file:/upshift-{name:x}?vfs=memdb");
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
        super::get_ready();
        let connection = Connection::open_with_flags(&uri, flags)?;
        connection.execute_batch("CREATE TABLE mark (x)")?;
        Ok(Self { uri, _connection: connection })
    }

    /// What the other side has to open; it shares the library if it finds the table.
    pub fn uri(&self) -> &str {
        &self.uri
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_connection_of_the_library_sees_it() {
        let mark = SharedMark::new().unwrap();
        let other =
            Connection::open_with_flags(mark.uri(), OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI)
                .unwrap();
        let count: i64 = other.query_row("SELECT count(*) FROM mark", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0);
    }
}
