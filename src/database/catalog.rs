//! The structure of relations, read from `pg_catalog` as facts.
//!
//! A [`Fact`] is the piece of SQL that would make one detail of a relation again, with the names that differ between
//! generations left open. From this one description follow the three things the swap needs: what to execute so that
//! staging becomes a copy of live ([`super::staging`]), how the two differ ([`diff`]), and a [`fingerprint`] of live.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sqlx::{Connection, PgConnection};

use super::identifiers::{Generation, Relations, qualified, quote_ident, quote_literal, sha256_hex};

/// A structure that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The database refused or was lost.
    #[error("the structure of schema {schema} could not be read: {source}; check the connection and the privileges, then retry")]
    Database {
        /// The schema that was read.
        schema: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// A relation of the portal does not exist.
    #[error("{relation} does not exist; create it, or take it out of the Portal")]
    Missing {
        /// The qualified name.
        relation: String,
    },
}

/// When a detail is added to a staging relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Part of `CREATE TABLE` itself.
    Created,
    /// Needed before rows come in: sequences, defaults, checks, owner, policies, grants.
    Base,
    /// Faster after the load: indexes, primary keys, unique and exclusion constraints, extended statistics.
    Indexes,
    /// Needs the indexes of other tables: foreign keys.
    Keys,
    /// Must not act on the load: triggers, rules, forced row security.
    Last,
    /// Fits only once the names are live: keys to lookup tables, whose rows are published in the swap, and policies and
    /// rules that name relations.
    Swap,
}

/// The kinds of facts, in the order in which they are applied.
const KINDS: &[(&str, Stage)] = &[
    ("table", Stage::Created),
    ("access", Stage::Created),
    ("column", Stage::Created),
    ("sequence", Stage::Base),
    ("default", Stage::Base),
    ("storage", Stage::Base),
    ("compression", Stage::Base),
    ("statistics target", Stage::Base),
    ("column option", Stage::Base),
    ("option", Stage::Base),
    ("check", Stage::Base),
    ("owner", Stage::Base),
    ("policy", Stage::Base),
    ("row security", Stage::Base),
    ("grant", Stage::Base),
    ("comment", Stage::Base),
    ("index", Stage::Indexes),
    ("constraint", Stage::Indexes),
    ("index option", Stage::Indexes),
    ("cluster", Stage::Indexes),
    ("replica identity", Stage::Indexes),
    ("statistics", Stage::Indexes),
    ("index comment", Stage::Indexes),
    ("foreign key", Stage::Keys),
    ("foreign key comment", Stage::Keys),
    ("trigger", Stage::Last),
    ("trigger state", Stage::Last),
    ("rule", Stage::Last),
    ("late comment", Stage::Last),
    ("policy comment", Stage::Last),
    ("forced row security", Stage::Last),
    ("policy with subquery", Stage::Swap),
    ("rule naming relations", Stage::Swap),
    (LOOKUP_KEY, Stage::Swap),
    (SWAP_COMMENT, Stage::Swap),
];

/// A foreign key to a lookup table.
pub(super) const LOOKUP_KEY: &str = "foreign key to a lookup table";
/// The comment on something that only the swap can make.
const SWAP_COMMENT: &str = "comment on it";

/// How a name is written at its place in a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Qualified,
    Bare,
    Literal,
}

/// A stretch of a definition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
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
pub struct Template(Vec<Piece>);

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

    fn names(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Name { schema, base, moves, .. } => Some((schema.as_str(), base.as_str(), *moves)),
        })
    }
}

/// One detail of a relation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fact {
    /// The base name of the relation.
    pub relation: String,
    kind: usize,
    place: i64,
    name: Template,
    /// The SQL that makes it; of a column the part inside `CREATE TABLE`.
    pub definition: Template,
    /// The SQL that takes it away, where Postgres or a default could have added it unasked.
    pub undo: Option<Template>,
}

impl Fact {
    /// What it is: `column`, `index`, `grant`, ...
    #[must_use]
    pub fn kind(&self) -> &'static str {
        KINDS.get(self.kind).map_or("detail", |(kind, _)| kind)
    }

    /// When it is applied to a staging relation.
    #[must_use]
    pub fn stage(&self) -> Stage {
        KINDS.get(self.kind).map_or(Stage::Last, |(_, stage)| *stage)
    }

    /// What the detail is called in live; empty for a detail of the relation as a whole.
    #[must_use]
    pub fn name(&self) -> String {
        self.name
            .0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Name { base, .. } => base.as_str(),
            })
            .collect()
    }

    /// What two generations are compared by. The undo is no part of the structure.
    fn identity(&self) -> (&str, usize, i64, &Template, &Template) {
        (&self.relation, self.kind, self.place, &self.name, &self.definition)
    }

    /// Does it refer to one of these tables of `schema`, which are not swapped?
    fn refers_to(&self, schema: &str, tables: &[String]) -> bool {
        self.definition.names().any(|(of, base, moves)| !moves && of == schema && tables.iter().any(|table| table == base))
    }
}

/// The facts of the relations of one generation.
#[derive(Debug, Clone, Default)]
pub struct Structure {
    /// All details, in the order in which they are applied.
    pub facts: Vec<Fact>,
}

impl Structure {
    /// The base names of relations, indexes, sequences and statistics objects: every name that moves in a swap.
    #[must_use]
    pub fn base_names(&self) -> BTreeSet<String> {
        self.facts
            .iter()
            .flat_map(|fact| fact.definition.names())
            .filter(|(_, _, moves)| *moves)
            .map(|(_, base, _)| base.to_owned())
            .collect()
    }

    /// Is this relation among those that were found?
    #[must_use]
    pub fn has(&self, relation: &str) -> bool {
        self.facts.iter().any(|fact| fact.relation == relation)
    }
}

/// A detail in which two generations differ. Its text is a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The relation, as it is called in the generation that ought to be.
    pub relation: String,
    /// `column`, `index`, `grant`, ...
    pub kind: &'static str,
    /// The detail's name; empty for the relation as a whole.
    pub name: String,
    /// What is found, as SQL.
    pub found: Option<String>,
    /// What ought to be, as SQL.
    pub expected: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { relation, kind, name, found, expected } = self;
        write!(f, "{relation}: {kind}")?;
        if !name.is_empty() {
            write!(f, " {name}")?;
        }
        match (found, expected) {
            (None, Some(expected)) => write!(f, " is missing (expected: {expected})"),
            (Some(found), None) => write!(f, " should not be there ({found})"),
            (found, expected) => write!(
                f,
                " differs (expected: {}, found: {})",
                expected.as_deref().unwrap_or_default(),
                found.as_deref().unwrap_or_default()
            ),
        }
    }
}

/// Reads live. Relations that do not exist are left out; see [`Structure::has`].
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn live(conn: &mut PgConnection, relations: &Relations) -> Result<Structure, CatalogError> {
    read(conn, relations, &Generation::Live, &BTreeSet::new()).await
}

/// Reads another generation, with its names led back to the names of `live`.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn counterpart(
    conn: &mut PgConnection,
    relations: &Relations,
    generation: &Generation,
    live: &Structure,
) -> Result<Structure, CatalogError> {
    let mut bases = live.base_names();
    bases.extend(relations.swapped().map(str::to_owned));
    read(conn, relations, generation, &bases).await
}

/// A hash over the structure of the live relations: equal as long as nobody changes it.
///
/// # Errors
/// When a relation is missing or the catalogue cannot be read.
pub async fn fingerprint(conn: &mut PgConnection, relations: &Relations) -> Result<String, CatalogError> {
    let structure = live(conn, relations).await?;
    let missing = relations.swapped().find(|base| !structure.has(base));
    if let Some(base) = missing {
        return Err(CatalogError::Missing { relation: format!("{}.{base}", relations.schema) });
    }
    let mut text = String::new();
    for fact in &structure.facts {
        let (relation, _, place, _, definition) = fact.identity();
        // The lengths keep two different structures from giving one text.
        let definition = definition.render(&Generation::Live);
        text.push_str(&format!("{}:{relation} {} {place} {}:{definition}\n", relation.len(), fact.kind(), definition.len()));
    }
    Ok(sha256_hex(&text))
}

/// How the relations of `generation` differ from live; empty means that they can take its place.
///
/// What only the swap itself can add ([`Stage::Swap`]) is not compared.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn diff(conn: &mut PgConnection, relations: &Relations, generation: &Generation) -> Result<Vec<Difference>, CatalogError> {
    let live = live(conn, relations).await?;
    let other = counterpart(conn, relations, generation, &live).await?;
    Ok(compare(generation, &live, &other))
}

/// The facts of `live` that `other` lacks, apart from what is left to the swap.
pub(super) fn lacking<'a>(live: &'a Structure, other: &Structure) -> Vec<&'a Fact> {
    let present: BTreeSet<_> = other.facts.iter().map(Fact::identity).collect();
    live.facts.iter().filter(|fact| fact.stage() != Stage::Swap && !present.contains(&fact.identity())).collect()
}

/// What was left to the swap, and what `other` does not have under any definition.
pub(super) fn left_to_swap<'a>(live: &'a Structure, other: &Structure) -> Vec<&'a Fact> {
    let key = |fact: &Fact| (fact.relation.clone(), fact.kind, fact.name());
    let present: BTreeSet<_> = other.facts.iter().map(key).collect();
    live.facts.iter().filter(|fact| fact.stage() == Stage::Swap && !present.contains(&key(fact))).collect()
}

fn compare(generation: &Generation, live: &Structure, other: &Structure) -> Vec<Difference> {
    type Key = (String, usize, String, i64);
    let key = |fact: &Fact| -> Key {
        // A column is the same column when it has moved; elsewhere the place tells apart facts of one name.
        let place = if fact.kind() == "column" { 0 } else { fact.place };
        (fact.relation.clone(), fact.kind, fact.name(), place)
    };
    let expected: BTreeMap<Key, &Fact> = lacking(live, other).into_iter().map(|fact| (key(fact), fact)).collect();
    let found: BTreeMap<Key, &Fact> = lacking(other, live).into_iter().map(|fact| (key(fact), fact)).collect();
    let keys: BTreeSet<&Key> = expected.keys().chain(found.keys()).collect();
    let show = |fact: &&Fact| {
        let definition = fact.definition.render(generation);
        if fact.kind() == "column" { format!("{definition} as column {}", fact.place) } else { definition }
    };
    keys.into_iter()
        .filter_map(|key| {
            let (expected, found) = (expected.get(key), found.get(key));
            let fact = expected.or(found)?;
            Some(Difference {
                relation: generation.name(&fact.relation),
                kind: fact.kind(),
                name: fact.name(),
                found: found.map(show),
                expected: expected.map(show),
            })
        })
        .collect()
}

#[derive(sqlx::FromRow)]
struct Row {
    relation: String,
    kind: String,
    place: i64,
    name: String,
    definition: String,
    undo: Option<String>,
}

async fn read(
    conn: &mut PgConnection,
    relations: &Relations,
    generation: &Generation,
    bases: &BTreeSet<String>,
) -> Result<Structure, CatalogError> {
    facts(conn, relations, generation, bases).await.map_err(|source| CatalogError::Database { schema: relations.schema.clone(), source })
}

/// Everything that a live relation has besides its columns and its query, as statements.
pub(super) async fn details(conn: &mut PgConnection, schema: String, relation: String) -> Result<Vec<String>, sqlx::Error> {
    let only = Relations { schema, views: vec![relation], ..Relations::default() };
    let structure = facts(conn, &only, &Generation::Live, &BTreeSet::new()).await?;
    let details = structure.facts.iter().filter(|fact| fact.stage() > Stage::Created);
    Ok(details.map(|fact| fact.definition.render(&Generation::Live)).collect())
}

async fn facts(
    conn: &mut PgConnection,
    relations: &Relations,
    generation: &Generation,
    bases: &BTreeSet<String>,
) -> Result<Structure, sqlx::Error> {
    let marker = format!("\u{1}{}\u{2}", uuid::Uuid::new_v4().simple());
    let mut scope = conn.begin().await?;
    read_catalogue(&mut scope).await?;
    let rows: Vec<Row> = sqlx::query_as(include_str!("catalog.sql"))
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
pub(super) async fn empty_search_path(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT set_config('search_path', 'pg_catalog, pg_temp', true)").execute(conn).await.map(drop)
}

/// As [`empty_search_path`], for the long queries over the catalogue: planning them takes longer than executing them, so
/// the connection keeps the plan, and the one that is made before the lock serves under it too.
pub(super) async fn read_catalogue(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
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
