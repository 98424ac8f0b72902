//! Enums whose values have a name in specs, statuses and the ledger.

/// Makes an enum of plain names: `ALL`, `as_str`, `parse`, [`FromStr`](std::str::FromStr) and [`Display`](std::fmt::Display) beside
/// what the API's types derive. The name is the variant's own.
macro_rules! named_enum {
    ($(#[$meta:meta])* pub enum $enum:ident { $($(#[$variant_meta:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $enum { $($(#[$variant_meta])* $variant),+ }

        impl $enum {
            /// Every value, in order.
            pub const ALL: [Self; [$(stringify!($variant)),+].len()] = [$(Self::$variant),+];

            /// The name used in specs, status and the ledger.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }

            /// The value of that name, if there is one.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|value| value.as_str() == name)
            }
        }

        // By hand: the derive gives it a description, which would replace that of each optional field of this type.
        impl schemars::JsonSchema for $enum {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($enum).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": Self::ALL.map(Self::as_str) })
            }
        }

        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $enum {
            type Err = $crate::api::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Self::parse(name).ok_or_else(|| $crate::api::UnknownName { kind: stringify!($enum), name: name.to_owned() })
            }
        }
    };
}
pub(crate) use named_enum;

/// A name that an enum of the API does not have, such as one from a newer version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a {kind} that this version knows")]
pub struct UnknownName {
    /// The enum.
    pub kind: &'static str,
    /// What was read.
    pub name: String,
}
