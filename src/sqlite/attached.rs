//! Lanes of files that a connection has attached. Its writes do not take them, but errors tell who has them.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rusqlite::ffi;

use super::handle::Entered;
use super::lane::{self, Claim, Key, Lane, LaneError};
use super::text;
use crate::store;

/// The attached files of one connection.
#[derive(Default)]
pub struct Attached {
    is_any: AtomicBool,
    files: Mutex<Vec<(CString, Arc<Lane>)>>,
}

impl Attached {
    #[inline(always)]
    pub fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Relaxed)
    }

    /// Why a claim cannot be met, if another connection of this process holds one of the lanes.
    pub fn obstacle(&self, claim: &Claim<'_>) -> Option<LaneError> {
        let files = self.files.lock();
        let held = files.iter().find_map(|(_, lane)| {
            let holder = lane.holder().filter(|holder| holder.connection != claim.connection)?;
            Some((lane, holder))
        });
        let (lane, holder) = held?;
        Some(match lane.check(claim, claim.actor.task == 0) {
            Err(error) => error,
            Ok(()) => LaneError::Timeout(Some(Box::new(holder))),
        })
    }
}

impl Entered<'_> {
    /// To be called when a statement has ended that was an ATTACH or DETACH.
    pub fn note_attached(&self, sql: &str) {
        let attached = self.db().seat().attached();
        let mut files = attached.files.lock();
        files.retain(|(name, _)| !file_of(self, name).is_empty());
        if let Some(name) = name_in(sql) {
            let file = file_of(self, &name);
            if let Some(id) = (!file.is_empty()).then(|| store::id_of(Path::new(&file))).flatten() {
                files.retain(|(known, _)| *known != name);
                files.push((name, lane::of(Key::File(id))));
            }
        }
        attached.is_any.store(!files.is_empty(), Ordering::Relaxed);
    }
}

/// The file of the database with that name; empty if there is none.
fn file_of(entered: &Entered<'_>, name: &CStr) -> String {
    // SAFETY: the connection is open; the text lives as long as the database is attached, and is copied.
    unsafe {
        let file = ffi::sqlite3_db_filename(entered.raw(), name.as_ptr());
        if file.is_null() { String::new() } else { CStr::from_ptr(file).to_string_lossy().into_owned() }
    }
}

/// The name that an ATTACH gives: its last word. None if it cannot be told, as where it is a parameter.
fn name_in(sql: &str) -> Option<CString> {
    if !text::begins_with(text::skip_blank(sql.as_bytes()), "attach") {
        return None;
    }
    let sql = sql.trim_end_matches(|c: char| c.is_ascii_whitespace() || c == ';');
    let last = sql.chars().next_back()?;
    let name = match last {
        '"' | '\'' | '`' | ']' => {
            let opening = if last == ']' { '[' } else { last };
            let inner = &sql[..sql.len() - 1];
            &inner[inner.rfind(opening)? + 1..]
        }
        _ => sql.rsplit(|c: char| c.is_ascii_whitespace()).next()?,
    };
    CString::new(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_name_of_an_attached_database() {
        for (sql, name) in [
            ("ATTACH 'm1.db' AS o", Some("o")),
            (" attach database ? as other ; ", Some("other")),
            ("ATTACH 'x' AS \"two words\"", Some("two words")),
            ("ATTACH 'x' AS [it]", Some("it")),
            ("DETACH o", None),
            ("SELECT 1 AS o", None),
            ("ATTACH", Some("ATTACH")),
        ] {
            assert_eq!(name_in(sql).as_deref().map(|name| name.to_str().unwrap()), name, "{sql}");
        }
    }
}
