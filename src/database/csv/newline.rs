//! What ends a line.

use super::header;

/// What ends every line of a file, as its first line shows. COPY refuses a file that mixes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newline {
    /// `\n`.
    Feed,
    /// `\r\n`.
    ReturnFeed,
    /// `\r`.
    Return,
}

impl Newline {
    /// Of a file that begins with `head`, which goes at least one byte beyond the first line where there is one.
    pub(super) fn of(head: &[u8]) -> Self {
        let end = header::end(head);
        match (end.and_then(|at| head.get(at)), end.and_then(|at| head.get(at + 1))) {
            (Some(b'\r'), Some(b'\n')) => Self::ReturnFeed,
            (Some(b'\r'), _) => Self::Return,
            _ => Self::Feed,
        }
    }

    /// How many bytes it has.
    pub(super) fn length(self) -> usize {
        if self == Self::ReturnFeed { 2 } else { 1 }
    }

    /// Its last byte.
    pub(super) fn last(self) -> u8 {
        if self == Self::Return { b'\r' } else { b'\n' }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_shows_what_ends_lines() {
        for (head, newline) in [
            ("a,b\nc\r\n", Newline::Feed),
            ("\"a\n\",b\r\nc", Newline::ReturnFeed),
            ("a\rb", Newline::Return),
            ("a\r", Newline::Return),
            ("a", Newline::Feed),
        ] {
            assert_eq!(Newline::of(head.as_bytes()), newline, "{head:?}");
        }
    }
}
