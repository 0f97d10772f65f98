//! Texts or blobs, one after the other.

/// Values of varying length in one piece of memory of less than 2 GiB, the layout of Arrow's `Utf8` and `Binary`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// Where each value begins, and where the last one ends.
    offsets: Vec<i32>,
    data: Vec<u8>,
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The offsets cannot count further. A single value always has room in a new column.
    Full,
    Memory,
}

impl Default for Bytes {
    fn default() -> Self {
        Self { offsets: vec![0], data: Vec::new() }
    }
}

impl Bytes {
    /// `rows` empty values.
    pub(super) fn empty(rows: usize) -> Self {
        Self { offsets: vec![0; rows + 1], data: Vec::new() }
    }

    /// None, with room for as many as here.
    pub(super) fn fresh(&self) -> Self {
        let mut offsets = Vec::with_capacity(self.offsets.len());
        offsets.push(0);
        Self { offsets, data: Vec::with_capacity(self.data.len()) }
    }

    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a row; empty for a NULL.
    pub fn get(&self, row: usize) -> &[u8] {
        &self.data[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.offsets.windows(2).map(|pair| &self.data[pair[0] as usize..pair[1] as usize])
    }

    #[inline(always)]
    pub(super) fn push(&mut self, value: &[u8]) -> Result<(), Refused> {
        let end = self.data.len() + value.len();
        let Ok(offset) = i32::try_from(end) else {
            return Err(Refused::Full);
        };
        if self.data.capacity() - self.data.len() < value.len() {
            self.data.try_reserve(value.len()).map_err(|_| Refused::Memory)?;
        }
        if self.offsets.len() == self.offsets.capacity() {
            self.offsets.try_reserve(1).map_err(|_| Refused::Memory)?;
        }
        self.data.extend_from_slice(value);
        self.offsets.push(offset);
        Ok(())
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        if rows < self.len() {
            self.offsets.truncate(rows + 1);
            self.data.truncate(self.offsets[rows] as usize);
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    pub fn offsets(&self) -> &[i32] {
        &self.offsets
    }

    /// Of what [`into_parts`](Self::into_parts) has given.
    pub(super) fn from_parts(offsets: Vec<i32>, data: Vec<u8>) -> Self {
        Self { offsets, data }
    }

    /// Offsets and data.
    pub fn into_parts(self) -> (Vec<i32>, Vec<u8>) {
        (self.offsets, self.data)
    }
}
