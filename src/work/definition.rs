//! What a run works from: resolved once, kept in the ledger, and read from there by every phase. What is pinned and what is read live is
//! decided in [`crate::release::definition`].

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    api::{ConfigMapKeyRef, Import, JobSource, JobTemplateRef, PortalSpec, QuerySource, Sql},
    cluster::{self, ClusterError, EventType},
    database::{
        ledger::{self, definitions, definitions::Stored},
        lock::Fenced,
        template::{ReleaseVariables, TemplateContext},
    },
    release::{
        definition::{Pinned, Source, Sources},
        plan::{Again, is_planned, plan, replan},
    },
    text::hex,
    work::{Context, PhaseError},
};

/// The definition in the form that phases work with.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Templates of the materialized views, in building order.
    pub views: Vec<(String, String)>,
    /// The imports of ImportCore.
    pub core: Vec<ResolvedImport>,
    /// The imports of ImportRelated.
    pub related: Vec<ResolvedImport>,
    /// Hash over views and tables and what the release says about them.
    pub hash: String,
    /// Hash of each import.
    pub import_hashes: ByName<String>,
    /// Hash of the release's selection of imports.
    pub selection: String,
}

/// An import with the texts that it names.
#[derive(Clone, Debug)]
pub struct ResolvedImport {
    /// The import.
    pub import: Import,
    /// The template of its query; one from a file or by a Job has none.
    pub query: Option<String>,
    /// The template of its Job; only one by a Job has one.
    pub job: Option<String>,
}

impl ResolvedImport {
    /// An import whose texts are not needed.
    pub fn without_texts(import: &Import) -> Self {
        Self { import: import.clone(), query: None, job: None }
    }

    /// Where the template of its Job is, and the template; `None` for any other import.
    pub fn job(&self) -> Option<(&JobSource, &str)> {
        Some((self.import.job.as_ref()?, self.job.as_deref()?))
    }

    fn of(import: &Import, sources: &Sources) -> Result<Self, PhaseError> {
        let what = format!("import {}", import.name);
        let query = query(sources, &import.query, &import.query_from, &what)?;
        let job = import.job.as_ref().map(|job| template(sources, &job.template_config_map_ref, &what)).transpose()?;
        Ok(Self { import: import.clone(), query, job })
    }

    fn hash(&self) -> Result<String, PhaseError> {
        // Raising a limit is no reason to import again.
        let import = Import { max_rejected: "0%".into(), ..self.import.clone() };
        match &self.job {
            Some(job) => hash(&(&import, job)),
            None => hash(&(&import, &self.query)),
        }
    }
}

impl Definition {
    /// The definition that the attempt works from.
    ///
    /// # Errors
    /// When a ConfigMap or its key did not exist when it was resolved.
    pub fn of(context: &Context) -> Result<Self, PhaseError> {
        let (portal, spec, sources) = (&context.subject.portal, &context.subject.spec, &context.subject.sources);
        let mut views = Vec::new();
        for view in &portal.materialized_views {
            let sql = query(sources, &view.query, &view.query_from, &format!("materialized view {}", view.name))?.unwrap_or_default();
            views.push((view.name.0.clone(), sql));
        }
        let imports = |imports: &[Import]| imports.iter().map(|import| ResolvedImport::of(import, sources)).collect::<Result<Vec<_>, _>>();
        let (core, related) = (imports(&portal.imports.core)?, imports(&portal.imports.related)?);
        let hash = hash(&(&portal.tables, &portal.materialized_views, &views, (spec.imports.sample, &spec.views, &spec.staging)))?;
        let selection = self::hash(&(&spec.imports.only, &spec.imports.skip))?;
        let mut import_hashes = ByName::new();
        for one in core.iter().chain(&related) {
            import_hashes.insert(one.import.name.0.clone(), one.hash()?);
        }
        Ok(Self { views, core, related, hash, import_hashes, selection })
    }

    /// The imports of both phases.
    pub fn imports(&self) -> impl Iterator<Item = &ResolvedImport> {
        self.core.iter().chain(&self.related)
    }
}

/// Makes the attempt work from its run's definition. The first phase of a run, and the first one after a safe point, resolves it; a
/// clean-up works from what was resolved last.
///
/// # Errors
/// When the ledger or a ConfigMap cannot be read or written.
pub async fn pin(context: &mut Context) -> Result<(), PhaseError> {
    let run = context.subject.run.id;
    let stored = definitions::of_run(&mut *context.tools.database.pool().acquire().await?, run).await?;
    let pinned = match (stored, context.subject.attempt.unwinding) {
        (Some(Stored { pinned, stale: false }), _) if !(context.subject.run.reads_source() && pinned.lacks_sources()) => pinned,
        (Some(Stored { pinned, .. }), true) => pinned,
        // Nothing was resolved, so nothing but the objects says what there is to undo.
        (None, true) => return Ok(()),
        (former, false) => resolve(context, former).await?,
    };
    let read = pinned.specs(&context.subject.portal, &context.subject.spec);
    let (portal, spec) = read.map_err(|error| PhaseError::Refused(format!("the definition of this run cannot be read: {error}")))?;
    context.subject.portal = portal;
    context.subject.spec = spec;
    context.subject.sources = pinned.sources;
    Ok(())
}

async fn resolve(context: &mut Context, former: Option<Stored>) -> Result<Pinned, PhaseError> {
    // Not at a safe point, only what did not exist is read again.
    let kept = former.as_ref().filter(|former| !former.stale).map(|former| &former.pinned);
    let (portal, spec) = match kept {
        Some(kept) => kept.specs(&context.subject.portal, &context.subject.spec).map_err(|error| unpinnable(&error))?,
        None => (context.subject.portal.clone(), context.subject.spec.clone()),
    };
    // Queries are for what fills the staging: a rollback, or what follows the swap, does not fail for a ConfigMap that is gone.
    let sources = if context.subject.run.reads_source() {
        sources(context, &portal, kept.map(|kept| &kept.sources)).await?
    } else {
        former.as_ref().map(|former| former.pinned.sources.clone()).unwrap_or_default()
    };
    let pinned = Pinned::of(&portal, &spec, sources).map_err(|error| unpinnable(&error))?;
    let changed = former.map(|former| former.pinned.rewritten(&portal, &spec).differences(&pinned)).unwrap_or_default();
    let run = &context.subject.run;
    let recheck = run.reads_source() && run.has_built() && !changed.is_empty();
    let message = format!("changed since this run started or last stopped; in effect from now on: {}", changed.join(", "));
    let phases = replan(&run.phases, plan(run.kind, &portal, &spec), Again::Resume { reimport: false });
    let replanned = !is_planned(&run.phases, &phases);
    let attempt = context.subject.attempt;
    let write = async {
        let mut tx = context.tools.database.pool().begin().await?;
        if let Some(fence) = &context.control.fence {
            fence.check(&mut tx).await?;
        }
        definitions::define(&mut tx, attempt.run, &pinned).await?;
        if replanned {
            ledger::runs::write_plan(&mut tx, attempt.run, &phases).await?;
        }
        if recheck {
            ledger::phases::recheck(&mut tx, attempt.run).await?;
        }
        if !changed.is_empty() {
            ledger::event(&mut tx, attempt.release, Some(attempt.run), "DefinitionChanged", None, &message, Some(attempt.epoch)).await?;
        }
        Ok::<_, Fenced>(tx.commit().await?)
    };
    write.await?;
    if !changed.is_empty() {
        tracing::info!(label = %context.label(), "{}: {message}", context.label());
        context.tools.services.event(context.subject.object.clone(), EventType::Normal, "DefinitionChanged", message);
    }
    context.subject.run.recheck |= recheck;
    // Another phase may come first now, and this one may have no part in the run any more.
    if replanned { Err(PhaseError::Paused) } else { Ok(pinned) }
}

fn unpinnable(error: &serde_json::Error) -> PhaseError {
    PhaseError::Refused(format!("the Portal and the release cannot be written down: {error}"))
}

/// Reads every text that the views, imports and gates of a Portal name, once; those in `kept` are known already.
async fn sources(context: &Context, portal: &PortalSpec, kept: Option<&Sources>) -> Result<Sources, PhaseError> {
    let queries = portal.materialized_views.iter().map(|view| (format!("materialized view {}", view.name), &view.query, &view.query_from));
    let imports = || portal.imports.core.iter().chain(&portal.imports.related);
    let queries = queries.chain(imports().map(|import| (format!("import {}", import.name), &import.query, &import.query_from)));
    let queries = queries.filter_map(|(what, here, there)| match (here, there) {
        (None, Some(QuerySource { config_map_key_ref: ConfigMapKeyRef { name, key } })) => Some((what, name, key)),
        _ => None,
    });
    // Those of hooks are read when they run, as the hooks are.
    let jobs = imports().map(|import| (format!("import {}", import.name), &import.job));
    let jobs = jobs.chain(portal.gates.iter().map(|gate| (format!("gate {}", gate.name), &gate.job)));
    let jobs = jobs.filter_map(|(what, job)| {
        let JobTemplateRef { name, key } = &job.as_ref()?.template_config_map_ref;
        Some((what, name, key))
    });
    let mut sources = Sources::new();
    for (what, name, key) in queries.chain(jobs) {
        let place = place(name.as_str(), key.as_str());
        if sources.contains_key(&place) {
            continue;
        }
        let known = kept.and_then(|kept| kept.get(&place)).filter(|source| matches!(source, Source::Text(_)));
        let source = match known {
            Some(known) => known.clone(),
            None => {
                match cluster::read_config_map_key(&context.tools.client, &context.subject.namespace, name.as_str(), key.as_str()).await {
                    Ok(text) => Source::Text(text),
                    Err(error) if error.is_missing() => Source::Missing(error.to_string()),
                    Err(error) => return Err(unreadable(&what, &error)),
                }
            }
        };
        sources.insert(place, source);
    }
    Ok(sources)
}

fn place(name: &str, key: &str) -> String {
    format!("{name}/{key}")
}

fn query(sources: &Sources, here: &Option<Sql>, there: &Option<QuerySource>, what: &str) -> Result<Option<String>, PhaseError> {
    match (here, there) {
        (Some(sql), _) => Ok(Some(sql.0.clone())),
        (None, Some(QuerySource { config_map_key_ref: ConfigMapKeyRef { name, key } })) => {
            text(sources, name.as_str(), key.as_str(), what).map(Some)
        }
        (None, None) => Ok(None),
    }
}

/// The template of a Job that the run works from.
pub(crate) fn template(sources: &Sources, JobTemplateRef { name, key }: &JobTemplateRef, what: &str) -> Result<String, PhaseError> {
    text(sources, name.as_str(), key.as_str(), what)
}

fn text(sources: &Sources, name: &str, key: &str, what: &str) -> Result<String, PhaseError> {
    match sources.get(&place(name, key)) {
        Some(Source::Text(text)) => Ok(text.clone()),
        Some(Source::Missing(why)) => Err(PhaseError::Refused(format!("{what}: {why}"))),
        None => Err(PhaseError::Failed(format!("{what}: ConfigMap {name}, key {key} has not been read"))),
    }
}

/// Something of the cluster that `what` needs: only what is not there stays so.
pub(crate) fn unreadable(what: &str, error: &ClusterError) -> PhaseError {
    let text = format!("{what}: {error}");
    if error.is_missing() { PhaseError::Refused(text) } else { PhaseError::Failed(text) }
}

fn hash(of: &impl Serialize) -> Result<String, PhaseError> {
    let bytes = serde_json::to_vec(of).map_err(|error| PhaseError::Refused(format!("the Portal cannot be hashed: {error}")))?;
    Ok(hex(&Sha256::digest(bytes)))
}

/// What the templates of this release may use.
pub(crate) fn templates(context: &Context) -> TemplateContext {
    let relations = context.relations();
    TemplateContext {
        schema: relations.schema,
        tables: relations.tables,
        lookups: relations.lookups,
        views: context.subject.portal.materialized_views.iter().map(|view| view.name.0.clone()).collect(),
        create_staging: context.stages_views(),
        release: ReleaseVariables {
            label: context.label().0.clone(),
            date: context.subject.started_at.strftime("%Y-%m-%d").to_string(),
            id: context.subject.release_id.to_string(),
        },
        sample: context.subject.spec.imports.sample,
    }
}

/// By name.
pub type ByName<T> = BTreeMap<String, T>;
