//! docs/lint.md says of each rule what the code says, with a report that was really made.

use std::path::Path;

use super::{cases, report_of};

/// A row of the table, as it has to be.
fn row(case: &super::Case) -> String {
    let info = case.rule.info();
    let report = report_of(case);
    format!(
        "| `{}` | {} | {} | {} | {} | `{}: {}` |",
        info.id, info.severity, info.what, info.why, info.section, report.about, report.text
    )
}

#[test]
fn the_table_of_rules_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/lint.md");
    let text = std::fs::read_to_string(path).expect("docs/lint.md");
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let mut expected: Vec<_> = cases().map(|case| (case.rule, row(case))).collect();
    expected.sort_by_key(|(rule, _)| *rule);
    let expected: Vec<String> = expected.into_iter().map(|(_, row)| row).collect();
    assert!(
        rows == expected,
        "the rows of docs/lint.md are to be:\n{}",
        expected.join("\n")
    );
}
