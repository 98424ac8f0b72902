//! What Preflight would reject a release for: the one list of findings, and the gates that can be evaluated read-only.

use sqlx::PgConnection;

use super::{Line, Report, Target};
use crate::{
    api::{Gate, GatePhase},
    checks::{
        Answer, Probe, ask_backup, ask_contract, ask_sql,
        examine::{Examined, Item},
    },
    finding::{Finding, Level},
};

pub(super) async fn examine(target: &Target, connection: &mut PgConnection, report: &mut Report) {
    let templates = target.templates(target.label.as_deref().unwrap_or("doctor"));
    // There are no staged twins: what is live stands for them.
    let of = Examined { portal: &target.portal, relations: &target.relations, templates: &templates, staged_views: false };
    let (mut good, mut data) = (0, 0);
    for item in Item::stages(&target.portal).into_iter().flatten().filter(|item| !item.needs_writing()) {
        let findings = item.examine(&of, connection).await;
        if matches!(item, Item::Data(_)) {
            data += 1;
            good += usize::from(findings.as_ref().is_ok_and(Vec::is_empty));
        }
        report.found(item.name(), findings);
    }
    if good > 0 {
        report.add(Line::ok("data", format!("{good} of {data} checks pass on what is live")));
    }
    for gate in target.portal.gates.iter().filter(|gate| gate.phase == GatePhase::Preflight) {
        let finding = ask(target, gate, connection).await;
        report.add(Line { check: "gates", finding });
    }
}

async fn ask(target: &Target, gate: &Gate, connection: &mut PgConnection) -> Finding {
    let object = format!("{} gate {}", if gate.hard { "hard" } else { "soft" }, gate.name);
    let templates = target.templates(target.label.as_deref().unwrap_or("doctor"));
    let answer = match Probe::of_gate(gate, target.portal.contract.as_ref()) {
        Some(Probe::Sql(template)) => match templates.render(&object, template, None) {
            Ok(rendered) => ask_sql(connection, &object, &rendered.sql).await,
            Err(error) => Answer::Failed(Finding::fail("", error.to_string(), "correct the gate's SQL in the Portal")),
        },
        Some(Probe::Contract(contract)) => ask_contract(connection, &object, contract).await,
        Some(Probe::Backup(backup)) => ask_backup(connection, &object, backup).await,
        Some(Probe::Http(..) | Probe::Job(..)) | None => {
            return Finding::ok(format!("{} is evaluated by a release only: it may change something", gate.name));
        }
    };
    let level = if gate.hard { Level::Fail } else { Level::Warn };
    match answer {
        Answer::Passed(_) => Finding::ok(format!("{} passes", gate.name)),
        Answer::Failed(finding) | Answer::NoData(finding) | Answer::Refused(finding) => finding.at(level),
        Answer::Error(finding) => Finding { next_step: "fix the cause and run doctor again".to_owned(), ..finding },
    }
}
