//! What the Portal and the release say about views, tables and imports, with the queries fetched from their ConfigMaps.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    api::{ConfigMapKeyRef, DataKey, Import, JobSource, JobTemplateRef, ObjectName, QuerySource, Sql},
    cluster::{self, ClusterError},
    database::template::{ReleaseVariables, TemplateContext},
    text::hex,
    work::{Context, PhaseError},
};

/// The resolved definition.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Templates of the materialized views, in building order.
    pub views: Vec<(String, String)>,
    /// The imports with their query templates; one from a file or by a Job has none.
    pub core: Vec<(Import, Option<String>)>,
    /// As `core`.
    pub related: Vec<(Import, Option<String>)>,
    /// The templates of imports by a Job, by the import's name.
    pub jobs: ByName<String>,
    /// Hash over views and tables and what the release says about them.
    pub hash: String,
    /// Hash of each import.
    pub import_hashes: ByName<String>,
    /// Hash of the release's selection of imports.
    pub selection: String,
}

impl Definition {
    /// Fetches the queries.
    ///
    /// # Errors
    /// When a ConfigMap or its key is not there.
    pub async fn resolve(context: &Context) -> Result<Self, PhaseError> {
        let mut views = Vec::new();
        for view in &context.subject.portal.materialized_views {
            let sql = query(context, &view.query, &view.query_from, &format!("materialized view {}", view.name)).await?.unwrap_or_default();
            views.push((view.name.0.clone(), sql));
        }
        let core = imports(context, &context.subject.portal.imports.core).await?;
        let related = imports(context, &context.subject.portal.imports.related).await?;
        let mut jobs = ByName::new();
        for import in context.subject.portal.imports.core.iter().chain(&context.subject.portal.imports.related) {
            if let Some(job) = &import.job {
                let JobTemplateRef { name, key } = &job.template_config_map_ref;
                jobs.insert(import.name.0.clone(), config_map_key(context, name, key, &format!("import {}", import.name)).await?);
            }
        }
        let hash = hash(&(
            &context.subject.portal.tables,
            &context.subject.portal.materialized_views,
            &views,
            (context.subject.spec.imports.sample, &context.subject.spec.views, &context.subject.spec.staging),
        ))?;
        let selection = self::hash(&(&context.subject.spec.imports.only, &context.subject.spec.imports.skip))?;
        let mut import_hashes = ByName::new();
        for (import, sql) in core.iter().chain(&related) {
            // Raising a limit is no reason to import again.
            let import = Import { max_rejected: "0%".into(), ..import.clone() };
            import_hashes.insert(
                import.name.0.clone(),
                match jobs.get(import.name.as_str()) {
                    Some(job) => self::hash(&(&import, job))?,
                    None => self::hash(&(&import, sql))?,
                },
            );
        }
        Ok(Self { views, core, related, jobs, hash, import_hashes, selection })
    }

    /// Where the template of an import's Job is, and the template; `None` for any other import.
    pub fn job<'a>(&'a self, import: &'a Import) -> Option<(&'a JobSource, &'a str)> {
        Some((import.job.as_ref()?, self.jobs.get(import.name.as_str())?.as_str()))
    }

    /// The imports of both phases.
    pub fn imports(&self) -> impl Iterator<Item = &(Import, Option<String>)> {
        self.core.iter().chain(&self.related)
    }
}

async fn imports(context: &Context, imports: &[Import]) -> Result<Vec<(Import, Option<String>)>, PhaseError> {
    let mut resolved = Vec::new();
    for import in imports {
        let sql = query(context, &import.query, &import.query_from, &format!("import {}", import.name)).await?;
        resolved.push((import.clone(), sql));
    }
    Ok(resolved)
}

async fn query(context: &Context, here: &Option<Sql>, there: &Option<QuerySource>, what: &str) -> Result<Option<String>, PhaseError> {
    match (here, there) {
        (Some(sql), _) => Ok(Some(sql.0.clone())),
        (None, Some(QuerySource { config_map_key_ref: ConfigMapKeyRef { name, key } })) => {
            config_map_key(context, name, key, what).await.map(Some)
        }
        (None, None) => Ok(None),
    }
}

async fn config_map_key(context: &Context, name: &ObjectName, key: &DataKey, what: &str) -> Result<String, PhaseError> {
    let read = cluster::read_config_map_key(&context.tools.client, &context.subject.namespace, name.as_str(), key.as_str()).await;
    read.map_err(|error| unreadable(what, &error))
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
