//! Which rows of a column hold a value.

/// A bit per row, set where there is a value, least significant first as in Arrow. Costs nothing until a NULL comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    /// Empty as long as there is no NULL; may end before the last row, whatever follows is valid.
    bits: Vec<u8>,
    /// Rows that have a bit.
    rows: usize,
    nulls: usize,
}

impl Validity {
    /// Rows without a value.
    pub fn nulls(&self) -> usize {
        self.nulls
    }

    pub fn is_null(&self, row: usize) -> bool {
        row < self.rows && self.bits[row / 8] & (1 << (row % 8)) == 0
    }

    /// Of what is known about each row.
    pub(super) fn of(valid: impl Iterator<Item = bool>) -> Self {
        let mut validity = Self::default();
        for (row, _) in valid.enumerate().filter(|(_, valid)| !valid) {
            // Memory for a bit a row; it would abort otherwise, too.
            let _ = validity.push_null(row);
        }
        validity
    }

    /// The row is NULL; all before it have been told.
    pub(super) fn push_null(&mut self, row: usize) -> Option<()> {
        self.extend(row)?;
        if self.rows % 8 == 0 {
            self.bits.try_reserve(1).ok()?;
            self.bits.push(0);
        }
        self.rows += 1;
        self.nulls += 1;
        Some(())
    }

    /// Forgets the rows from `rows` on.
    pub(super) fn truncate(&mut self, rows: usize) {
        while self.rows > rows {
            self.rows -= 1;
            let mask = 1 << (self.rows % 8);
            self.nulls -= usize::from(self.bits[self.rows / 8] & mask == 0);
            self.bits[self.rows / 8] &= !mask;
        }
        self.bits.truncate(self.rows.div_ceil(8));
    }

    /// The bits of `rows` rows, if there is a NULL among them.
    pub fn into_bits(mut self, rows: usize) -> Option<Vec<u8>> {
        if self.nulls == 0 {
            return None;
        }
        self.extend(rows)?;
        Some(self.bits)
    }

    /// Appends those of another column that follow `rows` rows of this one.
    pub(super) fn append(&mut self, rows: usize, other: &Self) -> Option<()> {
        for row in (0..other.rows).filter(|&row| other.is_null(row)) {
            self.push_null(rows + row)?;
        }
        Some(())
    }

    /// Gives every row before `rows` a bit.
    fn extend(&mut self, rows: usize) -> Option<()> {
        if rows <= self.rows {
            return Some(());
        }
        let bytes = rows.div_ceil(8);
        self.bits.try_reserve(bytes - self.bits.len()).ok()?;
        if self.rows % 8 != 0 {
            self.bits[self.rows / 8] |= 0xFF << (self.rows % 8);
        }
        self.bits.resize(bytes, 0xFF);
        if rows % 8 != 0 {
            self.bits[bytes - 1] &= !(0xFF << (rows % 8));
        }
        self.rows = rows;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_a_vector_of_bools(rows in prop::collection::vec(any::<bool>(), 0..80), cut in 0usize..80) {
            let build = |rows: &[bool]| {
                let mut built = Validity::default();
                for (row, _) in rows.iter().enumerate().filter(|(_, valid)| !**valid) {
                    built.push_null(row).unwrap();
                }
                built
            };
            let mut built = build(&rows);
            for cut in [rows.len(), cut.min(rows.len())] {
                let rows = &rows[..cut];
                built.truncate(cut);
                prop_assert_eq!(built.nulls(), rows.iter().filter(|valid| !**valid).count());
                for (row, valid) in rows.iter().enumerate() {
                    prop_assert_eq!(built.is_null(row), !valid);
                }
                if let Some(bits) = built.clone().into_bits(cut) {
                    prop_assert_eq!(bits.len(), cut.div_ceil(8));
                    for (row, valid) in rows.iter().enumerate() {
                        prop_assert_eq!(bits[row / 8] >> (row % 8) & 1 == 1, *valid);
                    }
                }
            }
            let (left, right) = rows.split_at(cut.min(rows.len()));
            let mut joined = build(left);
            joined.append(left.len(), &build(right)).unwrap();
            prop_assert_eq!(joined.into_bits(rows.len()), build(&rows).into_bits(rows.len()));
        }
    }
}
