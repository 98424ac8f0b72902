//! Names: what every relation, index, sequence and statistics object is called after an exchange, decided before anything is renamed.

use std::collections::BTreeSet;

use sqlx::{Connection, PgConnection, postgres::types::Oid};

use super::error::{SwapError, failed};
use crate::database::{
    catalog::empty_search_path,
    identifiers::{Generation, Relations, qualified, quote_ident},
};

/// A relation, index, sequence or statistics object of one generation.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Object {
    /// The relation it belongs to, as it is called in its generation.
    relation: String,
    pub(super) kind: String,
    pub(super) name: String,
    oid: Oid,
    pub(super) owner: String,
    /// What it is like, apart from names.
    signature: String,
}

/// The relations of some generations with their parts.
///
/// # Errors
/// When the catalogue cannot be read.
pub(super) async fn objects(tx: &mut PgConnection, relations: &Relations, generations: &[Generation]) -> Result<Vec<Object>, SwapError> {
    let names: Vec<String> = generations.iter().flat_map(|generation| relations.names(generation)).collect();
    let mut scope = tx.begin().await.map_err(failed("reading the relations"))?;
    empty_search_path(&mut scope).await.map_err(failed("reading the relations"))?;
    let objects = sqlx::query_as(
        "WITH rel AS (
             SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = ANY ($2) AND c.relkind IN ('r', 'm', 'v')
         ), object AS (
             SELECT relname AS relation, CASE relkind WHEN 'r' THEN 'table' WHEN 'm' THEN 'materialized view' ELSE 'view' END AS kind,
                    relname AS name, oid, relowner, '' AS signature FROM rel
             UNION ALL
             SELECT r.relname, 'index', x.relname, x.oid, x.relowner,
                    i.indisprimary || ' ' || i.indisunique || ' ' || substr(pg_get_indexdef(x.oid), strpos(pg_get_indexdef(x.oid), ' USING '))
             FROM rel r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class x ON x.oid = i.indexrelid
             UNION ALL
             SELECT r.relname, 'sequence', s.relname, s.oid, s.relowner, a.attname
             FROM rel r JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid AND d.refobjsubid > 0
                  AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
             JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = d.refobjsubid
             UNION ALL
             SELECT r.relname, 'statistics', e.stxname, e.oid, e.stxowner, pg_get_statisticsobjdef_columns(e.oid) || e.stxkind::text
             FROM rel r JOIN pg_statistic_ext e ON e.stxrelid = r.oid AND e.stxnamespace = r.relnamespace
         )
         SELECT relation::text, kind, name::text, oid, pg_get_userbyid(relowner)::text AS owner, signature
         FROM object ORDER BY kind, name",
    )
    .bind(&relations.schema)
    .bind(names)
    .fetch_all(&mut *scope)
    .await
    .map_err(failed("reading the relations"))?;
    scope.rollback().await.map_err(failed("reading the relations"))?;
    Ok(objects)
}

/// A relation that has changed place, for the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// `table`, `materialized view` or `view`; of parts `index`, `sequence`, `statistics`.
    pub kind: String,
    /// What it is called while it is live.
    pub base: String,
    /// What the one that was live is called now; `None` when live had no such part.
    pub outgoing_name: Option<String>,
    /// The identity of what is live now; `None` when what came in has no such part.
    pub incoming: Option<Oid>,
    /// The identity of what was live until now.
    pub outgoing: Option<Oid>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rename {
    kind: String,
    from: String,
    to: String,
}

impl Rename {
    fn sql(&self, schema: &str) -> String {
        let noun = match self.kind.as_str() {
            "index" => "INDEX",
            "sequence" => "SEQUENCE",
            "statistics" => "STATISTICS",
            _ => "TABLE",
        };
        format!("ALTER {noun} {} RENAME TO {}", qualified(schema, &self.from), quote_ident(&self.to))
    }
}

/// The renames of an exchange.
#[derive(Debug, Default)]
pub(super) struct Renames {
    renames: Vec<Rename>,
    /// What changes place.
    pub(super) moved: Vec<Moved>,
}

impl Renames {
    /// The renames that block no session: an index or a statistics object is renamed while its table is read and written.
    pub(super) fn early(&self, schema: &str) -> Vec<String> {
        self.statements(schema, |rename| self.is_early(rename))
    }

    /// The renames that need the locks, in order.
    pub(super) fn late(&self, schema: &str) -> Vec<String> {
        self.statements(schema, |rename| !self.is_early(rename))
    }

    /// The identities of what the early ones rename.
    pub(super) fn touched(&self) -> Vec<Oid> {
        let early = self.moved.iter().filter(|moved| matches!(moved.kind.as_str(), "index" | "statistics"));
        early.flat_map(|moved| [moved.incoming, moved.outgoing]).flatten().collect()
    }

    /// A name that a relation still has is not free yet.
    fn is_early(&self, rename: &Rename) -> bool {
        let by_itself = |it: &Rename| matches!(it.kind.as_str(), "index" | "statistics");
        by_itself(rename) && !self.renames.iter().any(|other| !by_itself(other) && other.from == rename.to)
    }

    /// Refuses names that belong to something that does not move away.
    ///
    /// # Errors
    /// Names the one that is taken.
    pub(super) async fn are_free(&self, conn: &mut PgConnection, relations: &Relations) -> Result<(), SwapError> {
        let targets: Vec<&str> = self.renames.iter().filter(|it| it.kind != "statistics").map(|it| it.to.as_str()).collect();
        let vacated: BTreeSet<&str> = self.renames.iter().map(|it| it.from.as_str()).collect();
        let present: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = ANY ($2) ORDER BY 1",
        )
        .bind(&relations.schema)
        .bind(targets)
        .fetch_all(conn)
        .await
        .map_err(failed("checking the names"))?;
        match present.into_iter().find(|name| !vacated.contains(name.as_str())) {
            Some(name) => Err(SwapError::NameTaken { name: format!("{}.{name}", relations.schema) }),
            None => Ok(()),
        }
    }

    fn statements(&self, schema: &str, which: impl Fn(&Rename) -> bool) -> Vec<String> {
        self.renames.iter().filter(|rename| which(rename)).map(|rename| rename.sql(schema)).collect()
    }
}

/// Decides every name. Base names come from live.
///
/// # Errors
/// When a counterpart is missing or of another kind, or a name would be given twice.
pub(super) fn plan(relations: &Relations, incoming: &Generation, outgoing: &Generation, found: &[Object]) -> Result<Renames, SwapError> {
    let mut plan = Renames::default();
    let mut away = Vec::new();
    let mut home = Vec::new();
    for base in relations.swapped() {
        let twin = incoming.name(base);
        let find =
            |objects: &[Object], name: &str| objects.iter().find(|it| it.name == name && it.relation == name && is_relation(it)).cloned();
        let missing = |relation: &str, counterpart: &str| SwapError::Missing {
            relation: format!("{}.{relation}", relations.schema),
            counterpart: format!("{}.{counterpart}", relations.schema),
        };
        let old = find(found, base).ok_or_else(|| missing(base, &twin))?;
        let new = find(found, &twin).ok_or_else(|| missing(&twin, base))?;
        if old.kind != new.kind {
            return Err(SwapError::KindDiffers { relation: twin, found: new.kind, expected: old.kind });
        }
        let name = outgoing.name(base);
        away.push(Rename { kind: old.kind.clone(), from: base.to_owned(), to: name.clone() });
        home.push(Rename { kind: new.kind, from: twin, to: base.to_owned() });
        plan.moved.push(Moved {
            kind: old.kind,
            base: base.to_owned(),
            outgoing_name: Some(name),
            incoming: Some(new.oid),
            outgoing: Some(old.oid),
        });
    }
    for base in relations.swapped() {
        let twin = incoming.name(base);
        let mut left: Vec<&Object> = found.iter().filter(|it| it.relation == base && !is_relation(it)).collect();
        for part in &left {
            away.push(Rename { kind: part.kind.clone(), from: part.name.clone(), to: outgoing.name(&part.name) });
        }
        let mut parts: Vec<&Object> = found.iter().filter(|it| it.relation == twin && !is_relation(it)).collect();
        // First by name; then by likeness, for backups whose parts were not named by the scheme.
        let by_name = |part: &Object, old: &Object| part.kind == old.kind && part.name == incoming.name(&old.name);
        let by_likeness = |part: &Object, old: &Object| part.kind == old.kind && part.signature == old.signature;
        type Test<'a> = &'a dyn Fn(&Object, &Object) -> bool;
        let tests: [Test<'_>; 2] = [&by_name, &by_likeness];
        for test in tests {
            parts.retain(|part| {
                let Some(at) = left.iter().position(|old| test(part, old)) else { return true };
                let old = left.remove(at);
                home.push(Rename { kind: part.kind.clone(), from: part.name.clone(), to: old.name.clone() });
                plan.moved.push(Moved {
                    kind: old.kind.clone(),
                    base: old.name.clone(),
                    outgoing_name: Some(outgoing.name(&old.name)),
                    incoming: Some(part.oid),
                    outgoing: Some(old.oid),
                });
                false
            });
        }
        // What live does not have keeps its own name, without the mark of the generation.
        for part in parts {
            let name = part.name.strip_prefix(&incoming.prefix()).filter(|it| !it.is_empty()).unwrap_or(&part.name);
            home.push(Rename { kind: part.kind.clone(), from: part.name.clone(), to: name.to_owned() });
            plan.moved.push(Moved {
                kind: part.kind.clone(),
                base: name.to_owned(),
                outgoing_name: None,
                incoming: Some(part.oid),
                outgoing: None,
            });
        }
        for old in left {
            plan.moved.push(Moved {
                kind: old.kind.clone(),
                base: old.name.clone(),
                outgoing_name: Some(outgoing.name(&old.name)),
                incoming: None,
                outgoing: Some(old.oid),
            });
        }
    }
    plan.renames = away.into_iter().chain(home).filter(|rename| rename.from != rename.to).collect();
    let mut seen = BTreeSet::new();
    match plan.renames.iter().find(|rename| !seen.insert((rename.kind == "statistics", rename.to.clone()))) {
        Some(twice) => Err(SwapError::NameTaken { name: qualified(&relations.schema, &twice.to) }),
        None => Ok(plan),
    }
}

fn is_relation(object: &Object) -> bool {
    matches!(object.kind.as_str(), "table" | "materialized view" | "view")
}
