//! What a column holds, by its values and by its declared type.

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only NULLs, or nothing, and no declared type.
    Null,
    Int64,
    Float64,
    /// UTF-8, unless the database holds something else.
    Text,
    Blob,
    /// Values of several types.
    Mixed,
}

impl Kind {
    /// In the words of an error.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Null => "NULLs",
            Self::Int64 => "64-bit integers",
            Self::Float64 => "floats",
            Self::Text => "text",
            Self::Blob => "blobs",
            Self::Mixed => "several types",
        }
    }
}

/// What the declared type of a column says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    /// For columns without values.
    pub kind: Kind,
    /// Whether integers are floats that happen to be whole: SQLite stores 20.00 in a DECIMAL(10, 2) column as 20.
    pub fraction: bool,
}

impl Declared {
    pub const UNKNOWN: Self = Self { kind: Kind::Null, fraction: false };

    /// SQLite's rules of type affinity, with more care for the rest that it calls NUMERIC: only names of numbers make
    /// numbers of an empty column; dates, JSON, UUIDs are text.
    pub fn parse(declared: &str) -> Self {
        let name = declared.to_ascii_uppercase();
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        let of = |kind| Self { kind, fraction: false };
        if has(&["INT"]) {
            of(Kind::Int64)
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            of(Kind::Text)
        } else if has(&["BLOB"]) {
            of(Kind::Blob)
        } else if has(&["REAL", "FLOA", "DOUB"]) {
            Self { kind: Kind::Float64, fraction: true }
        } else if has(&["DEC", "NUM", "MONEY"]) {
            match has_fraction(&name) {
                true => Self { kind: Kind::Float64, fraction: true },
                false => of(Kind::Int64),
            }
        } else if has(&["BOOL"]) {
            of(Kind::Int64)
        } else if name.trim().is_empty() || name.trim() == "ANY" {
            Self::UNKNOWN
        } else {
            of(Kind::Text)
        }
    }
}

/// DECIMAL(10, 2) and a bare DECIMAL have one, NUMBER(19) and NUMBER(19, 0) have none.
fn has_fraction(name: &str) -> bool {
    let Some((_, arguments)) = name.split_once('(') else {
        return true;
    };
    let arguments = arguments.trim_end_matches([')', ' ']);
    arguments.split_once(',').is_some_and(|(_, scale)| scale.trim().parse() != Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types() {
        let table = [
            ("INTEGER", Kind::Int64, false),
            ("unsigned big int", Kind::Int64, false),
            ("FLOATING POINT", Kind::Int64, false), // as in SQLite
            ("varchar(20)", Kind::Text, false),
            ("TEXT", Kind::Text, false),
            ("BLOB", Kind::Blob, false),
            ("DOUBLE PRECISION", Kind::Float64, true),
            ("real", Kind::Float64, true),
            ("DECIMAL", Kind::Float64, true),
            ("DECIMAL(10,2)", Kind::Float64, true),
            ("NUMBER( 19 , 0 )", Kind::Int64, false),
            ("NUMERIC(19)", Kind::Int64, false),
            ("BOOLEAN", Kind::Int64, false),
            ("DATETIME", Kind::Text, false),
            ("JSON", Kind::Text, false),
            ("ANY", Kind::Null, false),
            ("", Kind::Null, false),
        ];
        for (declared, kind, fraction) in table {
            assert_eq!(Declared::parse(declared), Declared { kind, fraction }, "{declared}");
        }
    }
}
