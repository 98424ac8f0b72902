//! Files as import sources: opened here with what the cluster keeps, streamed into the staged table by the database's side.

use std::collections::BTreeMap;

use kube::Client;
use sqlx::PgConnection;

use crate::{
    api::{Csv, FileCompression, Import, ObjectStore},
    cluster,
    database::{
        csv::{self, Accounting, CsvError, Format},
        identifiers::Generation,
        import::{Counts, Rule, Target},
        ledger::{self, staging::FileRead},
        template::TemplateContext,
    },
    storage::{
        File, FileError,
        content::{Compression, Content},
        guard::Outbound,
        http, s3,
    },
    work::{
        Context, Definition, PhaseError, Work,
        definition::{self, ResolvedImport},
    },
};

/// Where files are looked for.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub client: &'a Client,
    pub namespace: &'a str,
    pub outbound: &'a Outbound,
    pub stores: &'a [ObjectStore],
}

impl<'a> From<&'a Context> for Place<'a> {
    fn from(context: &'a Context) -> Self {
        let (outbound, stores) = (&context.tools.services.outbound, context.subject.portal.object_stores.as_slice());
        Self { client: &context.tools.client, namespace: context.subject.namespace.as_str(), outbound, stores }
    }
}

/// An import's file, open for reading.
pub(crate) struct Source<'a> {
    import: &'a Import,
    csv: &'a Csv,
    content: Content,
}

/// Opens the import's file. Do it before a transaction begins: a server may take its time.
///
/// # Errors
/// When the Secret, the store or the file is not there, not for us, or does not answer.
pub(crate) async fn open<'a>(
    place: Place<'_>,
    templates: &TemplateContext,
    import: &'a Import,
    csv: &'a Csv,
) -> Result<Source<'a>, PhaseError> {
    let what = format!("import {}", import.name);
    let unreadable = |error| PhaseError::from(unreadable(import, error));
    let missing = |error| definition::unreadable(&what, &error);
    let rendered = |template: &str| templates.render(&what, template, None).map(|rendered| rendered.sql).map_err(PhaseError::from);
    let Place { client, namespace, outbound, stores } = place;
    let file = if let (Some(store), Some(path)) = (&csv.object_store_ref, &csv.path) {
        let store = stores.iter().find(|known| known.name == *store).ok_or_else(|| {
            PhaseError::Refused(format!(
                "{what}: the Portal has no object store {store}; add it to objectStores, or correct csv.objectStoreRef"
            ))
        })?;
        let secrets = cluster::read_secret(client, namespace, store.secret_ref.name.as_str()).await.map_err(missing)?;
        let opened = s3::open(outbound, &store.url, &secrets).map_err(unreadable)?;
        s3::read(opened.as_ref(), &store.url, &rendered(path)?).await.map_err(unreadable)?
    } else if let Some(url) = &csv.url {
        let header = match &csv.request_header {
            None => None,
            Some(header) => {
                let secret = &header.value_secret_ref;
                let value =
                    cluster::read_secret_key(client, namespace, secret.name.as_str(), secret.key.as_str()).await.map_err(missing)?;
                Some((header.name.as_str(), value))
            }
        };
        http::open(outbound, &rendered(url)?, header).await.map_err(unreadable)?
    } else if let Some(key) = &csv.config_map_key_ref {
        let content = cluster::read_config_map_file(client, namespace, key.name.as_str(), key.key.as_str()).await.map_err(missing)?;
        File::in_memory(format!("ConfigMap {namespace}/{}, key {}", key.name, key.key), content)
    } else {
        let none = "its csv section names no file; give it objectStoreRef and path, url, or configMapKeyRef";
        return Err(PhaseError::Refused(format!("{what}: {none}")));
    };
    let compression = match csv.compression {
        FileCompression::Auto => Compression::of_name(&file.name),
        FileCompression::None => Compression::None,
        FileCompression::Gzip => Compression::Gzip,
        FileCompression::Zstd => Compression::Zstd,
    };
    Ok(Source { import, csv, content: Content::new(file, compression) })
}

impl Source<'_> {
    /// Checks whether the file's columns fit a table, and the rules its columns. Reads no further than the header.
    ///
    /// # Errors
    /// When they do not, or the file cannot be read.
    pub(crate) async fn check(self, connection: &mut PgConnection, schema: &str, table: &str, rules: &[Rule]) -> Result<(), PhaseError> {
        let target = Target { import: self.import.name.as_str(), schema, table };
        Ok(csv::check(connection, target, self.content, &format(self.csv), rules).await?)
    }

    /// The import whose file it is.
    pub(crate) fn import(&self) -> &Import {
        self.import
    }

    /// It still is what an import has read. Where the server does not say so, the whole content does.
    async fn unchanged(self, then: &FileRead) -> Result<bool, FileError> {
        if then.revision.is_some() && then.revision.as_deref() == self.content.revision() {
            return Ok(true);
        }
        // The rest of a sample is unknown.
        let Some(sha256) = &then.sha256 else { return Ok(false) };
        let now = self.content.into_fingerprint().await?;
        Ok(now.is_some_and(|now| now.sha256 == *sha256))
    }

    /// Loads the file in the transaction of `work` and returns what became of its rows.
    ///
    /// # Errors
    /// When the file cannot be read or its rows do not fit; the transaction is spoilt then.
    pub(crate) async fn load(self, context: &Context, work: &mut Work, rules: &[Rule]) -> Result<Counts, PhaseError> {
        let staged = Generation::Staging.name(self.import.into.as_str());
        let sample = context.subject.spec.imports.sample.and_then(|rows| u64::try_from(rows).ok());
        let name = self.content.name().to_owned();
        let revision = self.content.revision().map(str::to_owned);
        let target = Target { import: self.import.name.as_str(), schema: context.subject.portal.database.schema.as_str(), table: &staged };
        let lookup = context.subject.portal.tables.lookup.contains(&self.import.into);
        let accepted = self.import.max_rejected.fraction();
        let format = format(self.csv);
        let loaded = if accepted > 0.0 || !rules.is_empty() || lookup {
            let accounting = Accounting { release: context.subject.release_id, rules, lookup, accepted };
            csv::load_accounted(work, target, self.content, &format, sample, &accounting).await
        } else {
            csv::load(work, target, self.content, &format, sample).await
        };
        let loaded = loaded?;
        match &loaded.sha256 {
            Some(sha256) => context.say(format!("import {}: {name}, sha256 {sha256}", self.import.name)),
            None => context.say(format!("import {}: the first {} rows of {name}", self.import.name, loaded.counts.read)),
        }
        let read = FileRead { name, revision, bytes: loaded.bytes, sha256: loaded.sha256 };
        ledger::staging::set_file(work, context.subject.release_id, self.import.name.as_str(), &read).await?;
        Ok(loaded.counts)
    }
}

/// The files that are not any more what their imports have read, named for people. Imports that are to run again, or are not settled,
/// read theirs again in any case.
///
/// # Errors
/// When a file cannot be read.
pub(crate) async fn changed(
    context: &Context,
    definition: &Definition,
    read: &BTreeMap<String, FileRead>,
    again: &[String],
) -> Result<Vec<String>, PhaseError> {
    let mut work = context.work().await?;
    let settled = ledger::imports::accounts(&mut work, context.subject.release_id).await?;
    work.commit().await?;
    let templates = definition::templates(context);
    let mut changed = Vec::new();
    for ResolvedImport { import, .. } in definition.imports().filter(|one| !again.contains(&one.import.name.0)) {
        let (Some(csv), Some(then)) = (&import.csv, read.get(import.name.as_str())) else { continue };
        if !settled.iter().any(|(name, _)| *name == import.name.0) {
            continue;
        }
        context.say(format!("comparing {} with what was imported", then.name));
        let now = open(context.into(), &templates, import, csv).await?;
        if !now.unchanged(then).await.map_err(|error| unreadable(import, error))? {
            changed.push(format!("{} of import {}", then.name, import.name));
        }
    }
    Ok(changed)
}

fn format(csv: &Csv) -> Format {
    Format {
        delimiter: csv.delimiter.bytes().next().unwrap_or(b','),
        null: csv.null_string.clone(),
        encoding: csv.encoding.clone(),
        columns: csv.columns.iter().map(|(from, to)| (from.clone(), to.0.clone())).collect(),
    }
}

fn unreadable(import: &Import, source: FileError) -> CsvError {
    CsvError::Read { import: import.name.0.clone(), source }
}
