//! The rows of a file that goes to COPY as it is: where a sample ends, and what COPY must not see.

use super::{BadRow, MAX_ROW_BYTES, newline::Newline};

/// Where COPY stops reading, and says nothing about what follows.
const END_OF_DATA: [u8; 2] = *br"\.";

/// Counts rows as they pass, as COPY separates them: a line end inside quotes does not count.
pub(super) struct Rows {
    newline: Newline,
    /// Rows that may still come, the header included.
    left: Option<u64>,
    in_quotes: bool,
    /// The line in which the row begins, and the one that is read.
    began: u64,
    line: u64,
    /// How long the row is so far, and how it begins.
    length: usize,
    start: [u8; 2],
}

impl Rows {
    /// From the header on; `sample` limits the rows that follow it.
    pub(super) fn new(newline: Newline, sample: Option<u64>) -> Self {
        let left = sample.map(|rows| rows.saturating_add(1));
        Self { newline, left, in_quotes: false, began: 1, line: 1, length: 0, start: [0; 2] }
    }

    /// Scans the next bytes. Returns where in them the last wanted row ends; `None` when it ends later.
    ///
    /// # Errors
    /// When a row is too long, or would end the file early.
    pub(super) fn pass(&mut self, chunk: &[u8]) -> Result<Option<usize>, BadRow> {
        for (at, byte) in chunk.iter().enumerate() {
            let is_end = *byte == self.newline.last();
            self.line += u64::from(is_end);
            if is_end && !self.in_quotes {
                self.end()?;
                (self.began, self.length) = (self.line, 0);
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        return Ok(Some(at + 1));
                    }
                }
                continue;
            }
            self.in_quotes ^= *byte == b'"';
            if let Some(first) = self.start.get_mut(self.length) {
                *first = *byte;
            }
            self.length += 1;
            if self.length > MAX_ROW_BYTES {
                return Err(BadRow::too_long(self.began, self.in_quotes));
            }
        }
        Ok(None)
    }

    /// The row ends here.
    ///
    /// # Errors
    /// When COPY would take it for the end of the file.
    pub(super) fn end(&self) -> Result<(), BadRow> {
        let ends_file = self.start == END_OF_DATA && (self.length == 2 || (self.length == 3 && self.newline == Newline::ReturnFeed));
        if !ends_file {
            return Ok(());
        }
        let problem = "the line is \\. alone, where Postgres stops reading; remove it, or write it as \"\\.\" in quotes";
        Err(BadRow { line: self.began, problem: problem.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_ends_after_its_last_row_wherever_chunks_end() {
        for (content, sampled) in [
            ("a,b\n1,2\n3,4\n5,6\n", "a,b\n1,2\n3,4\n"),
            ("a,b\r\n1,2\r\n3,4\r\n5,6\r\n", "a,b\r\n1,2\r\n3,4\r\n"),
            ("a,b\r1,2\r3,4\r5,6\r", "a,b\r1,2\r3,4\r"),
            ("a,b\n1,\"x\ny\"\n3,\"\"\"\n\"\n5,6", "a,b\n1,\"x\ny\"\n3,\"\"\"\n\"\n"),
            ("a,b\n1,2\n3,4", "a,b\n1,2\n3,4"),
        ] {
            for size in 1..=content.len() {
                let mut rows = Rows::new(Newline::of(content.as_bytes()), Some(2));
                let mut got = Vec::new();
                for chunk in content.as_bytes().chunks(size) {
                    let end = rows.pass(chunk).unwrap();
                    got.extend_from_slice(&chunk[..end.unwrap_or(chunk.len())]);
                    if end.is_some() {
                        break;
                    }
                }
                assert_eq!(String::from_utf8(got).unwrap(), sampled, "{content:?} in chunks of {size}");
            }
        }
    }

    #[test]
    fn a_row_that_would_end_the_file_is_found() {
        for (content, line) in
            [("a\n\\.\nb\n", Some(2)), ("a\r\n\"x\r\ny\"\r\n\\.\r\n", Some(4)), ("a\n\\.", Some(2)), ("a\n\\.x\n\"\\.\"\n", None)]
        {
            let mut rows = Rows::new(Newline::of(content.as_bytes()), None);
            let found = rows.pass(content.as_bytes()).and_then(|_| rows.end());
            assert_eq!(found.err().map(|row| row.line), line, "{content:?}");
        }
    }

    #[test]
    fn a_row_without_end_is_too_long_and_is_known_by_its_line() {
        let mut rows = Rows::new(Newline::Feed, None);
        rows.pass(b"a,b\n1,2\n\"").unwrap();
        let chunk = vec![b'x'; MAX_ROW_BYTES - 1];
        assert_eq!(rows.pass(&chunk).unwrap(), None);
        let row = rows.pass(b"x").unwrap_err();
        assert_eq!((row.line, row.problem.as_str()), (3, "the row is longer than 32 MiB; check for an unclosed quote there"));
    }
}
