//! Fault injection for tests: halts a phase at its beginning or just before its end commits, so that a test can kill the process
//! there. Without `--halt-at` it does nothing.

use std::sync::Mutex;

use crate::api::PhaseName;

/// Where to halt.
#[derive(Debug, Default)]
pub struct Faults {
    points: Mutex<Vec<(PhaseName, String)>>,
}

impl Faults {
    /// Parses `Phase:begin` and `Phase:end`.
    ///
    /// # Errors
    /// When a point is neither.
    pub fn parse(points: &[String]) -> Result<Self, String> {
        let parse = |text: &String| {
            let (phase, place) = text.split_once(':').unwrap_or((text, ""));
            let phase = PhaseName::parse(phase).filter(|_| place == "begin" || place == "end");
            phase.map(|phase| (phase, place.to_owned())).ok_or_else(|| format!("--halt-at {text}: give Phase:begin or Phase:end"))
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
