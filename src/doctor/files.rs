//! The files that a release would import, checked as in Preflight.

use sqlx::PgConnection;

use super::{Line, Patient, Report};
use crate::{
    api::{Csv, Import},
    database::template::TemplateContext,
    imports::file::{Place, open},
    work::PhaseError,
};

pub(super) async fn examine(patient: &Patient, place: Place<'_>, connection: &mut PgConnection, report: &mut Report) {
    let imports = patient.portal.imports.core.iter().chain(&patient.portal.imports.related);
    for (import, csv) in imports.filter_map(|import| Some((import, import.csv.as_ref()?))) {
        let templates = patient.templates(patient.label.as_deref().unwrap_or_default());
        if patient.label.is_none() && rendered(&templates, csv) != rendered(&patient.templates("another"), csv) {
            report.add(Line::ok("files", format!("import {}: its file depends on the release; give a --label to check it", import.name)));
            continue;
        }
        report.add(match look(patient, place, &templates, import, csv, connection).await {
            Ok(()) => Line::ok("files", format!("the file of import {} can be read, and its header fits", import.name)),
            Err(error) => Line::fail("files", error.to_string(), "Preflight would fail with this message"),
        });
    }
}

/// Opens the file, and compares its header with the live table, whose columns its staged twin will have.
async fn look(
    patient: &Patient,
    place: Place<'_>,
    templates: &TemplateContext,
    import: &Import,
    csv: &Csv,
    connection: &mut PgConnection,
) -> Result<(), PhaseError> {
    let file = open(place, templates, import, csv).await?;
    // Rules may speak of staged tables, which are not there yet.
    file.check(connection, &patient.relations.schema, import.into.as_str(), &[]).await
}

/// Where the file is, as far as templates say so.
fn rendered(templates: &TemplateContext, csv: &Csv) -> Option<String> {
    let template = csv.path.as_ref().or(csv.url.as_ref())?;
    templates.render("file", template, None).ok().map(|rendered| rendered.sql)
}
