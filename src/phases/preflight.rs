//! Preflight: everything that can be checked before the first row is imported.

use super::{gates, views::contents};
use crate::{
    api::{GatePhase, PhaseName, PhaseState},
    checks::{
        check_templates,
        examine::{Examined, Item},
    },
    database::{
        identifiers::{Generation, Relations},
        import::{Target, check_rules, columns},
        ledger,
        portal_checks::DataCheck,
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
        refuse,
    },
};

pub(super) async fn run(context: &Context) -> Result<Done, PhaseError> {
    let definition = Definition::of(context)?;
    let templates = templates(context);
    let of = Examined {
        portal: &context.subject.portal,
        relations: &context.relations(),
        templates: &templates,
        staged_views: context.stages_views(),
    };
    let mut said = Vec::new();
    order::check(&context.subject.portal.imports)?;
    for stage in Item::stages(&context.subject.portal) {
        let mut findings = Vec::new();
        for item in stage {
            context.say(item.doing());
            let mut work = context.work().await?;
            findings.extend(item.examine(&of, &mut work).await?);
            work.commit().await?;
        }
        said.extend(findings.iter().filter(|finding| !finding.is_failure()).map(ToString::to_string));
        refuse(findings)?;
    }
    context.say("checking the templates of Jobs");
    said.extend(check_templates(context).await?);
    let gates = gates::pass(context, GatePhase::Preflight).await?;
    context.say("checking the imports' columns");
    said.extend(import_columns(context, &definition, &templates).await?);

    if !context.stages_views() {
        // The imports read the live views: keep what they hold, to notice later that they have moved on.
        let views = contents(context, &definition).await?;
        let mut work = context.work().await?;
        let mut origin = ledger::staging::origin(&mut work, context.subject.release_id).await?;
        origin.views = views;
        ledger::staging::set_origin(&mut work, context.subject.release_id, &origin).await?;
        work.commit().await?;
    }
    let checks = counted(DataCheck::all(&context.subject.portal.preflight).len(), "check");
    context.work().await?.complete(&format!("{}, {checks}{gates}", said.join(", "))).await
}

/// Checks that every import's columns have their place in its target, on empty staged tables that are rolled back. Returns which Jobs of
/// imports could not be tried out.
async fn import_columns(context: &Context, definition: &Definition, templates: &TemplateContext) -> Result<Vec<String>, PhaseError> {
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
    let mut said = Vec::new();
    for one in running(context, definition) {
        if let Some((source, text)) = one.job() {
            said.extend(JobImport::new(context, &one.import, source, text).check().await?);
        }
    }
    Ok(said)
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
