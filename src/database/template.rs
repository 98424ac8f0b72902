//! Templates: the portal's SQL with the names of this release filled in.
//!
//! minijinja with strict undefined variables, no includes and no escaping. A template is written by the platform team,
//! so what it renders is trusted SQL; names that go through `staging()` and `live()` are quoted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context, escape_formatter};

use super::identifiers::{Generation, bare, qualified};
use super::key_range::KeyRange;
use crate::classify::Classify;

/// The longest text that a template may render.
const MAX_RENDERED_BYTES: usize = 1 << 20;
/// Instructions that a template may take.
const MAX_FUEL: u64 = 1_000_000;

/// What a template can name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateContext {
    /// The schema of the portal's relations.
    pub schema: String,
    /// The swapped tables.
    pub tables: Vec<String>,
    /// The look-up tables.
    pub lookups: Vec<String>,
    /// The materialized views.
    pub views: Vec<String>,
    /// `true`: `staging()` of a view is its staged twin; `false`: the live view.
    pub create_staging: bool,
    /// The release that is running.
    pub release: ReleaseVariables,
    /// Row limit per import, or none.
    pub sample: Option<i64>,
}

/// The variables `release.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseVariables {
    /// `release.label`
    pub label: String,
    /// `release.date`: the day the release started, `YYYY-MM-DD`.
    pub date: String,
    /// `release.id`
    pub id: String,
}

/// A rendered template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The SQL (or the object key of a CSV file).
    pub sql: String,
    /// The template called `range()`, so the key range is already part of the query.
    pub used_range: bool,
}

/// A template that cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The text is no template.
    #[error(
        "template {template}, line {line}: {cause}; correct it in the Portal, and write {{% raw %}}...{{% endraw %}} around SQL that contains {{{{ or {{%"
    )]
    Syntax {
        /// Name of the template.
        template: String,
        /// Line in it.
        line: usize,
        /// What is wrong.
        cause: String,
    },
    /// It names something that does not exist, or an expression in it fails.
    #[error(
        "template {template}, line {line}: {cause}; correct it in the Portal. Known are staging(name), live(name), range(expression), release.label, release.date, release.id and sample"
    )]
    Evaluation {
        /// Name of the template.
        template: String,
        /// Line in it.
        line: usize,
        /// What is wrong.
        cause: String,
    },
    /// The result is too long.
    #[error("template {template} renders more than {MAX_RENDERED_BYTES} bytes; shorten its loops")]
    TooLong {
        /// Name of the template.
        template: String,
    },
    /// The result is empty.
    #[error("template {template} renders nothing; check its conditions")]
    Empty {
        /// Name of the template.
        template: String,
    },
}

impl Classify for TemplateError {
    fn is_transient(&self) -> bool {
        false
    }
}

impl TemplateContext {
    /// Renders the template `name`. Inside an import with key ranges, `range` is the one being imported.
    ///
    /// A value that is none renders as `NULL`, so `LIMIT {{ sample }}` works with and without a sample.
    /// Whitespace and semicolons at the end are cut off, so that the result can be a subquery.
    ///
    /// # Errors
    /// With the template's name and line, when it is malformed or names something unknown.
    pub fn render(&self, name: &str, source: &str, range: Option<&KeyRange>) -> Result<Rendered, TemplateError> {
        let used_range = Arc::new(AtomicBool::new(false));
        let environment = self.environment(range.cloned(), Arc::clone(&used_range));
        let template = environment.template_from_named_str(name, source).map_err(|error| explain(name, &error))?;
        let release = context! { label => &self.release.label, date => &self.release.date, id => &self.release.id };
        let mut output = Bounded::default();
        match template.render_captured_to(context! { release, sample => self.sample }, &mut output) {
            Err(_) if output.overflown => return Err(TemplateError::TooLong { template: name.to_owned() }),
            Err(error) => return Err(explain(name, &error)),
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&output.bytes);
        let sql = bare(&text);
        if sql.trim().is_empty() {
            return Err(TemplateError::Empty { template: name.to_owned() });
        }
        Ok(Rendered { sql: sql.to_owned(), used_range: used_range.load(Ordering::Relaxed) })
    }

    fn environment(&self, range: Option<KeyRange>, used_range: Arc<AtomicBool>) -> Environment<'static> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // A template with nested loops ends, also when it prints nothing.
        environment.set_fuel(Some(MAX_FUEL));
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_formatter(
            |out, state, value| {
                if value.is_none() { Ok(out.write_str("NULL")?) } else { escape_formatter(out, state, value) }
            },
        );
        let names = self.clone();
        environment.add_function("staging", move |name: String| names.staging(&name));
        let schema = self.schema.clone();
        environment.add_function("live", move |name: String| qualified(&schema, &name));
        // Also takes the place of the built-in `range`, so no template can count to a billion.
        environment.add_function("range", move |expression: String| {
            used_range.store(true, Ordering::Relaxed);
            range.as_ref().map_or_else(|| "TRUE".to_owned(), |range| range.condition(&expression))
        });
        environment
    }

    /// Every relation that `staging()` knows, with what it returns for it.
    pub fn staged(&self) -> Vec<(String, String)> {
        let all = self.tables.iter().chain(&self.lookups).chain(&self.views);
        all.filter_map(|name| Some((name.clone(), self.staging(name).ok()?))).collect()
    }

    fn staging(&self, name: &str) -> Result<String, Error> {
        let is_one_of = |names: &[String]| names.iter().any(|known| known == name);
        if is_one_of(&self.tables) || is_one_of(&self.lookups) || (self.create_staging && is_one_of(&self.views)) {
            return Ok(qualified(&self.schema, &Generation::Staging.name(name)));
        }
        if is_one_of(&self.views) {
            return Ok(qualified(&self.schema, name));
        }
        let known: Vec<&str> = self.tables.iter().chain(&self.lookups).chain(&self.views).map(String::as_str).collect();
        let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
        Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("staging({name:?}) is unknown: the Portal's tables, lookups and views are {known}"),
        ))
    }
}

fn explain(name: &str, error: &Error) -> TemplateError {
    let (template, line) = (name.to_owned(), error.line().unwrap_or(1));
    let cause = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.kind() {
        ErrorKind::SyntaxError => TemplateError::Syntax { template, line, cause },
        _ => TemplateError::Evaluation { template, line, cause },
    }
}

/// Takes what a template writes, up to a limit.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    overflown: bool,
}

impl io::Write for &mut Bounded {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + part.len() > MAX_RENDERED_BYTES {
            self.overflown = true;
            return Err(io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
