//! Functions and tables that code relies on.

use sqlx::PgConnection;

use super::{
    Answer,
    sql::{read_only, refused},
};
use crate::{
    api::{Contract, ContractFunction, ContractTable, FunctionSearchPath, Volatility},
    finding::{Finding, listed},
    text::counted,
};

/// At most this many differences are named.
const NAMED: usize = 8;

/// Evaluates whether functions and tables are as described.
pub async fn ask(connection: &mut PgConnection, object: &str, contract: &Contract) -> Answer {
    if contract.is_empty() {
        return Answer::NoData(Finding::fail(
            object,
            "failed: the contract names no function and no table",
            "fill spec.contract of the Portal",
        ));
    }
    let query = async |connection: &mut PgConnection| {
        let mut differences = Vec::new();
        for wanted in &contract.functions {
            differences.extend(function(connection, wanted).await?);
        }
        for wanted in &contract.tables {
            differences.extend(table(connection, wanted).await?);
        }
        Ok(differences)
    };
    match read_only(connection, query).await {
        Err(error) => refused(object, "contract", &error),
        Ok(differences) if differences.is_empty() => Answer::Passed(format!(
            "{} and {} are as described",
            counted(contract.functions.len(), "function"),
            counted(contract.tables.len(), "table")
        )),
        Ok(differences) => Answer::Failed(Finding::fail(
            object,
            format!("failed: {}", listed(&differences, NAMED)),
            "change the database, or correct the contract in the Portal",
        )),
    }
}

#[derive(sqlx::FromRow)]
struct Found {
    result: String,
    returns_as_wanted: bool,
    volatility: String,
    security_definer: bool,
    search_path: Option<String>,
}

/// How a function differs from what is wanted.
async fn function(connection: &mut PgConnection, wanted: &ContractFunction) -> Result<Vec<Finding>, sqlx::Error> {
    let name = format!("function {}.{}({})", wanted.schema, wanted.name, wanted.arguments);
    let differs = |problem: String| Finding::fail(&name, problem, "");
    let found: Option<Found> = sqlx::query_as(
        "SELECT coalesce(pg_get_function_result(p.oid), '') AS result,
                pg_get_function_result(p.oid) IS NOT DISTINCT FROM $4
                    OR (NOT p.proretset AND coalesce(to_regtype($4) = p.prorettype, false)) AS returns_as_wanted,
                CASE p.provolatile WHEN 'i' THEN 'Immutable' WHEN 's' THEN 'Stable' ELSE 'Volatile' END AS volatility,
                p.prosecdef AS security_definer,
                (SELECT substr(setting, length('search_path=') + 1) FROM unnest(p.proconfig) AS setting
                 WHERE starts_with(setting, 'search_path=')) AS search_path
         FROM pg_proc p WHERE p.oid = to_regprocedure(format('%I.%I(%s)', $1::text, $2::text, $3::text))",
    )
    .bind(&wanted.schema)
    .bind(&wanted.name)
    .bind(&wanted.arguments)
    .bind(&wanted.returns)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(found) = found else { return Ok(vec![differs("does not exist".to_owned())]) };
    let mut differences = Vec::new();
    if let Some(returns) = wanted.returns.as_ref().filter(|_| !found.returns_as_wanted) {
        differences.push(differs(format!("returns {}, expected {returns}", found.result)));
    }
    if let Some(volatility) = wanted.volatility.map(Volatility::as_str).filter(|wanted| *wanted != found.volatility) {
        differences.push(differs(format!("is {}, expected {volatility}", found.volatility)));
    }
    if let Some(definer) = wanted.security_definer.filter(|wanted| *wanted != found.security_definer) {
        differences.push(differs(
            if definer { "is SECURITY INVOKER, expected SECURITY DEFINER" } else { "is SECURITY DEFINER, expected SECURITY INVOKER" }
                .to_owned(),
        ));
    }
    let path = found.search_path.as_deref();
    match wanted.search_path {
        Some(FunctionSearchPath::Fixed) if path.is_none() => differences.push(differs("does not set its search_path".to_owned())),
        Some(FunctionSearchPath::Empty) if !matches!(path, Some("" | "\"\"")) => {
            differences.push(differs("does not set its search_path to nothing".to_owned()));
        }
        _ => {}
    }
    if !wanted.execute.is_empty() {
        let lacking: Vec<String> = sqlx::query_scalar(
            "SELECT wanted.role FROM unnest($4::text[]) AS wanted(role) LEFT JOIN pg_roles r ON r.rolname = wanted.role
             WHERE NOT coalesce(has_function_privilege(r.oid, to_regprocedure(format('%I.%I(%s)', $1::text, $2::text, $3::text)), 'EXECUTE'), false)",
        )
        .bind(&wanted.schema)
        .bind(&wanted.name)
        .bind(&wanted.arguments)
        .bind(&wanted.execute)
        .fetch_all(connection)
        .await?;
        differences.extend(lacking.iter().map(|role| differs(format!("may not be executed by {role}"))));
    }
    Ok(differences)
}

/// How a table differs from what is wanted.
async fn table(connection: &mut PgConnection, wanted: &ContractTable) -> Result<Vec<Finding>, sqlx::Error> {
    let name = format!("table {}.{}", wanted.schema, wanted.name);
    let oid: Option<sqlx::postgres::types::Oid> = sqlx::query_scalar(
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
    )
    .bind(&wanted.schema)
    .bind(&wanted.name)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(oid) = oid else { return Ok(vec![Finding::fail(name, "does not exist", "")]) };
    let mut differences = Vec::new();
    for column in &wanted.columns {
        let found: Option<(String, bool)> = sqlx::query_as(
            "SELECT format_type(atttypid, atttypmod),
                    $3::text IS NULL OR format_type(atttypid, atttypmod) = $3 OR (atttypmod = -1 AND coalesce(to_regtype($3) = atttypid, false))
             FROM pg_attribute WHERE attrelid = $1 AND attname = $2 AND attnum > 0 AND NOT attisdropped",
        )
        .bind(oid)
        .bind(&column.name)
        .bind(&column.type_name)
        .fetch_optional(&mut *connection)
        .await?;
        let column_of = format!("column {} of {name}", column.name);
        match found {
            None => differences.push(Finding::fail(column_of, "does not exist", "")),
            Some((_, true)) => {}
            Some((found, false)) => {
                let wanted = column.type_name.as_deref().unwrap_or_default();
                differences.push(Finding::fail(column_of, format!("is {found}, expected {wanted}"), ""));
            }
        }
    }
    Ok(differences)
}
