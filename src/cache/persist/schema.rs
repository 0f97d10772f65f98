//! The tables, and how older files are brought up to date.

use rusqlite::{OptionalExtension, Transaction};

use crate::store::Migration;

/// Version 1 is the first of upshift; version 0 is an empty file or one of the system that upshift replaces.
pub(super) const MIGRATIONS: &[Migration] = &[first];

/// `result_cache` and `cache_tags` belong to the user as well, who may read them with any tool. What only the engine
/// needs stands in tables of its own.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS result_cache (
    cache_key TEXT PRIMARY KEY,
    cache_value BLOB NOT NULL,
    ttl_seconds INTEGER,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    expires_at TIMESTAMP,
    access_count INTEGER DEFAULT 0,
    last_accessed TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    size_bytes INTEGER
);
CREATE INDEX IF NOT EXISTS idx_cache_expires ON result_cache(expires_at);
CREATE TABLE IF NOT EXISTS cache_tags (
    cache_key TEXT NOT NULL,
    tag TEXT NOT NULL,
    PRIMARY KEY (cache_key, tag),
    FOREIGN KEY (cache_key) REFERENCES result_cache(cache_key) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS idx_cache_tags ON cache_tags(tag);
-- Which function a row is a result of.
CREATE TABLE upshift_functions (
    cache_key TEXT PRIMARY KEY REFERENCES result_cache(cache_key) ON DELETE CASCADE,
    function TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX upshift_functions_function ON upshift_functions(function);
-- What other processes must drop from memory. Numbers are never used twice, so that a reader sees when it missed some.
CREATE TABLE upshift_changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    origin INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    subject TEXT NOT NULL
);
-- Who computes a value right now, so that other processes wait for it.
CREATE TABLE upshift_leases (
    lease_key TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL,
    token INTEGER NOT NULL,
    deadline INTEGER NOT NULL
) WITHOUT ROWID;
";

fn first(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let old = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'result_cache'";
    let old = transaction.query_row(old, [], |_| Ok(())).optional()?.is_some();
    transaction.execute_batch(TABLES)?;
    if old {
        transaction.execute_batch(LOCAL_TO_UTC)?;
        transaction.execute_batch(DROP_ORPHANS)?;
    }
    Ok(())
}

/// The old system wrote `expires_at` in local time. `'utc'` reads a text as local time of this machine; the fraction is
/// carried over as text because date functions keep milliseconds only. A row without a readable time is dropped, as it
/// can never expire.
const LOCAL_TO_UTC: &str = "
DELETE FROM result_cache WHERE expires_at IS NOT NULL
    AND (typeof(expires_at) <> 'text' OR strftime('%s', substr(expires_at, 1, 19), 'utc') IS NULL);
UPDATE result_cache SET expires_at = strftime('%Y-%m-%d %H:%M:%S', substr(expires_at, 1, 19), 'utc') || '.'
    || substr(CASE substr(expires_at, 20, 1) WHEN '.' THEN substr(expires_at, 21, 6) ELSE '' END || '000000', 1, 6)
    WHERE expires_at IS NOT NULL;
";

/// It never enabled foreign keys, so tags outlived their rows.
const DROP_ORPHANS: &str = "DELETE FROM cache_tags WHERE cache_key NOT IN (SELECT cache_key FROM result_cache);";
