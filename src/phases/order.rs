//! The order of imports: each comes after those that it depends on.

use super::PhaseError;
use crate::api::Import;

/// The imports so that each comes after those it depends on, otherwise in the Portal's order.
pub(super) fn in_order(imports: &[(Import, Option<String>)]) -> Result<Vec<(&Import, Option<&String>)>, PhaseError> {
    let here = |name: &str| imports.iter().any(|(import, _)| import.name.as_str() == name);
    let mut waiting: Vec<_> = imports.iter().map(|(import, source)| (import, source.as_ref())).collect();
    let mut ordered: Vec<(&Import, Option<&String>)> = Vec::new();
    while !waiting.is_empty() {
        let ready = |import: &Import| {
            import.depends_on.iter().all(|needed| !here(needed.as_str()) || ordered.iter().any(|(done, _)| done.name == *needed))
        };
        let Some(position) = waiting.iter().position(|(import, _)| ready(import)) else {
            let names: Vec<&str> = waiting.iter().map(|(import, _)| import.name.as_str()).collect();
            return Err(PhaseError::Refused(format!(
                "imports {} depend on each other in a circle; correct dependsOn in the Portal",
                names.join(", ")
            )));
        };
        ordered.push(waiting.remove(position));
    }
    Ok(ordered)
}
