use portal_release_operator::database::import::KeyRange;
use portal_release_operator::database::template::{ReleaseVariables, TemplateContext, TemplateError};

use super::{assert_says, owned};

fn portal() -> TemplateContext {
    TemplateContext {
        schema: "public".to_owned(),
        tables: owned(&["areas"]),
        lookups: owned(&["designations"]),
        views: owned(&["portal_points"]),
        create_staging: true,
        release: ReleaseVariables { label: "Jul2026".to_owned(), date: "2026-07-01".to_owned(), id: "17".to_owned() },
        sample: None,
    }
}

fn sql(source: &str) -> String {
    portal().render("areas", source, None).unwrap().sql
}

fn error(source: &str) -> TemplateError {
    portal().render("areas", source, None).unwrap_err()
}

#[test]
fn names_are_quoted_in_the_right_generation() {
    assert_eq!(sql("SELECT * FROM {{ staging('areas') }} ;\n"), "SELECT * FROM \"public\".\"staging_areas\"");
    assert_eq!(sql("{{ staging(\"designations\") }}"), "\"public\".\"staging_designations\"");
    assert_eq!(sql("{{ staging('portal_points') }}"), "\"public\".\"staging_portal_points\"");
    assert_eq!(sql("{{ live('areas') }} {{ live('o\"dd') }}"), "\"public\".\"areas\" \"public\".\"o\"\"dd\"");
    let without = TemplateContext { create_staging: false, ..portal() };
    let rendered = without.render("areas", "{{ staging('portal_points') }}, {{ staging('areas') }}", None).unwrap();
    assert_eq!(rendered.sql, "\"public\".\"portal_points\", \"public\".\"staging_areas\"");
}

#[test]
fn variables_are_there() {
    assert_eq!(sql("a_{{ release.date }}_{{ release.label }}_{{ release.id }}.csv"), "a_2026-07-01_Jul2026_17.csv");
    assert_eq!(sql("SELECT 1 LIMIT {{ sample }}"), "SELECT 1 LIMIT NULL");
    let sampled = TemplateContext { sample: Some(10), ..portal() };
    assert_eq!(sampled.render("areas", "{% if sample %}LIMIT {{ sample }}{% endif %}", None).unwrap().sql, "LIMIT 10");
    assert_eq!(sql("a <> '<b>' AND \"q\""), "a <> '<b>' AND \"q\"");
}

#[test]
fn a_range_is_rendered_and_noticed() {
    let range = KeyRange { index: 1, lower: Some("1".into()), upper: Some("9".into()), type_name: "bigint".into(), bytewise: false };
    let source = "SELECT * FROM p WHERE {{ range(\"p.id\") }}";
    let rendered = portal().render("areas", source, Some(&range)).unwrap();
    assert_eq!(rendered.sql, "SELECT * FROM p WHERE ((p.id) >= '1'::bigint AND (p.id) < '9'::bigint)");
    assert!(rendered.used_range);
    let rendered = portal().render("areas", source, None).unwrap();
    assert_eq!((rendered.sql.as_str(), rendered.used_range), ("SELECT * FROM p WHERE TRUE", true));
    assert!(!portal().render("areas", "SELECT 1", Some(&range)).unwrap().used_range);
}

#[test]
fn mistakes_have_a_name_and_a_line() {
    let unknown = error("SELECT *\nFROM {{ staging('area') }}");
    assert_says(&unknown, &["template areas, line 2", "\"area\"", "areas, designations, portal_points"]);
    assert_says(error("\n\n{{ relaese.label }}"), &["template areas, line 3", "undefined"]);
    assert_says(error("{{ release.lable }}"), &["template areas, line 1", "undefined", "release.label"]);
    assert_says(error("{% if smaple %}x{% endif %}"), &["line 1", "undefined"]);
    assert_says(error("SELECT 1\n{% include 'other' %}"), &["template areas, line 2"]);
    assert_says(error("{{ staging() }}"), &["template areas, line 1", "missing"]);
    assert_says(error("{# nothing #}  "), &["template areas renders nothing"]);
}

#[test]
fn sql_with_braces_needs_raw_and_the_error_says_so() {
    assert_says(error("SELECT 1,\n'{{1,2},{3,4}}'::int[]"), &["template areas, line 2", "{% raw %}"]);
    assert_says(error("SELECT '{%'"), &["template areas, line 1", "{% raw %}...{% endraw %}"]);
    assert_says(error("{{ {{ release.id }} }}"), &["line 1"]);
    assert_eq!(sql("SELECT {% raw %}'{{1,2},{3,4}}'{% endraw %}::int[]"), "SELECT '{{1,2},{3,4}}'::int[]");
    assert_eq!(sql("a LIKE '%x%' AND b % 2 = 0 AND c = '{1,2}'"), "a LIKE '%x%' AND b % 2 = 0 AND c = '{1,2}'");
    assert_eq!(sql("{{ '{{' }} }}"), "{{ }}");
}

#[test]
fn a_template_cannot_grow_without_end() {
    let text = "x".repeat(2000);
    let loops = format!("{{% set t = '{text}' %}}{{% for a in t %}}{{% for b in t %}}{{{{ t }}}}{{% endfor %}}{{% endfor %}}");
    assert!(matches!(error(&loops), TemplateError::TooLong { .. }));
    let endless = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert_says(error(endless), &["template areas", "recursion"]);
}
