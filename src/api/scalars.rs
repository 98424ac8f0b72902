//! Small validated scalars. Each is a string on the wire with a pattern and a bound in the schema.

use std::{fmt, time::Duration as StdDuration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Makes a transparent string type whose schema is bounded and matches a pattern.
macro_rules! bounded_string {
    ($(#[$doc:meta])* $name:ident, max = $max:literal, pattern = $pattern:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[schemars(inline)]
        pub struct $name(#[schemars(length(min = 1, max = $max), regex(pattern = $pattern))] pub String);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

bounded_string! {
    /// A Postgres identifier that needs no quotes: lower case, digits and underscores.
    Identifier, max = 63, pattern = r"^[a-z_][a-z0-9_]{0,62}$"
}
bounded_string! {
    /// A short name inside a list, such as an import's or a gate's.
    ItemName, max = 63, pattern = r"^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$"
}
bounded_string! {
    /// The name of a Kubernetes object in the same namespace.
    ObjectName, max = 253, pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
}
bounded_string! {
    /// A key in a Secret or a ConfigMap.
    DataKey, max = 253, pattern = r"^[-._a-zA-Z0-9]+$"
}
bounded_string! {
    /// A release's label, such as `Jul2026`; the Portal's `labelPattern` narrows it further.
    Label, max = 63, pattern = r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$"
}
bounded_string! {
    /// A SQL query, or a template of one.
    Sql, max = 32768, pattern = r"\S"
}
bounded_string! {
    /// A Go-style duration such as `30s`, `5m` or `24h`.
    Duration, max = 20, pattern = r"^([0-9]{1,6}(ms|s|m|h))+$"
}
bounded_string! {
    /// A share such as `5%` or `0.5%`.
    Percentage, max = 8, pattern = r"^(100|[0-9]{1,2}(\.[0-9]{1,3})?)%$"
}
bounded_string! {
    /// An amount of memory as a Kubernetes quantity, such as `256Mi` or `2Gi`; `MB` and `GB` are Postgres' names for the same.
    Memory, max = 10, pattern = r"^[1-9][0-9]{0,6}(Mi|Gi|MB|GB)$"
}

impl Memory {
    /// How many mebibytes, which Postgres writes as `MB`. The schema admits only what parses; anything else counts as zero.
    pub fn get(&self) -> u64 {
        let digits = |units: [&str; 2]| units.into_iter().find_map(|unit| self.0.strip_suffix(unit));
        let (digits, factor) =
            digits(["Mi", "MB"]).map(|digits| (digits, 1)).or(digits(["Gi", "GB"]).map(|digits| (digits, 1024))).unwrap_or_default();
        digits.parse::<u64>().map_or(0, |number| number * factor)
    }
}

impl Duration {
    /// The length of time. The schema admits only what parses; anything else counts as zero.
    pub fn get(&self) -> StdDuration {
        let mut total = StdDuration::ZERO;
        let mut number = 0u64;
        let mut rest = self.0.chars().peekable();
        while let Some(c) = rest.next() {
            if let Some(digit) = c.to_digit(10) {
                number = number.saturating_mul(10).saturating_add(u64::from(digit));
                continue;
            }
            let unit = match (c, rest.peek()) {
                ('m', Some('s')) => {
                    rest.next();
                    StdDuration::from_millis(number)
                }
                ('s', _) => StdDuration::from_secs(number),
                ('m', _) => StdDuration::from_secs(number.saturating_mul(60)),
                ('h', _) => StdDuration::from_secs(number.saturating_mul(3600)),
                _ => StdDuration::ZERO,
            };
            total = total.saturating_add(unit);
            number = 0;
        }
        total
    }
}

impl Percentage {
    /// The share as a fraction from 0 to 1.
    pub fn fraction(&self) -> f64 {
        self.0.trim_end_matches('%').parse::<f64>().unwrap_or(0.0) / 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_their_parts() {
        for (text, millis) in [("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000), ("200ms", 200), ("1m1s1ms", 61_001)] {
            assert_eq!(Duration::from(text).get(), StdDuration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn memory_is_counted_in_mebibytes() {
        for (text, mebibytes) in [("256Mi", 256), ("2Gi", 2048), ("256MB", 256), ("2GB", 2048), ("2kB", 0), ("MB", 0)] {
            assert_eq!(Memory::from(text).get(), mebibytes, "{text}");
        }
    }

    #[test]
    fn percentages_become_fractions() {
        assert!((Percentage::from("5%").fraction() - 0.05).abs() < 1e-9);
        assert!((Percentage::from("0.5%").fraction() - 0.005).abs() < 1e-9);
    }
}
