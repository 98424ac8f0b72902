//! Files as import sources: they are opened here, and streamed into the staged table.

use super::{Context, PhaseError, of_database};
use crate::{
    api::{Csv, Import},
    cluster,
    database::{csv, identifiers::Generation, import::Target, template::TemplateContext},
};

/// Loads the import's file in the transaction of `work` and returns how many rows it had.
///
/// # Errors
/// When the file cannot be read or its rows do not fit; the transaction is spoilt then.
pub(super) async fn load(
    context: &Context,
    templates: &TemplateContext,
    import: &Import,
    file: &Csv,
    work: &mut super::Work,
) -> Result<u64, PhaseError> {
    let what = format!("import {}", import.name);
    let store = context.portal.object_stores.iter().find(|store| store.name == file.object_store_ref).ok_or_else(|| {
        PhaseError::Refused(format!("{what}: the Portal has no object store {}; add it to objectStores", file.object_store_ref))
    })?;
    let secrets = cluster::read_secret(&context.client, &context.namespace, store.secret_ref.name.as_str())
        .await
        .map_err(|error| PhaseError::Failed(format!("{what}: {error}")))?;
    let path = templates.render(&what, &file.path, None).map_err(of_database)?.sql;
    let opened = csv::open(&store.url, &secrets).map_err(|error| PhaseError::Refused(error.to_string()))?;
    let staged = Generation::Staging.name(import.into.as_str());
    let target = Target { import: import.name.as_str(), schema: context.portal.database.schema.as_str(), table: &staged };
    let loaded = csv::load(work, target, opened.as_ref(), &path).await.map_err(csv_error)?;
    context.say(format!("{what}: {path}, sha256 {}", loaded.sha256));
    Ok(loaded.rows)
}

/// An object store that does not answer may answer later; a file that is not there, or not for us, stays so, as does what it says.
fn csv_error(error: csv::CsvError) -> PhaseError {
    use object_store::Error::{NotFound, PermissionDenied, Unauthenticated};
    match error {
        csv::CsvError::Read { source: NotFound { .. } | PermissionDenied { .. } | Unauthenticated { .. }, .. } => {
            PhaseError::Refused(error.to_string())
        }
        csv::CsvError::Read { .. } => PhaseError::Failed(error.to_string()),
        error => of_database(error),
    }
}
