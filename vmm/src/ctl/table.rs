//! Answers for people: what is single as lines, what is many as tables.

use serde_json::{Map, Value};

/// An answer as text: members that are one value, one a line, then lists of objects as tables.
#[must_use]
pub fn table(answer: &Value) -> String {
    let mut text = String::new();
    section(&mut text, "", answer);
    text
}

fn section(text: &mut String, name: &str, value: &Value) {
    match value {
        Value::Object(members) => object(text, name, members),
        Value::Array(rows) => rows_of(text, name, rows),
        other => *text += &format!("{name}  {}\n", cell(other)),
    }
}

fn object(text: &mut String, name: &str, members: &Map<String, Value>) {
    let is_line = |value: &Value| is_plain(value);
    let lines: Vec<_> = members.iter().filter(|(_, value)| is_line(value)).collect();
    head(text, name);
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in &lines {
        *text += &format!("{name:<width$}  {}\n", cell(value));
    }
    for (inner, value) in members.iter().filter(|(_, value)| !is_line(value)) {
        section(text, inner, value);
    }
}

fn head(text: &mut String, name: &str) {
    if !name.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        *text += &format!("{name}:\n");
    }
}

/// Whether a value stands on one line.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Object(_) => false,
        Value::Array(values) => values.iter().all(|value| !value.is_object()) && !values.is_empty(),
        _ => true,
    }
}

/// Rows of objects: those that have lists themselves one after the other, else as a table whose
/// columns are all members that one of them has.
fn rows_of(text: &mut String, name: &str, rows: &[Value]) {
    let objects: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).collect();
    let has_lists = |row: &&Map<String, Value>| !row.values().all(is_flat);
    if objects.iter().any(has_lists) {
        for row in objects {
            object(text, name, row);
        }
        return;
    }
    head(text, name);
    let mut columns: Vec<&String> = Vec::new();
    for column in objects.iter().flat_map(|row| row.keys()) {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    // Who it is about comes first.
    columns.sort_by_key(|column| {
        let first = [
            "controller",
            "sqid",
            "nsid",
            "fid",
            "operation",
            "command",
            "name",
        ];
        first
            .iter()
            .position(|name| name == column)
            .unwrap_or(first.len())
    });
    let lines: Vec<Vec<String>> = objects
        .iter()
        .map(|row| {
            let cells = columns
                .iter()
                .map(|column| row.get(*column).map_or(String::new(), cell));
            cells.collect()
        })
        .collect();
    let heads: Vec<String> = columns.iter().map(|column| (*column).clone()).collect();
    let width = |index: usize| {
        let all = lines.iter().chain([&heads]);
        let cells = all.filter_map(|line| line.get(index));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for line in [&heads].into_iter().chain(&lines) {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        *text += line.trim_end();
        text.push('\n');
    }
}

/// Whether a value is a cell of a table.
fn is_flat(value: &Value) -> bool {
    is_plain(value) || value.as_array().is_some_and(Vec::is_empty)
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_come_before_tables_and_columns_are_of_all_rows() {
        let answer = json!({
            "errors": 3,
            "queues": [{ "sqid": 0, "admin": 20 }, { "sqid": 1, "read": 7, "errors": 1 }],
            "formats": [512, 4096],
        });
        assert_eq!(
            table(&answer),
            "errors   3\n\
             formats  512,4096\n\
             \n\
             queues:\n\
             sqid  admin  errors  read\n\
             0     20\n\
             1            1       7\n"
        );
    }

    #[test]
    fn rows_with_tables_of_their_own_follow_each_other() {
        let answer = json!({ "controllers": [{ "polls": 1, "queues": [{ "sqid": 1 }] }] });
        assert_eq!(
            table(&answer),
            "controllers:\npolls  1\n\nqueues:\nsqid\n1\n"
        );
    }
}
