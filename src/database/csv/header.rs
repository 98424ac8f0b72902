//! The first line of a CSV file.

use sqlx::PgConnection;

use super::Format;

pub(super) const MAX_BYTES: usize = 64 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Where the first line ends that is not inside quotes.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    let mut in_quotes = false;
    bytes.iter().position(|byte| {
        in_quotes ^= *byte == b'"';
        !in_quotes && matches!(byte, b'\n' | b'\r')
    })
}

/// The column names in the first line of `bytes`, as COPY would read them.
///
/// # Errors
/// With what is wrong and what to do, as the end of a sentence about the header.
pub(super) async fn names(conn: &mut PgConnection, bytes: &[u8], format: &Format) -> Result<Vec<String>, String> {
    if bytes.is_empty() {
        return Err("is missing: the file is empty; write the column names into its first line".to_owned());
    }
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Err("is UTF-16, which Postgres does not read; save the file as UTF-8".to_owned());
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let end = end(bytes).unwrap_or(bytes.len());
    if end > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes; check for an unclosed quote, and check csv.compression"));
    }
    let line: Result<String, sqlx::Error> = sqlx::query_scalar("SELECT pg_catalog.convert_from($1, $2)")
        .bind(bytes.get(..end).unwrap_or_default())
        .bind(&format.encoding)
        .fetch_one(conn)
        .await;
    match line {
        Ok(line) => parse(&line, char::from(format.delimiter)),
        Err(error) => {
            let said = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
            Err(format!("cannot be read as {}: {said}; correct csv.encoding or the file", format.encoding))
        }
    }
}

fn parse(line: &str, delimiter: char) -> Result<Vec<String>, String> {
    let (mut names, mut name, mut in_quotes) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if in_quotes && characters.peek() == Some(&'"') => name.extend(characters.next()),
            '"' => in_quotes = !in_quotes,
            other if other == delimiter && !in_quotes => names.push(std::mem::take(&mut name)),
            other => name.push(other),
        }
    }
    names.push(name);
    if in_quotes {
        return Err("has a quote that is never closed; correct the file".to_owned());
    }
    match names.iter().position(String::is_empty) {
        Some(at) => Err(format!("has no name for column {}; name every column in the first line", at + 1)),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_like_csv() {
        let names = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(parse("a,b", ','), names(&["a", "b"]));
        assert_eq!(parse("a,b;c", ';'), names(&["a,b", "c"]));
        assert_eq!(parse("\"a,\"\"x\"\"\",\"b\nc\"", ','), names(&["a,\"x\"", "b\nc"]));
        assert_eq!(parse("only", ','), names(&["only"]));
        assert!(parse("a,,b", ',').is_err_and(|problem| problem.contains("no name for column 2")));
        assert!(parse("", ',').is_err_and(|problem| problem.contains("no name for column 1")));
        assert!(parse("\"a,b", ',').is_err_and(|problem| problem.contains("never closed")));
    }

    #[test]
    fn the_first_line_ends_outside_of_quotes() {
        assert_eq!(end(b"a,b\n1,2\n"), Some(3));
        assert_eq!(end(b"\"a\nb\"\r\n"), Some(5));
        assert_eq!(end(b"\"a\nb"), None);
    }
}
