//! SQL in which the names that differ between generations are left open.

use crate::database::identifiers::{Generation, qualified, quote_ident, quote_literal};

/// How a name is written at its place in a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    Qualified,
    Bare,
    Literal,
}

/// A stretch of a definition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Piece {
    Text(String),
    /// A name; `moves` when it is a different one in each generation.
    Name {
        form: Form,
        schema: String,
        base: String,
        moves: bool,
    },
}

/// SQL with the names of one generation left open.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Template(pub(super) Vec<Piece>);

impl Template {
    /// The SQL for one generation.
    #[must_use]
    pub fn render(&self, generation: &Generation) -> String {
        let mut sql = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => sql.push_str(text),
                Piece::Name { form, schema, base, moves } => {
                    let name = if *moves { generation.name(base) } else { base.clone() };
                    sql.push_str(&match form {
                        Form::Qualified => qualified(schema, &name),
                        Form::Bare => quote_ident(&name),
                        Form::Literal => quote_literal(&qualified(schema, &name)),
                    });
                }
            }
        }
        sql
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Name { schema, base, moves, .. } => Some((schema.as_str(), base.as_str(), *moves)),
        })
    }
}
