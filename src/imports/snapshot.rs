//! Does everything that a release imports come from one moment of the source? Postgres itself says what the queries read.
//!
//! The staged twins of the materialized views are built in one REPEATABLE READ transaction, and postgres_fdw keeps one snapshot of a
//! server for each local transaction. So imports that read nothing but these twins, and what was staged from them, see one snapshot.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    database::{
        identifiers::Generation,
        import::{RelationKind, RelationRead, relations_behind},
    },
    imports::read_by,
    work::{Context, Definition, PhaseError, Work, definition::templates},
};

/// From how many moments the data is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Snapshot {
    /// Everything is from one moment.
    One,
    /// Parts may be from different moments.
    #[default]
    Several,
}

/// What the manifest says of the source.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct SourceOfData {
    /// From how many moments the data is.
    pub snapshot: Snapshot,
    /// The reasons why there is not one snapshot; empty when there is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
}

/// Reads what every staged view and every import of the release reads.
pub(crate) async fn observe(context: &Context) -> Result<SourceOfData, PhaseError> {
    let definition = Definition::of(context)?;
    let mut work = context.work().await?;
    let mut because = views(context, &mut work).await?;
    let templates = templates(context);
    for one in definition.imports().filter(|one| context.subject.spec.imports.runs(&one.import.name)) {
        let import = &one.import;
        let Some(source) = &one.query else {
            let what = if import.job.is_some() { "is made by a Job" } else { "reads a file" };
            because.push(format!("import {} {what}", import.name));
            continue;
        };
        let reads = read_by(&mut work, import, source, &templates).await?;
        because.extend(
            reads.iter().filter(|read| !is_staged(context, read)).map(|read| format!("import {} reads {}", import.name, named(read))),
        );
    }
    work.commit().await?;
    let snapshot = if because.is_empty() { Snapshot::One } else { Snapshot::Several };
    Ok(SourceOfData { snapshot, because })
}

/// What the staged views were built from that keeps them from being of one moment.
async fn views(context: &Context, work: &mut Work) -> Result<Vec<String>, PhaseError> {
    let (mut because, mut servers, mut local) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    if context.stages_views() {
        for view in &context.subject.portal.materialized_views {
            let staged = Generation::Staging.name(view.name.as_str());
            for read in relations_behind(work, context.subject.portal.database.schema.as_str(), &staged).await? {
                match &read.kind {
                    RelationKind::ForeignTable { server, wrapper } if wrapper == "postgres_fdw" => {
                        servers.insert(server.clone());
                    }
                    RelationKind::Table => {
                        local.insert(named(&read));
                    }
                    _ if is_staged(context, &read) => {}
                    _ => because.push(format!("materialized view {} reads {}", view.name, named(&read))),
                }
            }
        }
    }
    if servers.len() > 1 {
        let servers: Vec<String> = servers.into_iter().collect();
        because.push(format!("the materialized views read several servers: {}", servers.join(", ")));
    } else if let (Some(server), false) = (servers.first(), local.is_empty()) {
        let tables: Vec<String> = local.into_iter().collect();
        because.push(format!("the materialized views read {} beside server {server}", tables.join(", ")));
    }
    Ok(because)
}

/// A staged twin or table, or a copy of a look-up table.
fn is_staged(context: &Context, read: &RelationRead) -> bool {
    let relations = context.relations();
    let staged = |name: &String| Generation::Staging.name(name) == read.name;
    read.schema == relations.schema && relations.tables.iter().chain(&relations.views).chain(&relations.lookups).any(staged)
}

fn named(read: &RelationRead) -> String {
    let what = match &read.kind {
        RelationKind::ForeignTable { server, wrapper } if wrapper == "postgres_fdw" => format!("foreign table of server {server}"),
        RelationKind::ForeignTable { wrapper, .. } => format!("foreign table of {wrapper}"),
        RelationKind::MaterializedView => "materialized view".to_owned(),
        RelationKind::Table => "table".to_owned(),
    };
    format!("{what} {}.{}", read.schema, read.name)
}
