//! The plan of a run, and the table of phases.

use proptest::prelude::*;

use super::*;

#[test]
fn the_plan_holds_every_phase_in_order() {
    assert_eq!(names(&planned_run(RunKind::Release, &portal(), &spec())), PhaseName::ALL);
    assert_eq!(runs(&planned_run(RunKind::Release, &portal(), &spec())), PhaseName::ALL);
}

#[test]
fn the_golden_sequence_freezes_before_the_preflight() {
    let mut golden = portal();
    golden.freeze.before = FreezeBefore::Preflight;
    let planned = names(&planned_run(RunKind::Release, &golden, &spec()));
    let position = |wanted: PhaseName| planned.iter().position(|&name| name == wanted).unwrap();
    assert_eq!(position(PhaseName::Freeze) + 1, position(PhaseName::Preflight));
    assert_eq!(planned.len(), PhaseName::ALL.len());
}

#[test]
fn what_a_portal_does_not_have_is_skipped_with_the_reason() {
    let bare: PortalSpec =
        serde_json::from_value(json!({"database": {"connectionSecretRef": {"name": "db", "key": "url"}}, "tables": {"main": ["areas"]}}))
            .unwrap();
    for planned in planned_run(RunKind::Release, &bare, &spec()) {
        let expected = matches!(
            planned.phase,
            PhaseName::RefreshViews
                | PhaseName::CreateStagingViews
                | PhaseName::ImportCore
                | PhaseName::ImportRelated
                | PhaseName::Freeze
                | PhaseName::CreateDownloadsView
                | PhaseName::Scale
        );
        assert_eq!(planned.skipped.is_some(), expected, "{planned:?}");
    }
}

#[test]
fn a_dry_run_ends_with_the_manifest_and_a_free_lock() {
    let dry = PortalReleaseSpec { dry_run: true, ..spec() };
    let planned = runs(&planned_run(RunKind::Release, &portal(), &dry));
    assert_eq!(planned.last(), Some(&PhaseName::ReleaseLock));
    assert!(planned.contains(&PhaseName::ValidateAndManifest));
    assert!(!planned.contains(&PhaseName::Freeze) && !planned.contains(&PhaseName::FinaliseSwap));
}

#[test]
fn a_swap_brings_its_validation_its_freeze_and_its_thaw() {
    let mut only = spec();
    only.phases.only = vec![PhaseName::FinaliseSwap];
    assert_eq!(
        runs(&planned_run(RunKind::Release, &portal(), &only)),
        [
            PhaseName::AcquireLock,
            PhaseName::ValidateAndManifest,
            PhaseName::Freeze,
            PhaseName::FinaliseSwap,
            PhaseName::Scale,
            PhaseName::ReleaseLock
        ]
    );
}

#[test]
fn a_retry_keeps_what_still_holds() {
    let failed = fail(at(PhaseName::ImportRelated, PhaseState::Running), PhaseName::ImportRelated, 99, 60);
    let before = failed.run.unwrap().phases;
    let states = |fresh| -> Vec<PhaseName> {
        replan(
            &before,
            planned_run(RunKind::Release, &portal(), &spec()),
            if fresh { Again::Fresh } else { Again::Resume { reimport: false } },
        )
        .into_iter()
        .filter(|start| start.state == PhaseState::Succeeded)
        .map(|start| start.phase)
        .collect()
    };
    assert_eq!(
        states(false),
        [PhaseName::RefreshViews, PhaseName::CreateStagingViews, PhaseName::Preflight, PhaseName::BuildStaging, PhaseName::ImportCore]
    );
    assert!(states(true).is_empty());
}

#[test]
fn every_phase_that_stops_workers_names_what_brings_them_back() {
    assert_eq!(facts(PhaseName::Freeze).undo, Undo::AlwaysUnless(PhaseName::Scale));
}

#[test]
fn the_table_has_a_row_for_each_phase_in_order() {
    assert_eq!(PHASES.each_ref().map(|facts| facts.phase), PhaseName::ALL);
    for row in &PHASES {
        assert!(!row.done.is_empty(), "{}", row.phase);
        assert_eq!(PHASES.iter().filter(|other| other.done == row.done).count(), 1, "{}: recorders fold events of one reason", row.done);
    }
    let vital: Vec<PhaseName> = super::super::phases::phases(|facts| facts.selection != Selection::Free).collect();
    assert_eq!(vital, PhaseName::NEVER_SKIPPED, "what the schema's rule for phases.skip names");
}

#[test]
fn a_rollback_undoes_what_a_release_did_and_a_roll_forward_does_it_again() {
    let entries = |kind| planned_run(kind, &portal(), &spec()).into_iter().map(|entry| (entry.phase, entry.direction)).collect::<Vec<_>>();
    let with = |swap| {
        vec![
            (PhaseName::AcquireLock, Direction::Do),
            (PhaseName::Preflight, Direction::Do),
            (PhaseName::Freeze, Direction::Do),
            (PhaseName::FinaliseSwap, swap),
            (PhaseName::Scale, Direction::Do),
            (PhaseName::PostSwap, Direction::Do),
            (PhaseName::ReleaseLock, Direction::Do),
        ]
    };
    assert_eq!(entries(RunKind::Rollback), with(Direction::Undo));
    assert_eq!(entries(RunKind::RollForward), with(Direction::Do));
}

#[test]
fn what_cannot_be_undone_is_known_before_anything_runs() {
    let undone_by = |portal: &PortalSpec, release: &PortalReleaseSpec, phase| {
        planned_run(RunKind::Release, portal, release).into_iter().find(|entry| entry.phase == phase).unwrap().undone_by
    };
    assert!(matches!(undone_by(&portal(), &spec(), PhaseName::FinaliseSwap), UndoneBy::By(_)));
    assert!(matches!(undone_by(&portal(), &spec(), PhaseName::BuildStaging), UndoneBy::By(_)));
    assert_eq!(undone_by(&portal(), &spec(), PhaseName::AcquireLock), UndoneBy::Nothing);
    let mut without = spec();
    without.retention.keep_backups = Some(0);
    assert!(
        matches!(undone_by(&portal(), &without, PhaseName::FinaliseSwap), UndoneBy::Impossible(why) if why.contains("keepBackups is 0"))
    );
}

#[test]
fn a_dry_run_changes_nothing_that_readers_or_workers_see_wherever_freeze_stands() {
    for before in [FreezeBefore::Preflight, FreezeBefore::BuildStaging, FreezeBefore::FinaliseSwap] {
        let mut portal = portal();
        portal.freeze.before = before;
        let dry = PortalReleaseSpec { dry_run: true, ..spec() };
        for phase in runs(&planned_run(RunKind::Release, &portal, &dry)) {
            assert!(!facts(phase).changes_live && facts(phase).in_dry_run != DryRun::Skip, "{phase} with {before:?}");
            assert!(!matches!(facts(phase).undo, Undo::AlwaysUnless(_)), "{phase} stops workers with {before:?}");
        }
    }
}

/// The places where a phase may be named: its row, the plan, the match, its own file; and where rows of former versions are read. Everything
/// else goes by the facts.
#[test]
fn a_phase_is_named_where_it_belongs_and_nowhere_else() {
    let allowed = [
        "api/phase.rs",
        "api/portal/workers.rs",
        "release/phases.rs",
        "release/plan.rs",
        "release/run.rs",
        "imports/mod.rs",
        "database/ledger/mod.rs",
    ];
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut folders = vec![std::path::PathBuf::from(source)];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
            let name = path.strip_prefix(source).unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !allowed.contains(&name.as_str()) && !name.starts_with("phases/") && !name.contains("tests") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                for phase in PhaseName::ALL {
                    let named = [format!("PhaseName::{phase}"), format!("'{phase}'"), format!("\"{phase}\"")];
                    let found = named.iter().find(|needle| code.contains(needle.as_str()));
                    assert!(found.is_none(), "{name} names {}: give the phase a fact in release/phases.rs instead", found.unwrap());
                }
            }
        }
    }
}

/// README's table is made of the phases' own words.
#[test]
fn the_readme_lists_every_phase() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let rows: Vec<String> = PhaseName::ALL.iter().map(|phase| format!("| `{phase}` | {} |", phase.summary())).collect();
    let table = format!("| phase | what it does |\n|---|---|\n{}\n", rows.join("\n"));
    assert!(readme.contains(&table), "README.md needs this table:\n{table}");
}

proptest! {
    #[test]
    fn a_plan_never_swaps_without_validation_and_freeze_and_always_thaws(only in proptest::collection::vec(0usize..16, 0..6), skip in proptest::collection::vec(0usize..16, 0..4), start in 0usize..20, stop in 0usize..20) {
        let pick = |indexes: &[usize]| indexes.iter().map(|&index| PhaseName::ALL[index]).collect::<Vec<_>>();
        let mut wanted = spec();
        wanted.phases.only = pick(&only);
        wanted.phases.skip = pick(&skip);
        wanted.phases.start_at = PhaseName::ALL.get(start).copied();
        wanted.phases.stop_after = PhaseName::ALL.get(stop).copied();
        let planned = runs(&planned_run(RunKind::Release, &portal(), &wanted));
        prop_assert!(planned.contains(&PhaseName::AcquireLock) && planned.contains(&PhaseName::ReleaseLock));
        if planned.contains(&PhaseName::FinaliseSwap) {
            prop_assert!(planned.contains(&PhaseName::ValidateAndManifest) && planned.contains(&PhaseName::Freeze));
        }
        if planned.contains(&PhaseName::Freeze) {
            prop_assert!(planned.contains(&PhaseName::Scale));
        }
    }
}
