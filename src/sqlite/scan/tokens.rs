//! The words of a statement, by SQLite's rules.

use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a bare name.
    Word,
    /// `"name"`, `[name]` or a name in backquotes.
    Quoted,
    /// `'text'`, which SQLite takes for a name where only a name can be.
    Text,
    /// A number, blob, parameter or operator.
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub at: Range<usize>,
    /// Parentheses around it.
    pub depth: usize,
}

impl Token {
    pub fn is(&self, sql: &str, word: &str) -> bool {
        self.kind == Kind::Word && sql[self.at.clone()].eq_ignore_ascii_case(word)
    }

    pub fn is_sign(&self, sql: &str, sign: &str) -> bool {
        self.kind == Kind::Other && &sql[self.at.clone()] == sign
    }

    /// The name it stands for, if it can be one.
    pub fn name(&self, sql: &str) -> Option<String> {
        let text = &sql[self.at.clone()];
        match self.kind {
            Kind::Word => Some(text.to_owned()),
            Kind::Quoted => {
                let inner = &text[1..text.len() - 1];
                Some(match &text[..1] {
                    "\"" => inner.replace("\"\"", "\""),
                    "`" => inner.replace("``", "`"),
                    _ => inner.to_owned(),
                })
            }
            Kind::Text | Kind::Other => None,
        }
    }
}

/// All tokens; comments and blanks are left out. `None` where something is not closed.
pub(super) fn tokens(sql: &str) -> Option<Vec<Token>> {
    let bytes = sql.as_bytes();
    let mut tokens = Vec::new();
    let (mut at, mut depth) = (0, 0_usize);
    while at < bytes.len() {
        let start = at;
        let rest = &bytes[at..];
        let kind = match rest[0] {
            b' ' | b'\t' | b'\x0c' | b'\n' | b'\r' => {
                at += 1;
                continue;
            }
            b'-' if rest.starts_with(b"--") => {
                at += rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
                continue;
            }
            b'/' if rest.starts_with(b"/*") => {
                at += rest.windows(2).skip(2).position(|pair| pair == b"*/").map_or(rest.len(), |end| end + 4);
                continue;
            }
            quote @ (b'\'' | b'"' | b'`') => {
                at += quoted(rest, quote)?;
                if quote == b'\'' { Kind::Text } else { Kind::Quoted }
            }
            b'[' => {
                at += rest.iter().position(|&byte| byte == b']')? + 1;
                Kind::Quoted
            }
            b'x' | b'X' if rest.get(1) == Some(&b'\'') => {
                at += 1 + quoted(&rest[1..], b'\'')?;
                Kind::Other
            }
            byte if is_word(byte) => {
                at += rest.iter().position(|&byte| !is_word(byte)).unwrap_or(rest.len());
                if byte.is_ascii_digit() { Kind::Other } else { Kind::Word }
            }
            b'?' | b':' | b'@' | b'#' => {
                at += 1 + rest[1..].iter().position(|&byte| !is_word(byte)).unwrap_or(rest.len() - 1);
                Kind::Other
            }
            byte => {
                at += 1;
                match byte {
                    b'(' => depth += 1,
                    b')' => depth = depth.checked_sub(1)?,
                    _ => {}
                }
                Kind::Other
            }
        };
        // Both parentheses stand outside of what they enclose.
        let inside = depth - usize::from(rest[0] == b'(');
        tokens.push(Token { kind, at: start..at, depth: inside });
    }
    (depth == 0).then_some(tokens)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Length of a quoted piece with its quotes; a doubled quote does not end it.
fn quoted(text: &[u8], quote: u8) -> Option<usize> {
    let mut at = 1;
    loop {
        at += text[at..].iter().position(|&byte| byte == quote)? + 1;
        if text.get(at) != Some(&quote) {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Option<Vec<(&str, usize)>> {
        Some(tokens(sql)?.into_iter().map(|token| (&sql[token.at], token.depth)).collect())
    }

    #[test]
    fn splits_as_sqlite_does() {
        assert_eq!(
            texts("SELECT a, /* x ' */ 'it''s' -- \"\nFROM \"t \"\"1\"(f(x'00'),?1,:na) ;").unwrap(),
            [
                ("SELECT", 0),
                ("a", 0),
                (",", 0),
                ("'it''s'", 0),
                ("FROM", 0),
                ("\"t \"\"1\"", 0),
                ("(", 0),
                ("f", 1),
                ("(", 1),
                ("x'00'", 2),
                (")", 1),
                (",", 1),
                ("?1", 1),
                (",", 1),
                (":na", 1),
                (")", 0),
                (";", 0),
            ]
        );
        assert_eq!(texts("a [b c] `d``e` größe 1.5e3").unwrap().len(), 7);
        for open in ["'a", "\"a", "[a", "(a", "a)"] {
            assert!(tokens(open).is_none(), "{open}");
        }
        assert!(texts("/* open").unwrap().is_empty());
        assert_eq!(tokens("\"a\"\"b\"").unwrap()[0].name("\"a\"\"b\"").unwrap(), "a\"b");
    }
}
