//! ValidateAndManifest: completes the staged tables, checks that they may go live and writes the manifest.

use futures::FutureExt;
use sha2::{Digest, Sha256};

use super::{
    gates,
    manifest::{Manifest, Part, Rows},
};
use crate::{
    api::{GatePhase, TableGeometry},
    database::{
        catalog,
        checks::{GeometryRule, geometry, max_shrink, non_empty},
        checksum,
        identifiers::{Generation, Relations, qualified},
        ledger, run_sql,
        staging::{self, Pending},
        swap::horizon,
    },
    finding::Finding,
    imports::{self, snapshot},
    text::hex,
    work::{Context, Done, PhaseError, parallel, refuse},
};

pub(super) async fn run(context: &Context) -> Result<Done, PhaseError> {
    let relations = context.relations();
    let schema = relations.schema.as_str();
    let unfinished = imports::unfinished(context).await?;
    if !unfinished.is_empty() {
        return Err(PhaseError::Refused(format!(
            "imports {} have not run, so the staging is incomplete; run ImportCore and ImportRelated first, or skip them with imports.skip",
            unfinished.join(", ")
        )));
    }
    complete(context, &relations).await?;

    let mut work = context.work().await?;
    let mut origin = ledger::staging::origin(&mut work, context.subject.release_id).await?;
    origin.horizon = Some(horizon(&mut work).await?);
    ledger::staging::set_origin(&mut work, context.subject.release_id, &origin).await?;
    let tables = Relations { views: Vec::new(), ..relations.clone() };
    let structure = catalog::fingerprint(&mut work, &tables).await?;
    if origin.structure.as_ref().is_some_and(|then| *then != structure) {
        return Err(PhaseError::Stale(
            "the structure of the live tables has changed since the staging was built; rebuilding the staging".to_owned(),
        ));
    }
    let differences = catalog::diff(&mut work, &relations, &Generation::Staging).await?;
    refuse(differences.iter().map(|difference| Finding::fail("", difference.to_string(), "")).collect())?;
    work.commit().await?;

    let mut findings = Vec::new();
    let validation = &context.subject.portal.validation;
    for table in &validation.non_empty {
        let mut work = context.work().await?;
        findings.extend(non_empty(&mut work, schema, &Generation::Staging.name(table.as_str())).await?);
        work.commit().await?;
    }
    let geometries = validation.geometry.iter().map(|check| check_geometry(context, schema, check).boxed()).collect();
    findings.extend(parallel::all(context, geometries).await?.into_iter().flatten());
    for (table, share) in &validation.max_shrink {
        let mut work = context.work().await?;
        findings.extend(max_shrink(&mut work, schema, table, &Generation::Staging.name(table), share.fraction()).await?);
        work.commit().await?;
    }
    // The checks end in any order.
    findings.sort_by(|one, other| one.object.cmp(&other.object));
    refuse(findings)?;
    let gates = gates::pass(context, GatePhase::ValidateAndManifest).await?;

    let manifest = manifest(context, &relations, origin).await?;
    let text = manifest.text()?;
    let sha256 = hex(&Sha256::digest(text.as_bytes()));
    let rows: i64 = manifest.tables.values().map(|part| part.rows).sum();
    let mut work = context.work().await?;
    ledger::staging::set_manifest(&mut work, context.subject.release_id, &text, &sha256).await?;
    work.complete(&format!("{rows} rows in {} tables{gates}; manifest sha256 {sha256}", manifest.tables.len())).await
}

async fn check_geometry(context: &Context, schema: &str, check: &TableGeometry) -> Result<Vec<Finding>, PhaseError> {
    context.say(format!("checking the geometry of {}", check.table));
    let rule = GeometryRule { column: check.column.as_str(), srid: None, nullable: false };
    let mut work = context.work().await?;
    let findings = geometry(&mut work, schema, &Generation::Staging.name(check.table.as_str()), rule).await?;
    work.commit().await?;
    Ok(findings)
}

/// Indexes, keys and triggers where staging lacks them; then statistics and the visibility map, which survive the swap. Each statement
/// commits by itself, so a killed run resumes with the remaining ones.
async fn complete(context: &Context, relations: &Relations) -> Result<(), PhaseError> {
    let mut work = context.work().await?;
    let steps = staging::pending(&mut work, relations).await?;
    work.commit().await?;
    // Indexes wait for nothing but the columns; constraints take over indexes, and foreign keys lock two tables.
    let first = steps.iter().position(|step| step.builds_index).unwrap_or(steps.len());
    let (before, rest) = steps.split_at(first);
    let (indexes, after): (Vec<&Pending>, Vec<&Pending>) = rest.iter().partition(|step| step.builds_index);
    for step in before {
        add(context, step, None).await?;
    }
    let share = memory_share(context, indexes.len());
    parallel::all(context, indexes.into_iter().map(|step| add(context, step, share).boxed()).collect()).await?;
    for step in after {
        add(context, step, share).await?;
    }
    let names = relations.names(&Generation::Staging);
    parallel::all(context, names.iter().map(|name| vacuum(context, relations, name).boxed()).collect()).await?;
    Ok(())
}

async fn vacuum(context: &Context, relations: &Relations, name: &str) -> Result<(), PhaseError> {
    context.say(format!("VACUUM {name}"));
    context.vacuum(&qualified(&relations.schema, name), "FREEZE, ANALYZE").await
}

/// Adds one detail to its staged relation, with so many megabytes of `maintenance_work_mem`.
async fn add(context: &Context, step: &Pending, megabytes: Option<u64>) -> Result<(), PhaseError> {
    context.safe_point()?;
    context.say(format!("adding {} to {}", step.what, step.relation));
    let mut work = context.work().await?;
    if let Some(megabytes) = megabytes {
        run_sql(&mut work, format!("SET LOCAL maintenance_work_mem = '{megabytes}MB'")).await?;
    }
    staging::apply(&mut work, step).await?;
    work.commit().await
}

/// What each of so many builds gets of `staging.maintenanceWorkMem`, in megabytes.
fn memory_share(context: &Context, builds: usize) -> Option<u64> {
    let at_once = parallel::limit(context).min(builds).max(1);
    let all = context.subject.portal.staging.maintenance_work_mem.as_ref()?.get();
    Some((all / u64::try_from(at_once).unwrap_or(1)).max(1))
}

async fn manifest(context: &Context, relations: &Relations, origin: ledger::staging::StagingOrigin) -> Result<Manifest, PhaseError> {
    let mut files = origin.files;
    let mut manifest = Manifest {
        portal: context.subject.portal_name.clone(),
        namespace: context.subject.namespace.clone(),
        label: context.label().0.clone(),
        started_at: context.subject.started_at.to_string(),
        validated_at: String::new(),
        definition: origin.definition,
        structure: origin.structure,
        source: snapshot::observe(context).await?,
        views: origin.views.into_iter().map(|(name, content)| (name, Part::from(content))).collect(),
        ..Manifest::default()
    };
    let parts = relations.tables.iter().map(|table| part(context, relations, table).boxed()).collect();
    manifest.tables.extend(parallel::all(context, parts).await?);
    let mut work = context.work().await?;
    for (name, account) in ledger::imports::accounts(&mut work, context.subject.release_id).await? {
        let file = files.remove(&name);
        manifest.imports.insert(name, Rows::new(&account, file));
    }
    manifest.validated_at = ledger::now(&mut work).await?;
    work.commit().await?;
    Ok(manifest)
}

/// What a staged table holds, with the table's live name.
async fn part(context: &Context, relations: &Relations, table: &str) -> Result<(String, Part), PhaseError> {
    context.say(format!("counting and hashing {table}"));
    let mut work = context.work().await?;
    let staged = qualified(&relations.schema, &Generation::Staging.name(table));
    let content = checksum::of_relation(&mut work, &staged).await?;
    work.commit().await?;
    Ok((table.to_owned(), Part::from(content)))
}
