//! The rows that a release would read: the Portal's preflight checks and gates, on the live views.

use sqlx::PgConnection;

use super::{Line, Patient, Report};
use crate::{
    api::GatePhase,
    database::{
        checks::{GateFailure, gate},
        portal_checks::DataCheck,
    },
};

pub(super) async fn examine(patient: &Patient, connection: &mut PgConnection, report: &mut Report) {
    let schema = patient.relations.schema.as_str();
    let checks = DataCheck::all(&patient.portal.preflight);
    let mut good = 0;
    for check in &checks {
        match check.findings(connection, schema, check.relation()).await {
            Ok(findings) if findings.is_empty() => good += 1,
            Ok(findings) => {
                for finding in findings {
                    report.add(Line::fail("data", format!("{}: {}", finding.object, finding.problem), finding.next_step));
                }
            }
            Err(error) => report.add(Line::blind("data", &error)),
        }
    }
    if good > 0 {
        report.add(Line::ok("data", format!("{good} of {} checks pass on what is live", checks.len())));
    }
    let templates = patient.templates(patient.label.as_deref().unwrap_or("doctor"));
    for check in patient.portal.gates.iter().filter(|gate| gate.phase == GatePhase::Preflight) {
        let sql = match templates.render(&format!("gate {}", check.name), check.sql.as_str(), None) {
            Ok(rendered) => rendered.sql,
            Err(error) => {
                report.add(Line::fail("gates", error.to_string(), "correct the gate's SQL in the Portal"));
                continue;
            }
        };
        report.add(match gate(connection, check.name.as_str(), &sql).await {
            Ok(()) => Line::ok("gates", format!("{} passes", check.name)),
            Err(error @ GateFailure::Technical { .. }) => Line::blind("gates", &error),
            Err(error) if check.hard => Line::fail("gates", format!("hard {error}"), "make it true, or correct the gate in the Portal"),
            Err(error) => Line::warn("gates", format!("soft {error}"), "a release continues and reports it"),
        });
    }
}
