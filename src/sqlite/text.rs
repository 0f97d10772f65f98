//! What the text of a statement tells about it, without parsing it.

/// The text without leading white space and comments.
pub fn skip_blank(mut sql: &[u8]) -> &[u8] {
    loop {
        match sql {
            [b' ' | b'\t' | b'\x0c' | b'\n' | b'\r', rest @ ..] => sql = rest,
            [b'-', b'-', rest @ ..] => match rest.iter().position(|&byte| byte == b'\n') {
                Some(end) => sql = &rest[end + 1..],
                None => return &[],
            },
            [b'/', b'*', rest @ ..] => match rest.windows(2).position(|pair| pair == b"*/") {
                Some(end) => sql = &rest[end + 2..],
                None => return &[],
            },
            _ => return sql,
        }
    }
}

/// Whether the text (without leading blanks) begins with this keyword, given in lower case.
pub fn begins_with(sql: &[u8], keyword: &str) -> bool {
    sql.get(..keyword.len()).is_some_and(|head| head.eq_ignore_ascii_case(keyword.as_bytes()))
}

/// Whether it is an INSERT, UPDATE, DELETE or REPLACE: what begins a transaction implicitly.
pub fn is_dml(sql: &[u8]) -> bool {
    ["insert", "update", "delete", "replace"].iter().any(|keyword| begins_with(sql, keyword))
}

/// Whether it may be a query: nothing else that SQLite calls read-only (ATTACH, BEGIN, most PRAGMAs) begins so.
pub fn is_query(sql: &[u8]) -> bool {
    ["select", "with", "values"].iter().any(|keyword| begins_with(sql, keyword))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_comments_and_white_space() {
        for (text, left) in [
            ("select 1", "select 1"),
            (" \t\n/* a */ -- b\n/**/select 1", "select 1"),
            ("-- only this", ""),
            ("/* open", ""),
            ("/ *", "/ *"),
            (";", ";"),
        ] {
            assert_eq!(skip_blank(text.as_bytes()), left.as_bytes(), "{text}");
        }
    }

    #[test]
    fn knows_what_changes_rows() {
        for (text, dml) in
            [("INSERT INTO t", true), ("replace", true), ("WITH x AS", false), ("in", false), ("", false)]
        {
            assert_eq!(is_dml(text.as_bytes()), dml, "{text}");
        }
    }
}
