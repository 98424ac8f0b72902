//! RefreshViews and CreateStagingViews.

use std::collections::BTreeMap;

use crate::{
    database::{
        checksum::{self, Content},
        identifiers::{Generation, Relations, qualified},
        ledger, staging,
        views::{MaterializedViewSpec, create_staged, drop_staged, refresh_live},
    },
    work::{
        Context, Definition, Done, PhaseError, Work,
        definition::{ByName, templates},
    },
};

/// Refreshes the live materialized views, concurrently, in the order of the Portal.
pub(super) async fn refresh(context: &Context) -> Result<Done, PhaseError> {
    let schema = context.subject.portal.database.schema.as_str();
    let mut names = Vec::new();
    for view in &context.subject.portal.materialized_views {
        context.safe_point()?;
        context.say(format!("refreshing {}", view.name));
        let mut work = context.work().await?;
        refresh_live(&mut work, schema, view.name.as_str(), true).await?;
        work.commit().await?;
        names.push(view.name.as_str());
    }
    context.work().await?.complete(&format!("refreshed {}", names.join(", "))).await
}

/// Builds the staged twins in one transaction and keeps what they hold: a later standstill compares it with the source.
pub(super) async fn create(context: &Context) -> Result<Done, PhaseError> {
    let definition = Definition::of(context)?;
    let templates = templates(context);
    let relations = context.relations();
    // One snapshot for all of them, also of tables of this very database.
    let mut work = context.guard(context.tools.database.pool().begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?).await?;
    claim(&mut work, context).await?;
    drop_staging(&mut work, context, &relations).await?;
    let mut views = ByName::new();
    for (view, (name, source)) in context.subject.portal.materialized_views.iter().zip(&definition.views) {
        context.say(format!("building the staged twin of {name}"));
        let sql = templates.render(&format!("materialized view {name}"), source, None)?.sql;
        let spec =
            MaterializedViewSpec { name: name.clone(), unique_key: view.unique_key.iter().map(|column| column.0.clone()).collect(), sql };
        create_staged(&mut work, &relations.schema, &spec).await?;
        let twin = qualified(&relations.schema, &Generation::Staging.name(name));
        views.insert(name.clone(), checksum::of_relation(&mut work, &twin).await?);
    }
    let message = format!("{} views staged with {} rows", views.len(), rows(&views));
    let origin = ledger::staging::StagingOrigin { definition: Some(definition.hash), views, ..ledger::staging::StagingOrigin::default() };
    ledger::staging::set_origin(&mut work, context.subject.release_id, &origin).await?;
    work.complete(&message).await
}

/// Drops the staged twins.
pub(super) async fn undo_create(context: &Context) -> Result<Done, PhaseError> {
    let relations = context.relations();
    let mut work = context.work().await?;
    if ledger::staging::owns_staging(&mut work, &context.key(), context.subject.release_id).await? {
        drop_staged(&mut work, &relations.schema, &relations.views).await?;
        ledger::staging::own_staging(&mut work, &context.key(), None).await?;
    }
    work.complete("staged views dropped").await
}

/// Takes over the staging, which belongs to no release or to one that is over. What the ledger does not know was created by something
/// else and is not touched.
pub(super) async fn claim(work: &mut Work, context: &Context) -> Result<(), PhaseError> {
    let foreign = ledger::staging::foreign_staging(work, &context.key(), &context.all_relations()).await?;
    if let Some(finding) = ledger::staging::foreign_finding(&foreign) {
        return Err(PhaseError::Refused(format!("{finding}, then raise spec.retry")));
    }
    ledger::staging::own_staging(work, &context.key(), Some(context.subject.release_id)).await?;
    Ok(())
}

/// Drops what an earlier release, or an earlier attempt, staged: tables first, since none of them depends on the views.
pub(super) async fn drop_staging(work: &mut Work, context: &Context, relations: &Relations) -> Result<(), PhaseError> {
    let all = Relations { views: context.all_relations().views, ..relations.clone() };
    Ok(staging::drop_all(work, &all).await?)
}

/// What the views that the imports read hold now; for staged twins, what their queries return now.
pub(super) async fn contents(context: &Context, definition: &Definition) -> Result<BTreeMap<String, Content>, PhaseError> {
    let templates = templates(context);
    let schema = context.subject.portal.database.schema.as_str();
    let mut contents = BTreeMap::new();
    for (name, source) in &definition.views {
        context.say(format!("comparing {name} with its source"));
        let mut work = context.work().await?;
        let content = if context.stages_views() {
            let sql = templates.render(&format!("materialized view {name}"), source, None)?.sql;
            checksum::of_query(&mut work, &sql).await
        } else {
            checksum::of_relation(&mut work, &qualified(schema, name)).await
        };
        contents.insert(name.clone(), content?);
        work.commit().await?;
    }
    Ok(contents)
}

pub(super) fn rows(views: &BTreeMap<String, Content>) -> i64 {
    views.values().map(|content| content.rows).sum()
}
