//! The rows of a CSV file, field by field, for binary COPY: fields are separated as COPY does it, and stay bytes.

use super::{BadRow, Format, MAX_ROW_BYTES, newline::Newline};

/// What binary COPY begins with: its signature, no flags, no extension.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with: a row of -1 fields.
const TRAILER: [u8; 2] = [0xff; 2];
/// The length of a field that is null.
const NULL: [u8; 4] = [0xff; 4];

const STRAY_RETURN: &str = "unquoted carriage return found in data";
const STRAY_FEED: &str = "unquoted newline found in data";

/// Takes rows apart. Of each it writes the line in which it begins, the fields of the columns, what follows them, and what is wrong.
pub(super) struct Records<'a> {
    columns: &'a [String],
    delimiter: u8,
    null: &'a [u8],
    newline: Newline,
    /// Rows that may still come.
    left: Option<u64>,
    /// Rows for COPY, the last one unfinished from `row` on.
    out: Vec<u8>,
    row: usize,
    /// The line that is read.
    line: u64,
    state: Option<Row>,
}

/// The row that is read.
struct Row {
    line: u64,
    /// Where its field's length goes, from the row's beginning.
    field: usize,
    /// Fields before this one.
    fields: usize,
    was_quoted: bool,
    in_quotes: bool,
    /// A quote inside quotes: its end, unless another one follows.
    quote: bool,
    /// A CR that ends the line, if an LF follows.
    carriage_return: bool,
    problem: Option<&'static str>,
}

impl<'a> Records<'a> {
    /// `header` has been read already; `null` is the NULL of `format` in the file's encoding.
    pub(super) fn new(
        columns: &'a [String],
        format: &Format,
        null: &'a [u8],
        header: &[u8],
        newline: Newline,
        sample: Option<u64>,
    ) -> Self {
        let lines = header.iter().filter(|byte| **byte == newline.last()).count();
        let line = u64::try_from(lines).unwrap_or(u64::MAX).saturating_add(1);
        let out = SIGNATURE.to_vec();
        Self { columns, delimiter: format.delimiter, null, newline, left: sample, row: out.len(), out, line, state: None }
    }

    /// Takes the next bytes of the file. Returns whether the sample is complete.
    ///
    /// # Errors
    /// When a row is too long.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<bool, BadRow> {
        for byte in chunk {
            if self.left == Some(0) {
                return Ok(true);
            }
            self.byte(*byte);
            let length = self.out.len() - self.row;
            if length > MAX_ROW_BYTES
                && let Some(row) = &self.state
            {
                return Err(BadRow::too_long(row.line, row.in_quotes));
            }
        }
        Ok(self.left == Some(0))
    }

    /// The file ends here.
    ///
    /// # Errors
    /// When a quote is open.
    pub(super) fn finish(&mut self) -> Result<(), BadRow> {
        if let Some(mut row) = self.state.take() {
            if row.in_quotes && !row.quote {
                let problem = "a quote is opened in this row and never closed; correct the file";
                return Err(BadRow { line: row.line, problem: problem.to_owned() });
            }
            if row.carriage_return {
                row.problem = Some(STRAY_RETURN);
            }
            self.end(row);
        }
        self.out.extend_from_slice(&TRAILER);
        self.row = self.out.len();
        Ok(())
    }

    /// The rows that are complete, for COPY.
    pub(super) fn complete(&self) -> &[u8] {
        self.out.get(..self.row).unwrap_or_default()
    }

    /// Forgets the complete rows.
    pub(super) fn sent(&mut self) {
        self.out.drain(..self.row);
        self.row = 0;
        if self.out.len() < self.out.capacity() / 64 {
            self.out.shrink_to(1 << 20);
        }
    }

    fn byte(&mut self, byte: u8) {
        let line = self.line;
        self.line += u64::from(byte == self.newline.last());
        let mut row = match self.state.take() {
            Some(row) => row,
            None => self.begin(line),
        };
        if row.in_quotes && !row.quote {
            match byte {
                b'"' => row.quote = true,
                other => self.out.push(other),
            }
        } else if std::mem::take(&mut row.quote) && byte == b'"' {
            self.out.push(b'"');
        } else {
            row.in_quotes = false;
            if std::mem::take(&mut row.carriage_return) {
                if byte == b'\n' {
                    return self.end(row);
                }
                row.problem = Some(STRAY_RETURN);
                self.out.push(b'\r');
            }
            match (byte, self.newline) {
                (b'\n', Newline::Feed) | (b'\r', Newline::Return) => return self.end(row),
                (b'\n', Newline::ReturnFeed) => {
                    row.problem = Some(STRAY_FEED);
                    return self.end(row);
                }
                (b'\r', Newline::ReturnFeed) => row.carriage_return = true,
                (b'"', _) => (row.in_quotes, row.was_quoted) = (true, true),
                (other, _) if other == self.delimiter => self.next_field(&mut row),
                (other, _) => {
                    if matches!(other, b'\r' | b'\n') {
                        row.problem = Some(if other == b'\r' { STRAY_RETURN } else { STRAY_FEED });
                    }
                    self.out.push(other);
                }
            }
        }
        self.state = Some(row);
    }

    /// Begins a row with its number and its first field.
    fn begin(&mut self, line: u64) -> Row {
        // The number, the rest and the problem beside the columns. Postgres has fewer columns than an i16.
        self.out.extend_from_slice(&i16::try_from(self.columns.len() + 3).unwrap_or(i16::MAX).to_be_bytes());
        self.out.extend_from_slice(&8_i32.to_be_bytes());
        self.out.extend_from_slice(&line.to_be_bytes());
        let field = self.out.len() - self.row;
        self.out.extend_from_slice(&NULL);
        Row { line, field, fields: 0, was_quoted: false, in_quotes: false, quote: false, carriage_return: false, problem: None }
    }

    fn next_field(&mut self, row: &mut Row) {
        row.fields += 1;
        if row.fields > self.columns.len() {
            // Beyond the last column everything stays together.
            self.out.push(self.delimiter);
            return;
        }
        self.close(row);
        row.field = self.out.len() - self.row;
        row.was_quoted = false;
        self.out.extend_from_slice(&NULL);
    }

    /// Writes the field's length, unless it is null.
    fn close(&mut self, row: &Row) {
        let field = self.row + row.field;
        let content = field + NULL.len();
        let is_rest = row.fields > self.columns.len();
        if !is_rest && !row.was_quoted && self.out.get(content..) == Some(self.null) {
            self.out.truncate(content);
        } else {
            self.write_length(field);
        }
    }

    fn write_length(&mut self, field: usize) {
        let length = i32::try_from(self.out.len() - field - NULL.len()).unwrap_or(i32::MAX);
        if let Some(place) = self.out.get_mut(field..field + NULL.len()) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    /// Ends the row, whose last field is still open.
    fn end(&mut self, mut row: Row) {
        row.fields += 1;
        self.close(&row);
        let columns = self.columns;
        let missing = columns.get(row.fields..).unwrap_or_default();
        for _ in missing {
            self.out.extend_from_slice(&NULL);
        }
        let has_rest = row.fields > columns.len();
        if !has_rest {
            self.out.extend_from_slice(&NULL);
        }
        let problem = match (row.problem, missing.first()) {
            (Some(problem), _) => Some(problem.to_owned()),
            (None, Some(column)) => Some(format!("missing data for column \"{column}\"")),
            (None, None) => has_rest.then(|| "extra data after last expected column".to_owned()),
        };
        let at = self.out.len();
        self.out.extend_from_slice(&NULL);
        if let Some(problem) = problem {
            self.out.extend_from_slice(problem.as_bytes());
            self.write_length(at);
        }
        self.row = self.out.len();
        self.left = self.left.map(|left| left.saturating_sub(1));
    }
}
