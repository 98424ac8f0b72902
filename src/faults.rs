//! Fault injection for tests: halts a phase, or its undo, at its beginning or just before its end commits, so that a test
//! can kill the process there. Without `--halt-at` it does nothing.

use std::sync::Mutex;

use crate::api::PhaseName;

/// A phase's beginning and end, those of its taking back, and the moment before it creates a Job.
const PLACES: [&str; 5] = ["begin", "end", "undo", "undone", "job"];

/// Where to halt.
#[derive(Debug, Default)]
pub struct Faults {
    points: Mutex<Vec<(PhaseName, String)>>,
}

impl Faults {
    /// Parses `Phase:place`.
    ///
    /// # Errors
    /// When a point is neither.
    pub fn parse(points: &[String]) -> Result<Self, String> {
        let parse = |text: &String| {
            let (phase, place) = text.split_once(':').unwrap_or((text, ""));
            let phase = PhaseName::parse(phase).filter(|_| PLACES.contains(&place));
            phase
                .map(|phase| (phase, place.to_owned()))
                .ok_or_else(|| format!("--halt-at {text}: give a phase and one of {}, such as Freeze:begin", PLACES.join(", ")))
        };
        Ok(Self { points: Mutex::new(points.iter().map(parse).collect::<Result<_, _>>()?) })
    }

    /// Halts here for good, if this is a point; each point halts once.
    pub async fn reach(&self, phase: PhaseName, place: &str) {
        let hit = {
            let Ok(mut points) = self.points.lock() else { return };
            let position = points.iter().position(|(at, where_)| *at == phase && where_ == place);
            position.map(|position| points.remove(position)).is_some()
        };
        if hit {
            tracing::warn!(phase = phase.as_str(), place, "halted at {phase}:{place} by --halt-at");
            std::future::pending::<()>().await;
        }
    }
}
