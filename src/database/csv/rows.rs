//! Where the rows of a sample end.

use super::header;

/// Counts rows on their way, as COPY tells them apart: a line's end inside quotes is none.
pub(super) struct Rows {
    /// Lines that may still come, the header's included.
    left: u64,
    in_quotes: bool,
    /// What ends a line in this file.
    newline: u8,
}

impl Rows {
    /// `head` begins with the header and shows what ends a line; `rows` may follow it.
    pub(super) fn new(head: &[u8], rows: u64) -> Self {
        let end = header::end(head);
        let is_return = end.and_then(|at| head.get(at)) == Some(&b'\r') && end.and_then(|at| head.get(at + 1)) != Some(&b'\n');
        Self { left: rows.saturating_add(1), in_quotes: false, newline: if is_return { b'\r' } else { b'\n' } }
    }

    /// Where the last wanted row ends in this chunk; none when it ends later.
    pub(super) fn end_in(&mut self, chunk: &[u8]) -> Option<usize> {
        for (at, byte) in chunk.iter().enumerate() {
            if *byte == b'"' {
                self.in_quotes = !self.in_quotes;
            } else if *byte == self.newline && !self.in_quotes {
                self.left -= 1;
                if self.left == 0 {
                    return Some(at + 1);
                }
            }
        }
        None
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
                let mut rows = Rows::new(content.as_bytes(), 2);
                let mut got = Vec::new();
                for chunk in content.as_bytes().chunks(size) {
                    let end = rows.end_in(chunk);
                    got.extend_from_slice(&chunk[..end.unwrap_or(chunk.len())]);
                    if end.is_some() {
                        break;
                    }
                }
                assert_eq!(String::from_utf8(got).unwrap(), sampled, "{content:?} in chunks of {size}");
            }
        }
    }
}
