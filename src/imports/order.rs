//! The order of imports: each comes after those that it depends on.

use crate::{
    api::{Import, Imports},
    work::{PhaseError, definition::ResolvedImport},
};

/// Checks whether every import can run after those that it depends on.
///
/// # Errors
/// With a sentence about what cannot be.
pub(crate) fn check(imports: &Imports) -> Result<(), PhaseError> {
    let is_in = |list: &[Import], name: &str| list.iter().any(|import| import.name.as_str() == name);
    for (import, is_core) in imports.core.iter().map(|import| (import, true)).chain(imports.related.iter().map(|import| (import, false))) {
        for needed in &import.depends_on {
            let problem = if is_in(&imports.core, needed.as_str()) || (!is_core && is_in(&imports.related, needed.as_str())) {
                continue;
            } else if is_in(&imports.related, needed.as_str()) {
                "which is in imports.related and comes later; move one of them, or correct dependsOn in the Portal"
            } else {
                "and the Portal has no import of that name; correct dependsOn in the Portal"
            };
            return Err(PhaseError::Refused(format!("import {} depends on {needed}, {problem}", import.name)));
        }
    }
    for imports in [&imports.core, &imports.related] {
        let imports: Vec<ResolvedImport> = imports.iter().map(ResolvedImport::without_texts).collect();
        in_order(&imports)?;
    }
    Ok(())
}

/// The imports so that each comes after those it depends on, otherwise in the Portal's order. What is not among them is done already.
///
/// # Errors
/// When they depend on each other in a circle.
pub(crate) fn in_order(imports: &[ResolvedImport]) -> Result<Vec<&ResolvedImport>, PhaseError> {
    let here = |name: &str| imports.iter().any(|one| one.import.name.as_str() == name);
    let mut waiting: Vec<&ResolvedImport> = imports.iter().collect();
    let mut ordered: Vec<&ResolvedImport> = Vec::new();
    while !waiting.is_empty() {
        let ready = |import: &Import| {
            import.depends_on.iter().all(|needed| !here(needed.as_str()) || ordered.iter().any(|done| done.import.name == *needed))
        };
        let Some(position) = waiting.iter().position(|one| ready(&one.import)) else {
            let names: Vec<&str> = waiting.iter().map(|one| one.import.name.as_str()).collect();
            return Err(PhaseError::Refused(format!(
                "imports {} depend on each other in a circle; correct dependsOn in the Portal",
                names.join(", ")
            )));
        };
        ordered.push(waiting.remove(position));
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn imports(core: &[(&str, &[&str])], related: &[(&str, &[&str])]) -> Imports {
        let one =
            |(name, needs): &(&str, &[&str])| json!({"name": name, "into": "t", "dependsOn": needs, "csv": {"url": "http://x/a.csv"}});
        let list = |list: &[(&str, &[&str])]| Value::Array(list.iter().map(one).collect());
        serde_json::from_value(json!({"core": list(core), "related": list(related)})).unwrap()
    }

    #[test]
    fn files_come_after_what_they_depend_on() {
        let imports = imports(&[], &[("c", &["b"]), ("a", &[]), ("b", &["a", "elsewhere"])]);
        let imports: Vec<ResolvedImport> = imports.related.iter().map(ResolvedImport::without_texts).collect();
        let names: Vec<&str> = in_order(&imports).unwrap().iter().map(|one| one.import.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert!(check(&imports(&[("a", &[]), ("b", &["a"])], &[("c", &["a", "d"]), ("d", &["b"])])).is_ok());
        for (wrong, says) in [
            (imports(&[("a", &["nobody"])], &[]), "import a depends on nobody, and the Portal has no import of that name"),
            (imports(&[("a", &["c"])], &[("c", &[])]), "import a depends on c, which is in imports.related"),
            (imports(&[("a", &["a"])], &[]), "imports a depend on each other in a circle"),
            (imports(&[], &[("x", &[]), ("c", &["d"]), ("d", &["c"])]), "imports c, d depend on each other in a circle"),
        ] {
            let error = check(&wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
