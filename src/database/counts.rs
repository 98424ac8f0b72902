//! How many rows a load read, imported and rejected.

/// What became of rows. Those that are neither imported nor rejected were known to the look-up table already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that the query returned, or that the file has.
    pub read: i64,
    /// Rows that came in.
    pub imported: i64,
    /// Rows that are in `portal_release.rejected_rows`.
    pub rejected: i64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.read += more.read;
        self.imported += more.imported;
        self.rejected += more.rejected;
    }
}
