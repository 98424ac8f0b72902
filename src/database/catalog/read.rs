//! Reads the facts from `pg_catalog`.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Connection, PgConnection};

use super::{
    fact::{Fact, KINDS, LOOKUP_KEY, SWAP_COMMENT, Stage, Structure},
    template::{Form, Piece, Template},
};
use crate::database::identifiers::{Generation, Relations};

#[derive(sqlx::FromRow)]
struct Row {
    relation: String,
    kind: String,
    place: i64,
    name: String,
    definition: String,
    undo: Option<String>,
}

/// The facts of the relations of a generation. `bases` are the names of live, to which those of other generations are traced back.
pub(super) async fn facts(
    conn: &mut PgConnection,
    relations: &Relations,
    generation: &Generation,
    bases: &BTreeSet<String>,
) -> Result<Structure, sqlx::Error> {
    let marker = format!("\u{1}{}\u{2}", uuid::Uuid::new_v4().simple());
    let mut scope = conn.begin().await?;
    read_catalogue(&mut scope).await?;
    let rows: Vec<Row> = sqlx::query_as(include_str!("relations.sql"))
        .bind(&relations.schema)
        .bind(relations.names(generation))
        .bind(&marker)
        .fetch_all(&mut *scope)
        .await?;
    scope.rollback().await?;
    let known: BTreeMap<String, String> = bases.iter().map(|base| (generation.name(base), base.clone())).collect();
    let reader = Reader { relations, generation, marker, known };
    let mut facts: Vec<Fact> = rows
        .into_iter()
        .filter_map(|row| {
            let kind = KINDS.iter().position(|(kind, _)| *kind == row.kind)?;
            Some(Fact {
                relation: reader.base(&row.relation).0,
                kind,
                place: row.place,
                name: reader.template(&row.name),
                definition: reader.template(&row.definition),
                undo: row.undo.as_deref().map(|undo| reader.template(undo)),
            })
        })
        .collect();
    leave_to_swap(relations, &mut facts);
    let order: BTreeMap<&str, usize> = relations.swapped().enumerate().map(|(at, base)| (base, at)).collect();
    facts.sort_by_cached_key(|fact| {
        let relation = order.get(fact.relation.as_str()).copied();
        (fact.stage(), relation, fact.kind, fact.place, fact.name(), fact.definition.clone())
    });
    Ok(Structure { facts })
}

/// Marks the keys to lookup tables, and the comments on whatever only the swap can make.
fn leave_to_swap(relations: &Relations, facts: &mut [Fact]) {
    let number = |kind: &str| KINDS.iter().position(|(name, _)| *name == kind).unwrap_or(KINDS.len());
    for fact in facts.iter_mut().filter(|fact| fact.kind() == "foreign key") {
        if fact.refers_to(&relations.schema, &relations.lookups) {
            fact.kind = number(LOOKUP_KEY);
        }
    }
    let late: BTreeSet<(String, &str, String)> = facts
        .iter()
        .filter(|fact| fact.stage() == Stage::Swap)
        .map(|fact| (fact.relation.clone(), if fact.kind() == LOOKUP_KEY { "foreign key comment" } else { "policy comment" }, fact.name()))
        .collect();
    for fact in facts.iter_mut().filter(|fact| late.contains(&(fact.relation.clone(), fact.kind(), fact.name()))) {
        fact.kind = number(SWAP_COMMENT);
    }
}

/// Within the current transaction only: the server's deparser then qualifies every name, and no name is looked up by accident.
pub(in crate::database) async fn empty_search_path(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT set_config('search_path', 'pg_catalog, pg_temp', true)").execute(conn).await.map(drop)
}

/// As [`empty_search_path`], for the long queries over the catalogue: planning them takes longer than executing them, so
/// the connection keeps the plan, and the one that is made before the lock serves under it too.
pub(in crate::database) async fn read_catalogue(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    empty_search_path(conn).await?;
    sqlx::query("SELECT set_config('plan_cache_mode', 'force_generic_plan', true)").execute(conn).await.map(drop)
}

/// Leads the names of a generation back to base names.
struct Reader<'a> {
    relations: &'a Relations,
    generation: &'a Generation,
    marker: String,
    known: BTreeMap<String, String>,
}

impl Reader<'_> {
    /// The base of a name, and whether the name moves. Of live every name is its own base.
    fn base(&self, name: &str) -> (String, bool) {
        match self.known.get(name) {
            Some(base) => (base.clone(), true),
            None => (name.to_owned(), *self.generation == Generation::Live),
        }
    }

    fn template(&self, text: &str) -> Template {
        let pieces = text
            .split(self.marker.as_str())
            .enumerate()
            .filter(|(_, part)| !part.is_empty())
            .map(|(at, part)| if at % 2 == 1 { self.name(part) } else { Piece::Text(part.to_owned()) });
        Template(pieces.collect())
    }

    fn name(&self, part: &str) -> Piece {
        let mut fields = part.splitn(3, '\u{1f}');
        let (form, schema, name) = (fields.next(), fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (base, moves) = if schema == self.relations.schema { self.base(name) } else { (name.to_owned(), false) };
        // A reference moves only with a relation of the release; one to live from staging must not look like one to a twin.
        let swapped = form != Some("r") || self.relations.tables.contains(&base);
        let form = match form {
            Some("n") => Form::Bare,
            Some("l") => Form::Literal,
            _ => Form::Qualified,
        };
        Piece::Name { form, schema: schema.to_owned(), base, moves: moves && swapped }
    }
}
