//! What the code relies on in the database.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::named_enum;

/// Functions and tables that the portal's code relies on. In a gate `{}` means `spec.contract`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Contract {
    /// Functions that must exist as described. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    // Overloads have one name, and `arguments` may be absent: there is no key.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub functions: Vec<ContractFunction>,
    /// Tables and views that must exist with these columns. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["schema".to_string(), "name".to_string()]))]
    pub tables: Vec<ContractTable>,
}

impl Contract {
    /// It asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.tables.is_empty()
    }
}

/// A function or procedure that must exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContractFunction {
    /// Its schema.
    #[schemars(length(min = 1, max = 63))]
    pub schema: String,
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The types of its arguments as SQL writes them, such as `text, integer`. Default: it takes none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub arguments: String,
    /// What it must return, such as `SETOF ops.jobs`. Default: anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub returns: Option<String>,
    /// Its volatility. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volatility: Option<Volatility>,
    /// `true`: it must be SECURITY DEFINER; `false`: it must not be. Default: either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_definer: Option<bool>,
    /// How it must set its own `search_path`: `Fixed`, to anything; `Empty`, to nothing, so that every name in it is qualified. Default:
    /// it need not set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search_path: Option<FunctionSearchPath>,
    /// Roles that must be allowed to execute it. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub execute: Vec<String>,
}

named_enum! {
    /// Volatility of a function.
    pub enum Volatility {
        /// VOLATILE
        Volatile,
        /// STABLE
        Stable,
        /// IMMUTABLE
        Immutable,
    }
}

named_enum! {
    /// How a function sets its own `search_path`.
    pub enum FunctionSearchPath {
        /// To anything: it does not depend on the caller's.
        Fixed,
        /// To nothing: every name in it is qualified.
        Empty,
    }
}

/// A table or view that must exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ContractTable {
    /// Its schema.
    #[schemars(length(min = 1, max = 63))]
    pub schema: String,
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Columns that it must have; it may have more. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub columns: Vec<ContractColumn>,
}

/// A column that must exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContractColumn {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Its type as SQL writes it, such as `bigint` or `geometry(Point,4326)`. Default: any.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub type_name: Option<String>,
}
