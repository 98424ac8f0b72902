//! Preflight: everything that can be checked before the first row is imported.

use super::{downloads, views::contents};
use crate::{
    api::{GatePhase, PhaseName, PhaseState},
    database::{
        checks::{GateFailure, gate, missing_relations},
        dependents, disk,
        identifiers::{Generation, Relations},
        import::{Target, check_rules, columns},
        ledger,
        portal_checks::{DataCheck, needed},
        staging::{build, build_lookup, drop_all},
        template::TemplateContext,
    },
    imports::{
        JobImport,
        file::{Source, open},
        order, rules,
    },
    text::counted,
    work::{
        Context, Definition, Done, PhaseError,
        definition::{ResolvedImport, templates},
        refuse, refuse_sentences,
    },
};

pub(super) async fn run(context: &Context) -> Result<Done, PhaseError> {
    let definition = Definition::of(context)?;
    let templates = templates(context);
    let schema = context.subject.portal.database.schema.as_str();
    let relations = context.relations();

    order::check(&context.subject.portal.imports)?;
    context.say("checking that the relations exist");
    let mut work = context.work().await?;
    let names = needed(&context.subject.portal);
    refuse(missing_relations(&mut work, schema, &names).await?)?;
    let mut obstacles = dependents::obstacles(&mut work, &relations, &Generation::Staging).await?;
    obstacles.extend(downloads::obstacle(&mut work, context).await?);
    let room = disk::room(&mut work, &relations, context.subject.portal.preflight.free_bytes_query()).await?;
    obstacles.extend(room.refusal());
    refuse_sentences(obstacles)?;
    work.commit().await?;

    let mut findings = Vec::new();
    let checks = DataCheck::all(&context.subject.portal.preflight);
    for check in &checks {
        context.say(check.doing());
        let mut work = context.work().await?;
        findings.extend(check.findings(&mut work, schema, &read_as(context, check.relation())).await?);
        work.commit().await?;
    }
    refuse(findings)?;

    let soft = gates(context, GatePhase::Preflight, &templates).await?;
    context.say("checking the imports' columns");
    import_columns(context, &definition, &templates).await?;

    let mut message = format!("{} relations, {} checks, {room}", names.len(), checks.len());
    if !context.stages_views() {
        // The imports read the live views: keep what they hold, to notice later that they have moved on.
        let views = contents(context, &definition).await?;
        let mut work = context.work().await?;
        let mut origin = ledger::staging::origin(&mut work, context.subject.release_id).await?;
        origin.views = views;
        ledger::staging::set_origin(&mut work, context.subject.release_id, &origin).await?;
        work.commit().await?;
    }
    message.push_str(&soft);
    context.work().await?.complete(&message).await
}

/// A materialized view of the Portal is checked as the imports read it: the staged twin where there is one.
fn read_as(context: &Context, name: &str) -> String {
    let is_view = context.subject.portal.materialized_views.iter().any(|view| view.name.as_str() == name);
    if is_view && context.stages_views() { Generation::Staging.name(name) } else { name.to_owned() }
}

/// Checks that every import's columns have their place in its target, on empty staged tables that are rolled back.
async fn import_columns(context: &Context, definition: &Definition, templates: &TemplateContext) -> Result<(), PhaseError> {
    let tables = Relations { views: Vec::new(), ..context.relations() };
    // Opened before the transaction begins; what is wrong with a file is said after what is wrong with the Portal.
    let files = files(context, definition, templates).await;
    let mut work = context.work().await?;
    drop_all(&mut work, &tables).await?;
    build(&mut work, &tables, true).await?;
    for lookup in &tables.lookups {
        build_lookup(&mut work, &tables.schema, lookup).await?;
    }
    for ResolvedImport { import, query, .. } in definition.imports() {
        let Some(source) = query else { continue };
        let what = format!("import {}", import.name);
        let sql = templates.render(&what, source, None)?.sql;
        let staged = Generation::Staging.name(import.into.as_str());
        let target = Target { import: import.name.as_str(), schema: &tables.schema, table: &staged };
        columns(&mut work, target, &sql).await?;
        check_rules(&mut work, target.import, &sql, &rules(import, templates)?).await?;
    }
    for file in files? {
        let staged = Generation::Staging.name(file.import().into.as_str());
        let rules = rules(file.import(), templates)?;
        file.check(&mut work, &tables.schema, &staged, &rules).await?;
    }
    // Nothing of it stays.
    work.rollback().await?;
    for one in running(context, definition) {
        if let Some((source, text)) = one.job() {
            JobImport::new(context, &one.import, source, text).check().await?;
        }
    }
    Ok(())
}

/// The imports that this release runs.
fn running<'a>(context: &'a Context, definition: &'a Definition) -> impl Iterator<Item = &'a ResolvedImport> {
    let runs = |phase| context.subject.run.state_of(phase) != Some(PhaseState::Skipped);
    let core = definition.core.iter().filter(move |_| runs(PhaseName::ImportCore));
    let related = definition.related.iter().filter(move |_| runs(PhaseName::ImportRelated));
    core.chain(related).filter(|one| context.subject.spec.imports.runs(&one.import.name))
}

/// The files of the imports that this release runs: hours of other imports should not come before one that cannot be read.
async fn files<'a>(context: &'a Context, definition: &'a Definition, templates: &TemplateContext) -> Result<Vec<Source<'a>>, PhaseError> {
    let mut opened = Vec::new();
    for ResolvedImport { import, .. } in running(context, definition) {
        if let Some(csv) = &import.csv {
            opened.push(open(context.into(), templates, import, csv).await?);
        }
    }
    Ok(opened)
}

/// Evaluates the gates of a phase. A hard one that does not pass is an error; soft ones are reported in the returned text.
pub(super) async fn gates(context: &Context, phase: GatePhase, templates: &TemplateContext) -> Result<String, PhaseError> {
    let mut text = String::new();
    let mut refused = Vec::new();
    let gates: Vec<_> = context.subject.portal.gates.iter().filter(|gate| gate.phase == phase).collect();
    for check in &gates {
        context.say(format!("evaluating gate {}", check.name));
        let what = format!("gate {}", check.name);
        let sql = templates.render(&what, check.sql.as_str(), None)?.sql;
        let mut work = context.work().await?;
        let answer = gate(&mut work, check.name.as_str(), &sql).await;
        work.commit().await?;
        match answer {
            Ok(()) => {}
            Err(error @ GateFailure::Technical { .. }) => return Err(PhaseError::Failed(error.to_string())),
            Err(error) if check.hard => refused.push(format!("hard {error}")),
            Err(error) => text.push_str(&format!("; soft {error}")),
        }
    }
    refuse_sentences(refused)?;
    Ok(format!(", {}{text}", counted(gates.len(), "gate")))
}
