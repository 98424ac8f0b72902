//! The files that a release would import, checked as in Preflight.

use sqlx::PgConnection;

use super::{Line, Report, Target};
use crate::{
    api::{Csv, Import},
    database::template::TemplateContext,
    imports::file::{Place, open},
    work::PhaseError,
};

pub(super) async fn examine(target: &Target, place: Place<'_>, connection: &mut PgConnection, report: &mut Report) {
    let imports = target.portal.imports.core.iter().chain(&target.portal.imports.related);
    for (import, csv) in imports.filter_map(|import| Some((import, import.csv.as_ref()?))) {
        let templates = target.templates(target.label.as_deref().unwrap_or_default());
        if target.label.is_none() && rendered(&templates, csv) != rendered(&target.templates("another"), csv) {
            report.add(Line::ok("files", format!("import {}: its file depends on the release; add --label to check it", import.name)));
            continue;
        }
        report.add(match check(target, place, &templates, import, csv, connection).await {
            Ok(()) => Line::ok("files", format!("the file of import {} can be read, and its header fits", import.name)),
            Err(error) => Line::fail("files", error.to_string(), "Preflight would fail with this message"),
        });
    }
}

/// Opens the file, and compares its header with the live table, whose columns its staged twin will have.
async fn check(
    target: &Target,
    place: Place<'_>,
    templates: &TemplateContext,
    import: &Import,
    csv: &Csv,
    connection: &mut PgConnection,
) -> Result<(), PhaseError> {
    let file = open(place, templates, import, csv).await?;
    // Rules may name staged tables, which do not exist yet.
    file.check(connection, &target.relations.schema, import.into.as_str(), &[]).await
}

/// Where the file is, as far as templates say so.
fn rendered(templates: &TemplateContext, csv: &Csv) -> Option<String> {
    let template = csv.path.as_ref().or(csv.url.as_ref())?;
    templates.render("file", template, None).ok().map(|rendered| rendered.sql)
}
