//! ValidateAndManifest: completes the staged tables, checks that they may go live and writes the manifest.

use sha2::{Digest, Sha256};

use super::{
    Context, Done, PhaseError,
    definition::{hex, templates},
    manifest::{Manifest, Part},
    of_database, preflight,
};
use crate::{
    api::GatePhase,
    database::{
        catalog,
        checks::{GeometryRule, geometry, max_shrink, non_empty},
        checksum,
        identifiers::{Generation, Relations, qualified},
        ledger, staging,
        swap::horizon,
    },
};

pub(super) async fn run(context: &Context) -> Result<Done, PhaseError> {
    let relations = context.relations();
    let schema = relations.schema.as_str();
    complete(context, &relations).await?;

    let mut work = context.work().await?;
    let mut origin = ledger::staging::origin(&mut work, context.release).await?;
    origin.horizon = Some(horizon(&mut work).await.map_err(of_database)?);
    ledger::staging::set_origin(&mut work, context.release, &origin).await?;
    let tables = Relations { views: Vec::new(), ..relations.clone() };
    let structure = catalog::fingerprint(&mut work, &tables).await.map_err(of_database)?;
    if origin.structure.as_ref().is_some_and(|then| *then != structure) {
        return Err(PhaseError::Stale(
            "the structure of the live tables has changed since the staging was built: it is built again".to_owned(),
        ));
    }
    let differences = catalog::diff(&mut work, &relations, &Generation::Staging).await.map_err(of_database)?;
    preflight::refuse_sentences(differences.iter().map(ToString::to_string).collect())?;
    work.commit().await?;

    let mut findings = Vec::new();
    let validation = &context.portal.validation;
    for table in &validation.non_empty {
        let mut work = context.work().await?;
        findings.extend(non_empty(&mut work, schema, &Generation::Staging.name(table.as_str())).await.map_err(of_database)?);
        work.commit().await?;
    }
    for check in &validation.geometry {
        context.say(format!("checking the geometry of {}", check.table));
        let rule = GeometryRule { column: check.column.as_str(), srid: None, nullable: false };
        let mut work = context.work().await?;
        findings.extend(geometry(&mut work, schema, &Generation::Staging.name(check.table.as_str()), rule).await.map_err(of_database)?);
        work.commit().await?;
    }
    for (table, share) in &validation.max_shrink {
        let mut work = context.work().await?;
        findings
            .extend(max_shrink(&mut work, schema, table, &Generation::Staging.name(table), share.fraction()).await.map_err(of_database)?);
        work.commit().await?;
    }
    preflight::refuse(findings)?;
    let gates = preflight::gates(context, GatePhase::ValidateAndManifest, &templates(context)).await?;

    let manifest = manifest(context, &relations, origin).await?;
    let text = manifest.text()?;
    let sha256 = hex(&Sha256::digest(text.as_bytes()));
    let rows: i64 = manifest.tables.values().map(|part| part.rows).sum();
    let mut work = context.work().await?;
    ledger::staging::set_manifest(&mut work, context.release, &text, &sha256).await?;
    work.complete(&format!("{rows} rows in {} tables{gates}; manifest sha256 {sha256}", manifest.tables.len())).await
}

/// Indexes, keys and triggers where staging lacks them; then statistics and the visibility map, which survive the swap.
async fn complete(context: &Context, relations: &Relations) -> Result<(), PhaseError> {
    let mut work = context.work().await?;
    let steps = staging::pending(&mut work, relations).await.map_err(of_database)?;
    work.commit().await?;
    for step in steps {
        context.safe_point()?;
        context.say(format!("adding {} to {}", step.what, step.relation));
        let mut work = context.work().await?;
        staging::apply(&mut work, &step).await.map_err(of_database)?;
        work.commit().await?;
    }
    for name in relations.names(&Generation::Staging) {
        context.say(format!("VACUUM {name}"));
        context.vacuum(&qualified(&relations.schema, &name), "FREEZE, ANALYZE").await?;
    }
    Ok(())
}

async fn manifest(context: &Context, relations: &Relations, origin: ledger::staging::StagingOrigin) -> Result<Manifest, PhaseError> {
    let mut manifest = Manifest {
        portal: context.portal_name.clone(),
        namespace: context.namespace.clone(),
        label: context.label().0.clone(),
        started_at: context.started_at.to_string(),
        validated_at: String::new(),
        definition: origin.definition,
        structure: origin.structure,
        views: origin.views.into_iter().map(|(name, content)| (name, Part::from(content))).collect(),
        ..Manifest::default()
    };
    for table in &relations.tables {
        context.say(format!("counting and hashing {table}"));
        let mut work = context.work().await?;
        let content =
            checksum::of_relation(&mut work, &qualified(&relations.schema, &Generation::Staging.name(table))).await.map_err(of_database)?;
        work.commit().await?;
        manifest.tables.insert(table.clone(), Part::from(content));
    }
    let mut work = context.work().await?;
    for (name, account) in ledger::imports::accounts(&mut work, context.release).await? {
        manifest.imports.insert(name, account.into());
    }
    manifest.validated_at = ledger::now(&mut work).await?;
    work.commit().await?;
    Ok(manifest)
}
